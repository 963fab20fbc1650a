#pragma once
/// @file
/// Binary and multi-label classification: ROC and precision-recall with ties, operating points, Brier score and
/// calibration error.
///
/// Conventions of the whole file. Scores are finite, higher means more positive. Labels are 0 or 1; anything else is
/// an error, so that a four-state label never slips in. A figure that the data do not define (one class only, no rows)
/// is std::nullopt, never a number and never an exception. Wrong lengths and labels throw kInvalidArgument, scores
/// that are not finite kNumeric. All arithmetic is float64; results do not depend on the order of the rows beyond its
/// rounding.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

namespace detail {

/// Weight of the positives and of the negatives that score at least `score`.
struct RankedCount {
  double score;
  double positives;
  double negatives;
};

template <class A, class B>
void require_same_size(const char* function, const char* argument, const A& reference, const B& values) {
  require(values.size() == reference.size(), function, argument, reference.size(), values.size());
}

inline void require_label(const char* function, unsigned label) {
  require(label <= 1, function, "labels", "0 or 1", label);
}

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
/// Mann-Whitney statistic; equal to the trapezoid under the curve).
///
/// `scores` [N]: any contiguous container of float or double. `labels` [N]. `weights` [N]: >= 0, empty means all 1;
/// rows of weight 0 do not exist. In [0, 1]; nothing when a class is missing.
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
  return area / (last.positives * last.negatives);
}

/// Average precision, the step-wise area under the precision-recall curve over distinct thresholds:
/// `sum_i (R_i - R_{i-1}) P_i`, no interpolation.
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
  return sum / last;
}

/// ROC curve: point i predicts "positive" at score >= thresholds[i].
struct RocCurve {
  std::vector<double> fpr;         ///< false positive rate, from 0 up to 1
  std::vector<double> tpr;         ///< true positive rate, from 0 up to 1
  std::vector<double> thresholds;  ///< falling; the first is +infinity (nothing predicted positive)
};

/// Every point of the ROC curve, one for each distinct score and the origin. Arguments as in `auroc`; nothing when a
/// class is missing.
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

/// Precision-recall curve in scikit-learn's order: rising thresholds, then the end point (precision 1, recall 0),
/// which has no threshold.
struct PrecisionRecallCurve {
  std::vector<double> precision;   ///< one longer than `thresholds`
  std::vector<double> recall;      ///< one longer than `thresholds`; falling to 0
  std::vector<double> thresholds;  ///< point i predicts "positive" at score >= thresholds[i]
};

/// Every point of the precision-recall curve, one for each distinct score and the end point. Arguments as in `auroc`;
/// nothing without a positive.
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

/// One point of a ROC curve, read as a decision rule: "positive" at score >= threshold.
struct OperatingPoint {
  double sensitivity;  ///< true positive rate, in [0, 1]
  double specificity;  ///< 1 - false positive rate, in [0, 1]
  double threshold;    ///< +infinity when only "never positive" is specific enough
};

/// The most sensitive threshold whose specificity is at least `specificity` (in [0, 1]); among equally sensitive ones
/// the most specific. Arguments as in `auroc`; nothing when a class is missing.
template <class Scores>
std::optional<OperatingPoint> sensitivity_at_specificity(const Scores& scores, ArrayView<std::uint8_t> labels,
                                                         double specificity, ArrayView<double> weights = {}) {
  require_range(specificity, 0, 1, "sensitivity_at_specificity", "specificity");
  const auto curve = roc_curve(scores, labels, weights);
  if (!curve) return std::nullopt;
  OperatingPoint best{0, 1, curve->thresholds.front()};
  for (std::size_t i = 1; i < curve->fpr.size() && 1 - curve->fpr[i] >= specificity; ++i)
    if (curve->tpr[i] > best.sensitivity) best = {curve->tpr[i], 1 - curve->fpr[i], curve->thresholds[i]};
  return best;
}

/// Scores of several findings for the same rows.
struct MultiLabelData {
  MatrixView<double> scores;        ///< [N, K]
  MatrixView<std::uint8_t> labels;  ///< [N, K]; 0 or 1 where known
  MatrixView<std::uint8_t> known;   ///< [N, K]; 0 leaves a cell out (uncertain, not mentioned); empty: all are known
};

namespace detail {

inline void require_consistent(const char* function, const MultiLabelData& data) {
  const auto shape = [](const auto& matrix) { return concat("[", matrix.rows(), ", ", matrix.columns(), "]"); };
  require(shape(data.labels) == shape(data.scores), function, "labels", shape(data.scores), shape(data.labels));
  if (data.known.rows() != 0 || data.known.columns() != 0)
    require(shape(data.known) == shape(data.scores), function, "known", shape(data.scores), shape(data.known));
}

/// The known cells of some columns, as one binary problem.
struct BinaryCells {
  std::vector<double> scores;
  std::vector<std::uint8_t> labels;

  void add(const char* function, const MultiLabelData& data, std::size_t column, const RowSelection& rows) {
    for_each_row(function, rows, data.scores.rows(), [&](std::size_t row) {
      if (data.known.rows() != 0 && !data.known(row, column)) return;
      scores.push_back(data.scores(row, column));
      labels.push_back(data.labels(row, column));
    });
  }
  std::size_t positives() const { return static_cast<std::size_t>(std::count(labels.begin(), labels.end(), 1)); }
};

template <class Statistic>
FindingSummary by_finding(const char* function, const MultiLabelData& data, const RowSelection& rows,
                          Statistic&& statistic) {
  require_consistent(function, data);
  std::vector<std::optional<double>> finding;
  std::vector<std::size_t> weight;
  for (std::size_t f = 0; f < data.scores.columns(); ++f) {
    BinaryCells cells;
    cells.add(function, data, f, rows);
    const std::size_t positives = cells.positives();
    const bool both = positives > 0 && positives < cells.labels.size();
    finding.push_back(both ? statistic(cells) : std::nullopt);
    weight.push_back(positives);
  }
  return summarize_findings(std::move(finding), std::move(weight));
}

inline BinaryCells pool_findings(const char* function, const MultiLabelData& data, const RowSelection& rows) {
  require_consistent(function, data);
  BinaryCells cells;
  for (std::size_t f = 0; f < data.scores.columns(); ++f) cells.add(function, data, f, rows);
  return cells;
}

}  // namespace detail

/// AUROC of each finding over its known rows, with the plain mean (macro) and the mean weighted by the number of
/// positives. A finding with one class only is left out of both, and counted in `left_out`. `rows` selects rows.
inline FindingSummary auroc_by_finding(const MultiLabelData& data, const RowSelection& rows = std::nullopt) {
  return detail::by_finding("auroc_by_finding", data, rows,
                            [](const auto& cells) { return auroc(cells.scores, cells.labels); });
}

/// Average precision of each finding, averaged over the same findings as `auroc_by_finding`: a finding with one class
/// only is left out even when it has positives, because its value of 1 would say nothing.
inline FindingSummary average_precision_by_finding(const MultiLabelData& data,
                                                   const RowSelection& rows = std::nullopt) {
  return detail::by_finding("average_precision_by_finding", data, rows,
                            [](const auto& cells) { return average_precision(cells.scores, cells.labels); });
}

/// AUROC of all known (row, finding) cells pooled into one binary problem.
inline std::optional<double> micro_auroc(const MultiLabelData& data, const RowSelection& rows = std::nullopt) {
  const auto cells = detail::pool_findings("micro_auroc", data, rows);
  return auroc(cells.scores, cells.labels);
}

/// Average precision of all known (row, finding) cells pooled into one binary problem.
inline std::optional<double> micro_average_precision(const MultiLabelData& data,
                                                     const RowSelection& rows = std::nullopt) {
  const auto cells = detail::pool_findings("micro_average_precision", data, rows);
  return average_precision(cells.scores, cells.labels);
}

/// Edges of `bins` equal bins over [0, 1], computed in the precision T of the probabilities: the first half counted up
/// from 0, the second down from 1 (as torch.linspace does). In float32 the edge at 3/15 is not the number nearest to
/// 0.2, so the precision decides the bin of a probability that sits on an edge. `bins` >= 1.
template <class T>
std::vector<T> calibration_edges(int bins) {
  require(bins >= 1, "calibration_edges", "bins", "a value >= 1", bins);
  const auto count = static_cast<std::size_t>(bins) + 1;
  const T step = T(1) / static_cast<T>(bins);
  std::vector<T> edges(count);
  for (std::size_t i = 0; i < count; ++i)
    edges[i] = i < count / 2 ? step * static_cast<T>(i) : T(1) - step * static_cast<T>(count - 1 - i);
  return edges;
}

/// Bin of a probability in [0, 1]: b with edges[b] <= probability < edges[b+1]. A probability of exactly 1 belongs to
/// an extra last bin of its own, index edges.size() - 1.
template <class T>
std::size_t calibration_bin(const std::vector<T>& edges, T probability) {
  return static_cast<std::size_t>(std::upper_bound(edges.begin(), edges.end(), probability) - edges.begin()) - 1;
}

/// One bin of a reliability diagram.
struct CalibrationBin {
  std::size_t count = 0;        ///< rows
  double mean_probability = 0;  ///< 0 when the bin is empty
  double positive_rate = 0;     ///< 0 when the bin is empty
};

/// Reliability diagram: `bins` + 1 entries, the last for probabilities of exactly 1 (see `calibration_bin`).
///
/// `probabilities` [N]: contiguous float or double, in [0, 1], of the *positive* class. `labels` [N].
template <class Probabilities>
std::vector<CalibrationBin> calibration_bins(const Probabilities& probabilities, ArrayView<std::uint8_t> labels,
                                             int bins) {
  constexpr const char* kFunction = "calibration_bins";
  const ArrayView values(probabilities);
  detail::require_same_size(kFunction, "labels", values, labels);
  const auto edges = calibration_edges<typename decltype(values)::value_type>(bins);
  std::vector<CalibrationBin> result(edges.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    require_range(values[i], 0, 1, kFunction, "probabilities");
    detail::require_label(kFunction, labels[i]);
    CalibrationBin& bin = result[calibration_bin(edges, values[i])];
    ++bin.count;
    bin.mean_probability += static_cast<double>(values[i]);
    bin.positive_rate += labels[i];
  }
  for (CalibrationBin& bin : result) {
    if (bin.count == 0) continue;
    bin.mean_probability /= static_cast<double>(bin.count);
    bin.positive_rate /= static_cast<double>(bin.count);
  }
  return result;
}

/// How the gaps of the bins are put together.
enum class CalibrationNorm {
  kL1,   ///< mean gap weighted by the share of rows: the expected calibration error
  kL2,   ///< square root of the weighted mean of squared gaps
  kMax,  ///< largest gap
};

/// Calibration error: the gap |positive rate - mean probability| over equal bins of the probability of the positive
/// class. Definition of torchmetrics' binary_calibration_error, which is not the "confidence of the predicted class"
/// form of Guo et al. (arXiv 1706.04599).
///
/// Arguments as in `calibration_bins`. In [0, 1]; nothing without rows.
template <class Probabilities>
std::optional<double> calibration_error(const Probabilities& probabilities, ArrayView<std::uint8_t> labels,
                                        int bins = 15, CalibrationNorm norm = CalibrationNorm::kL1) {
  const auto diagram = calibration_bins(probabilities, labels, bins);
  if (labels.empty()) return std::nullopt;
  double mean = 0, mean_square = 0, largest = 0;
  for (const auto& bin : diagram) {
    const double share = static_cast<double>(bin.count) / static_cast<double>(labels.size());
    const double gap = std::abs(bin.positive_rate - bin.mean_probability);
    mean += share * gap;
    mean_square += share * gap * gap;
    largest = std::max(largest, gap);
  }
  if (norm == CalibrationNorm::kL1) return mean;
  return norm == CalibrationNorm::kL2 ? std::sqrt(mean_square) : largest;
}

/// Brier score: mean of (probability - label)^2. Arguments as in `calibration_bins`. In [0, 1]; nothing without rows.
template <class Probabilities>
std::optional<double> brier_score(const Probabilities& probabilities, ArrayView<std::uint8_t> labels) {
  const ArrayView values(probabilities);
  detail::require_same_size("brier_score", "labels", values, labels);
  if (values.empty()) return std::nullopt;
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    require_range(values[i], 0, 1, "brier_score", "probabilities");
    detail::require_label("brier_score", labels[i]);
    const double error = static_cast<double>(values[i]) - labels[i];
    sum += error * error;
  }
  return sum / static_cast<double>(values.size());
}

}  // namespace daug
