#pragma once
/// @file
/// Synthetic frontal radiographs with known findings, masks and healthy counterfactuals: a ground truth that no real
/// data set has. Figures of trivial baselines on them: docs/phantom.md.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/data/labels.h"

namespace daug {

/// Which labels a phantom cohort's labels.csv holds.
enum class PhantomLabels {
  kTruth,       ///< 1 or 0: what was planted
  kFromReport,  ///< what the report says: hedged findings are -1, those it is silent about are blank
};

/// The labels called "truth" or "report". Throws kInvalidArgument for another name.
PhantomLabels phantom_labels(const std::string& name);

/// A phantom cohort of 1 to 10^7 images in all. Any field changes the cohort; equal options give equal files.
struct PhantomOptions {
  int size = 32;                                 ///< image width and height in pixels, in [32, 512]
  std::size_t train_images = 1700;               ///< images of the training split
  std::size_t val_images = 300;                  ///< images of the validation split
  std::size_t test_images = 300;                 ///< images of the test split
  double prevalence = 0.3;                       ///< probability of each finding, independent of the others, in [0, 1]
  double repeat_patients = 0.2;                  ///< fraction of patients with two or three images, in [0, 1]
  double mention_absent = 0.5;                   ///< probability that the report denies an absent finding, in [0, 1]
  double silent_present = 0.05;                  ///< probability that it is silent about a present one, in [0, 1]
  double hedge = 0.05;                           ///< probability that a mention is hedged ("possible"), in [0, 1]
  PhantomLabels labels = PhantomLabels::kTruth;  ///< what labels.csv holds
  std::uint64_t seed = 0;                        ///< which cohort

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// The six findings in label order: Effusion, Cardiomegaly, Nodule, Consolidation, Pneumothorax, Device.
const std::vector<std::string>& phantom_findings();

/// How a planted finding is put into words. A blank means that the word does not apply.
struct FindingDescription {
  std::string side;  ///< "right", "left" (the patient's) or "bilateral"
  std::string size;  ///< "small", "moderate", "large"
  std::string zone;  ///< "upper", "mid", "lower"
  std::string kind;  ///< e.g. "loculated", "pacemaker"
};

/// One planted finding. Images are row-major [size, size].
struct PlantedFinding {
  FindingDescription description;     ///< as the report may put it
  std::vector<float> counterfactual;  ///< the image with this finding alone removed; same pose, same noise
  std::vector<std::uint8_t> mask;     ///< 1 where |image - counterfactual| > max(0.06, a quarter of its maximum)
};

/// One phantom radiograph.
struct Phantom {
  int size = 0;                                   ///< width and height in pixels
  std::string id;                                 ///< "p00012_1"
  std::string patient_id;                         ///< "p00012"
  std::string view;                               ///< "PA" or "AP"
  std::vector<float> image;                       ///< [size, size], in [-1, 1]
  std::vector<float> healthy;                     ///< all findings removed
  std::map<std::size_t, PlantedFinding> planted;  ///< by finding index; the absent ones are not there
  std::vector<LabelState> truth;                  ///< positive or negative
  std::vector<LabelState> reported;               ///< what `report` says
  std::string report;                             ///< as a radiologist would dictate it

  /// The states asked for.
  const std::vector<LabelState>& labels(PhantomLabels which) const {
    return which == PhantomLabels::kTruth ? truth : reported;
  }
};

/// Draws one image of one patient.
///
/// A function of (options, patient, image) alone: anatomy depends on (seed, patient); pose, exposure, findings, noise
/// and report on (seed, patient, image); only the resolution depends on the size (box averages of a larger phantom
/// match a smaller one closely). Removing a finding changes nothing else, so image and counterfactual differ only where
/// the finding is. Throws what PhantomOptions::validate throws.
Phantom make_phantom(const PhantomOptions& options, std::uint64_t patient, std::uint64_t image);

/// Which image of which patient a cohort holds, and in which split.
struct PhantomSlot {
  std::uint64_t patient = 0;  ///< number of the patient, from 0 over all splits
  std::uint64_t image = 0;    ///< number among the patient's images, from 0
  std::string split;          ///< one of kSplits
};

/// The images of a cohort in file order: train, val, test, patients in order; no patient is in two splits.
/// Deterministic. Throws what PhantomOptions::validate throws.
std::vector<PhantomSlot> phantom_layout(const PhantomOptions& options);

/// Writes a cohort that read_cohort reads: images/, masks/FINDING/, counterfactual/, counterfactual/FINDING/ with 8-bit
/// PNG (grey = round((x + 1) 127.5)) and labels.csv, written last, so a folder without it is unfinished.
///
/// `folder` is created when absent. The files do not depend on the number of threads, in [1, 256]. Throws kIo when it
/// cannot be written, kCancelled on a stop (labels.csv is then absent), kInvalidArgument.
void write_phantom_cohort(const std::string& folder, const PhantomOptions& options, const RunControl& control = {},
                          int threads = 2);

}  // namespace daug
