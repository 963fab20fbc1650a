#pragma once
/// @file
/// Do the maps help an encoder? The arms of the method over several seeds and shares of the labels, with paired
/// intervals of their differences.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/pipeline/run_config.h"
#include "daug/report/html_report.h"

namespace daug {

/// Which labels the diffusion model and its guide learn from.
enum class MapLabels {
  kEncoders,  ///< those that the encoders have, too: the maps know nothing more
  kAll,       ///< all of the training split, whatever the encoders have
};

/// Settings of run_arm_study.
struct ArmStudyOptions {
  /// Settings of every run, whose resamples are those of the study; `out` is the study's folder. The study sets seed,
  /// labelled, maps.train_images, encoder.arms and force.
  RunConfig base;
  std::vector<std::int64_t> seeds = {0, 1, 2, 3, 4};  ///< of runs, at least one, each once, >= 0
  std::vector<double> labelled = {10, 25, 50, 100};   ///< labelled training images, per cent in (0, 100], each once
  MapLabels map_labels = MapLabels::kEncoders;        ///< see MapLabels
  /// Every share trains the encoders for as many steps, but for the rounding of epochs: those of base.encoder.epochs
  /// passes over base.maps.train_images images (0: over all). Off, for as many epochs, and so for fewer steps the fewer
  /// labels there are.
  bool same_steps = false;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// A figure of an arm over the seeds.
struct ArmStudyMean {
  std::string figure;           ///< as in metrics.json: "classification.auroc_macro" or "retrieval.p_at_5"
  double labelled = 0;          ///< labelled training images, per cent
  std::string arm;              ///< as in metrics.json
  double mean = 0;              ///< over the seeds
  std::vector<double> by_seed;  ///< in the order of the seeds
};

/// How much higher a figure is in one arm than in another, over the seeds.
struct ArmStudyDifference {
  std::string figure;   ///< as in ArmStudyMean
  double labelled = 0;  ///< labelled training images, per cent
  std::string first,    ///< arm that should be better
      second;           ///< arm it is compared with; the difference is first - second
  double value = 0;     ///< mean over the seeds
  /// Lower end of a 95 % interval of `value`: a bootstrap over the patients of the test images, each resample the same
  /// for both arms and all seeds. NaN where no resample defines it.
  double low = 0,
         high = 0;  ///< its upper end
  /// Two-sided p of a swap test: the two arms' outputs of whole patients exchanged, of all seeds at once. Absent where
  /// the data do not define it.
  std::optional<double> p;
  std::optional<double> p_holm;  ///< the same corrected for the comparisons of this figure at this share of labels
  std::vector<double> by_seed;   ///< differences, in the order of the seeds
};

/// What a study found.
struct ArmStudyResult {
  std::string cohort,                           ///< its folder, or "phantoms"
      preset;                                   ///< that the runs' settings start from
  MapLabels map_labels = MapLabels::kEncoders;  ///< as asked for
  bool same_steps = false;                      ///< as asked for
  bool texts_from_labels = false;               ///< the cohort has no reports, so all texts are made from labels
  std::vector<std::int64_t> seeds;              ///< of the runs, as asked for
  std::int64_t images = 0,                      ///< of the test split
      patients = 0;                             ///< of the test split
  std::vector<std::string> evaluations;         ///< fingerprints, by share of labels, then seed
  std::vector<ArmStudyMean> means;              ///< by share of labels, then figure, then arm
  std::vector<ArmStudyDifference> differences;  ///< by share of labels, then figure, then pair of arms
};

/// Runs the pipeline up to its evaluation once for every seed and share of labels, in folders of their own inside
/// `base.out`, and compares the arms {image, image + difference, evidence or noise channels} x {image-text, hybrid
/// loss}: every kind of maps with the image alone and with noise, the hybrid with the image-text loss. Writes
/// arm_study.json, arm_study.md (tables) and figures/*.svg (learning curves) into that folder, atomically.
///
/// With MapLabels::kAll the diffusion model and its guide, which do not depend on the share, are trained once a seed.
///
/// Deterministic. A stopped study (kCancelled) goes on where it was when it is called again: runs and their stages that
/// are up to date are not redone. `say` gets lines for the log; may be empty. Throws what Run throws, and kMismatch for
/// runs whose test images are not the same and predictions of another evaluation than the run's.
ArmStudyResult run_arm_study(const ArmStudyOptions& options, const RunControl& control = {},
                             const std::function<void(const std::string&)>& say = {});

/// The tables of a study in Markdown, under what they are of: cohort, texts, preset, the labels behind the maps, and
/// fingerprints of the evaluations.
std::string arm_study_markdown(const ArmStudyResult& result);

/// Learning curves: a chart a figure with a line an arm, means over seeds against the share of labels, ascending. Empty
/// for a single share.
std::vector<LineChart> arm_study_charts(const ArmStudyResult& result);

/// The program: `--seeds`, `--labelled` (per cent), `--map-labels` and all settings of a run. Returns the exit status:
/// 0, 1 after an error, 2 for wrong arguments, 130 when stopped.
int arm_study_program(int argc, const char* const* argv);

}  // namespace daug
