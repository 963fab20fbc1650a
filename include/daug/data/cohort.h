#pragma once
/// @file
/// Cohorts of radiographs on disk: `labels.csv` with optional `boxes.csv` and `meta.csv`, checked while they are read.

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/box.h"
#include "daug/data/labels.h"

namespace daug {

/// The three splits, in the order used throughout.
inline constexpr std::array<const char*, 3> kSplits = {"train", "val", "test"};

/// A reader's box around a finding.
struct FindingBox {
  std::string finding;     ///< as in the file; need not be a label of the cohort
  Box box;                 ///< in pixels of the image file; width and height > 0
  std::string annotation;  ///< who drew it; blank when the file does not say
};

/// One image with everything the cohort's files say about it. Paths are absolute.
struct Study {
  std::string id;                                           ///< unique in the cohort
  std::string path;                                         ///< image file
  std::string split;                                        ///< "train", "val" or "test"
  std::string patient_id;                                   ///< never in two splits
  std::string view;                                         ///< e.g. "PA"; may be blank
  std::string source;                                       ///< data set it comes from; may be blank
  std::vector<LabelState> labels;                           ///< in the order of Cohort::findings
  std::vector<LabelState> other_labels;                     ///< of columns left out that may be labels, in file order
  std::optional<LabelState> no_finding;                     ///< the file's No_Finding, where there is such a column
  std::string report;                                       ///< blank: none
  std::map<std::size_t, std::string> mask_paths;            ///< by finding index
  std::map<std::size_t, std::string> counterfactual_paths;  ///< by finding index: that finding alone removed
  std::string counterfactual_path;                          ///< all findings removed; blank: none
  std::vector<FindingBox> boxes;                            ///< in the order of boxes.csv
  std::map<std::string, std::string> meta;  ///< columns of meta.csv and further columns of labels.csv, blanks left out
  std::size_t line = 0;                     ///< of labels.csv, counted from 1; 0: from no file

  /// The cell of a column of `meta`; blank for one that is not there. The columns that have members of their own
  /// (patient_id, view, source) are found only as far as meta.csv repeats them.
  const std::string& meta_value(const std::string& column) const;
};

/// Studies in the order of labels.csv.
struct Cohort {
  std::string folder;                 ///< absolute
  std::vector<std::string> findings;  ///< label columns, in file order or as asked for
  std::vector<Study> studies;         ///< in the order of labels.csv
  bool has_reports = false;           ///< at least one study has a report

  /// Index of a finding; throws kNotFound listing the findings there are.
  std::size_t finding_index(const std::string& finding) const;
  /// Indices of the studies of a split, in order; throws kInvalidArgument for an unknown split name.
  std::vector<std::size_t> split_indices(const std::string& split) const;
};

/// Fractions of a patient-disjoint split; the rest is for training.
struct SplitOptions {
  double val_fraction = 0.1;   ///< of the images, in [0, 1)
  double test_fraction = 0.2;  ///< of the images, in [0, 1)
  std::uint64_t seed = 0;      ///< which split

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// How to read a cohort.
struct CohortOptions {
  std::vector<std::string> findings;      ///< which label columns, in which order; empty: all
  std::vector<std::string> meta_columns;  ///< columns of labels.csv that are neither labels nor known by name
  std::vector<std::string> required_splits = {"train", "val", "test"};  ///< none of these may be empty
  bool check_files = true;   ///< every mask and counterfactual must exist; false: loading them finds out
  bool check_images = true;  ///< the same for the images themselves
  SplitOptions split;        ///< for a cohort whose split column is blank throughout

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Reads the cohort in `folder`.
///
/// `labels.csv` needs the columns id, path, split (train, val or test; valid, validate and validation mean val) and
/// patient_id. Known by name: view, source, licence (or license),
/// report, No_Finding (or "No Finding"), `mask_<finding>`, `counterfactual_<finding>`, `counterfactual`. Every other
/// column is a finding whose cells are 1 / 0 / -1 / blank. Where the options name findings, columns that they leave out
/// may hold anything; one that holds nothing else than such cells is kept (Study::other_labels). `boxes.csv` (id,
/// finding, x, y, w, h, optional annotation_source) and `meta.csv` (id and anything) are read where present. Paths are
/// relative to `folder`.
///
/// Throws: kNotFound (folder, labels.csv, column, asked-for finding, study of a box or meta row, files: the first ones
/// and their number, with their lines); kFormat (a label that is none, a blank or repeated id, an unknown split, a box
/// without extent, a path that is absolute or leaves the folder), naming file, line and column; kMismatch (a patient in
/// two splits, with the lines; a required split that is empty).
Cohort read_cohort(const std::string& folder, const CohortOptions& options = {});

/// A patient or an image file that occurs in more than one split.
struct Leak {
  std::string what;                 ///< "patient P" or "image PATH"
  std::vector<std::string> splits;  ///< in the order of kSplits
};

/// Every leak, patients first, each sorted by name. Empty: none.
std::vector<Leak> leak_check(const Cohort& cohort);

/// A split of each image ("train", "val" or "test"), such that images of one patient share it.
///
/// Patients are taken in an order that depends on (seed, patient id) alone, so the result does not change with the
/// order of the images. Test is filled first, then val until both together hold what they should, exceeded by less than
/// one patient either time. Throws kInvalidArgument.
std::vector<std::string> patient_disjoint_split(const std::vector<std::string>& patient_ids,
                                                const SplitOptions& options = {});

/// What one split holds.
struct SplitSummary {
  std::string split;                                       ///< one of kSplits
  std::size_t images = 0;                                  ///< rows of labels.csv
  std::size_t patients = 0;                                ///< different ones
  std::size_t reports = 0;                                 ///< images with a report
  std::size_t no_finding = 0;                              ///< images with no positive and no uncertain finding
  std::vector<std::array<std::size_t, 4>> finding_states;  ///< [findings][state], states as in LabelState
  std::map<std::string, std::size_t> views;                ///< images by view
  std::vector<std::size_t> masks;                          ///< [findings] images with a mask
  std::vector<std::size_t> boxes;                          ///< [findings] images with a box of that finding
};

/// Counts for the data section of a report.
struct CohortSummary {
  std::vector<std::string> findings;               ///< in label order
  std::array<SplitSummary, 3> splits;              ///< in the order of kSplits
  std::size_t no_finding_conflicts = 0;            ///< No_Finding = 1 beside a positive finding
  std::map<std::string, std::size_t> other_boxes;  ///< boxes of findings that are no labels, by name
};

/// Counts a cohort.
CohortSummary summarise(const Cohort& cohort);

}  // namespace daug
