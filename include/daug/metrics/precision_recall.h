#pragma once
/// @file
/// One finding against its labels: the precision-recall curve and the average precision. Conventions as in roc.h.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "daug/metrics/roc.h"
#include "daug/metrics/view.h"

namespace daug {

/// Average precision, the step-wise area under the precision-recall curve over distinct thresholds:
/// `AP = sum_i (R_i - R_{i-1}) P_i` over falling thresholds t_i, with recall `R_i = TP_i / P` and precision
/// `P_i = TP_i / (TP_i + FP_i)` of "positive at score >= t_i"; no interpolation (scikit-learn's definition).
///
/// Arguments as in `auroc`. In (0, 1], and equal to 1 when every label is positive; nothing without a positive.
template <class Scores>
std::optional<double> average_precision(const Scores& scores, ArrayView<std::uint8_t> labels,
                                        ArrayView<double> weights = {}) {
  const auto counts = detail::ranked_counts("average_precision", scores, labels, weights);
  if (counts.empty() || counts.back().positives == 0) return std::nullopt;
  double sum = 0, last = 0;
  for (const auto& count : counts) {
    sum += (count.positives - last) * count.positives / (count.positives + count.negatives);
    last = count.positives;
  }
  return std::min(sum / last, 1.0);  // sums of weights are rounded
}

/// Precision-recall curve in scikit-learn's order: rising thresholds, then the end point (precision 1, recall 0),
/// which has no threshold.
struct PrecisionRecallCurve {
  std::vector<double> precision;   ///< one longer than `thresholds`
  std::vector<double> recall;      ///< one longer than `thresholds`; falling to 0
  std::vector<double> thresholds;  ///< point i predicts "positive" at score >= thresholds[i]
};

/// Every point `(R_i, P_i)` of the precision-recall curve, `R_i = TP_i / P` and `P_i = TP_i / (TP_i + FP_i)` as in
/// `average_precision`, one for each distinct score and the end point. Arguments as in `auroc`; nothing without a
/// positive.
template <class Scores>
std::optional<PrecisionRecallCurve> precision_recall_curve(const Scores& scores, ArrayView<std::uint8_t> labels,
                                                           ArrayView<double> weights = {}) {
  const auto counts = detail::ranked_counts("precision_recall_curve", scores, labels, weights);
  if (counts.empty() || counts.back().positives == 0) return std::nullopt;
  PrecisionRecallCurve curve;
  for (auto count = counts.rbegin(); count != counts.rend(); ++count) {
    curve.precision.push_back(count->positives / (count->positives + count->negatives));
    curve.recall.push_back(count->positives / counts.back().positives);
    curve.thresholds.push_back(count->score);
  }
  curve.precision.push_back(1);
  curve.recall.push_back(0);
  return curve;
}

}  // namespace daug
