#pragma once
// What classifiers, baselines and encoders among them, say about the test images.

#include <cstdint>
#include <string>
#include <vector>

#include "measurements.h"

namespace daug {

/// Bins of equal width of the calibration error.
inline constexpr int kCalibrationBins = 15;

/// Scores of a classifier, [images, findings] each.
struct ClassifierScores {
  std::vector<double> tests;       ///< of the test images
  std::vector<double> validation;  ///< of the validation images; empty where they give no temperature
};

/// Labels of the validation images, [images, findings] each.
struct ValidationLabels {
  std::vector<std::uint8_t> positive, known;
};

/// Adds figures, ROC and precision-recall curves of an arm, and with `probabilities`, where the scores are some, its
/// calibration before and after a temperature and its decision curve. `note` ends the definitions.
void add_classification(Measurements& out, const std::string& arm, const ClassifierScores& of,
                        const ValidationLabels& validation, const std::string& note, bool probabilities);

/// Adds ROC and precision-recall curves of every finding, from scores [tests, findings].
void add_finding_curves(Measurements& out, const std::string& arm, const std::vector<double>& scores);

/// Adds the images that an arm is surest of and wrong about, by finding, surest first; probabilities [tests, findings].
void add_errors(Measurements& out, const std::vector<double>& probabilities);

/// Adds the macro AUROC of scores [tests, findings] by whatever the cohort's metadata tell apart, with gaps and their
/// p-values.
void add_subgroups(Measurements& out, const std::string& arm, const std::vector<double>& scores);

}  // namespace daug
