#pragma once
/// @file
/// One finding against its labels: the ROC curve, the area under it and operating points, ties and weights included.
///
/// Conventions of the file. Scores are finite, higher means more positive. Labels are 0 or 1; anything else is an
/// error, so that a four-state label never slips in. A figure that the data do not define (one class only, no rows) is
/// std::nullopt, never a number and never an exception. Wrong lengths and labels throw kInvalidArgument, scores that
/// are not finite kNumeric. All arithmetic is float64; results do not depend on the order of the rows beyond its
/// rounding.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/view.h"

namespace daug {

namespace detail {

/// Weight of the positives and of the negatives that score at least `score`.
struct RankedCount {
  double score;
  double positives;
  double negatives;
};

/// One entry for each distinct score, highest first; everything below is read off this list. One sort, O(n log n).
template <class Scores>
std::vector<RankedCount> ranked_counts(const char* function, const Scores& scores, ArrayView<std::uint8_t> labels,
                                       ArrayView<double> weights) {
  const ArrayView values(scores);
  require_same_size(function, "labels", values, labels);
  if (!weights.empty()) require_same_size(function, "weights", values, weights);
  std::vector<RankedCount> rows;
  rows.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto score = static_cast<double>(values[i]);
    if (!std::isfinite(score)) fail(ErrorCode::kNumeric, function, "scores", "finite values", score);
    require_label(function, labels[i]);
    const double weight = weights.empty() ? 1.0 : weights[i];
    require(weight >= 0 && std::isfinite(weight), function, "weights", "finite values >= 0", weight);
    if (weight > 0) rows.push_back({score, labels[i] ? weight : 0, labels[i] ? 0 : weight});
  }
  std::sort(rows.begin(), rows.end(), [](const RankedCount& a, const RankedCount& b) { return a.score > b.score; });

  std::size_t distinct = 0;
  double positives = 0, negatives = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    positives += rows[i].positives;
    negatives += rows[i].negatives;
    if (i + 1 < rows.size() && rows[i + 1].score == rows[i].score) continue;
    rows[distinct++] = {rows[i].score, positives, negatives};
  }
  rows.resize(distinct);
  return rows;
}

inline bool has_both_classes(const std::vector<RankedCount>& counts) {
  return !counts.empty() && counts.back().positives > 0 && counts.back().negatives > 0;
}

}  // namespace detail

/// Area under the ROC curve: the probability that a positive outscores a negative, ties counting one half (the
/// Mann-Whitney statistic; equal to the trapezoid under the curve):
/// `A = sum_{i in P, j in N} w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum_{i in P} w_i * sum_{j in N} w_j)`.
///
/// `scores` [N]: any contiguous container of float or double. `labels` [N]. `weights` [N]: >= 0, empty means all 1;
/// rows of weight 0 do not exist. In [0, 1]; nothing when a class is missing. O(N log N).
template <class Scores>
std::optional<double> auroc(const Scores& scores, ArrayView<std::uint8_t> labels, ArrayView<double> weights = {}) {
  const auto counts = detail::ranked_counts("auroc", scores, labels, weights);
  if (!detail::has_both_classes(counts)) return std::nullopt;
  double area = 0;
  detail::RankedCount last{0, 0, 0};
  for (const auto& count : counts) {
    area += (count.negatives - last.negatives) * (count.positives + last.positives) / 2;
    last = count;
  }
  return std::min(area / (last.positives * last.negatives), 1.0);  // sums of weights are rounded
}

/// ROC curve: point i predicts "positive" at score >= thresholds[i].
struct RocCurve {
  std::vector<double> fpr;         ///< `FPR(t)`, share of negatives with s >= t; from 0 up to 1
  std::vector<double> tpr;         ///< `TPR(t)`, share of positives with s >= t; from 0 up to 1
  std::vector<double> thresholds;  ///< falling; the first is +infinity (nothing predicted positive)
};

/// Every point `(FPR(t), TPR(t))` of the ROC curve, one for each distinct score and the origin. Arguments as in
/// `auroc`; nothing when a class is missing.
template <class Scores>
std::optional<RocCurve> roc_curve(const Scores& scores, ArrayView<std::uint8_t> labels,
                                  ArrayView<double> weights = {}) {
  const auto counts = detail::ranked_counts("roc_curve", scores, labels, weights);
  if (!detail::has_both_classes(counts)) return std::nullopt;
  RocCurve curve{{0}, {0}, {std::numeric_limits<double>::infinity()}};
  for (const auto& count : counts) {
    curve.fpr.push_back(count.negatives / counts.back().negatives);
    curve.tpr.push_back(count.positives / counts.back().positives);
    curve.thresholds.push_back(count.score);
  }
  return curve;
}

/// One point of a ROC curve, read as a decision rule: "positive" at score >= threshold.
struct OperatingPoint {
  double sensitivity;  ///< true positive rate, in [0, 1]
  double specificity;  ///< 1 - false positive rate, in [0, 1]
  double threshold;    ///< +infinity when only "never positive" is specific enough
};

/// Sensitivity at a specificity: `max over t of TPR(t) subject to TNR(t) >= specificity`, with
/// `TPR(t) = share of positives with s >= t`, `TNR(t) = share of negatives with s < t`, over the distinct scores and
/// t = infinity; among equally sensitive thresholds the most specific.
///
/// `specificity` in [0, 1]; other arguments as in `auroc`. Nothing when a class is missing.
template <class Scores>
std::optional<OperatingPoint> sensitivity_at_specificity(const Scores& scores, ArrayView<std::uint8_t> labels,
                                                         double specificity, ArrayView<double> weights = {}) {
  constexpr const char* kFunction = "sensitivity_at_specificity";
  require_range(specificity, 0, 1, kFunction, "specificity");
  const auto counts = detail::ranked_counts(kFunction, scores, labels, weights);
  if (!detail::has_both_classes(counts)) return std::nullopt;
  const auto [lowest, positives, negatives] = counts.back();
  OperatingPoint best{0, 1, std::numeric_limits<double>::infinity()};
  for (const auto& count : counts) {
    // The true negatives are counted, not 1 - FPR: 1 - 0.9 is below 0.1 in float64.
    const OperatingPoint point{count.positives / positives, (negatives - count.negatives) / negatives, count.score};
    if (point.specificity < specificity) break;
    if (point.sensitivity > best.sensitivity) best = point;
  }
  return best;
}

}  // namespace daug
