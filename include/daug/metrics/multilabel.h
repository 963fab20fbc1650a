#pragma once
/// @file
/// Many findings at once: figures by finding with their macro and weighted averages, and micro figures over pooled
/// cells. Conventions as in roc.h.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/precision_recall.h"
#include "daug/metrics/roc.h"
#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

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
      const double score = data.scores(row, column);
      if (!std::isfinite(score)) fail(ErrorCode::kNumeric, function, "scores", "finite values", score);
      require_label(function, data.labels(row, column));
      scores.push_back(score);
      labels.push_back(data.labels(row, column));
    });
  }
  std::size_t positives() const { return static_cast<std::size_t>(std::count(labels.begin(), labels.end(), 1)); }
};

/// `statistic(cells)` of every finding; what it does not define is left out, or is `published` under
/// Compat::kPublished.
template <class Statistic>
FindingSummary by_finding(const char* function, const MultiLabelData& data, const RowSelection& rows, Compat compat,
                          double published, Statistic&& statistic) {
  require_consistent(function, data);
  std::vector<std::optional<double>> finding;
  std::vector<std::size_t> weight;
  for (std::size_t f = 0; f < data.scores.columns(); ++f) {
    BinaryCells cells;
    cells.add(function, data, f, rows);
    const std::size_t positives = cells.positives();
    const bool both = positives > 0 && positives < cells.labels.size();
    if (compat == Compat::kPublished)
      finding.push_back(statistic(cells).value_or(published));
    else
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
/// positives: `macro = mean_f A_f`, `weighted = sum_f P_f A_f / sum_f P_f`. A finding with one class only is left out
/// of both, and counted in `left_out`; under Compat::kPublished it is NaN, and so are the averages it has a weight in
/// (scikit-learn 1.9, DAug's released code). `rows` selects rows.
inline FindingSummary auroc_by_finding(const MultiLabelData& data, const RowSelection& rows = std::nullopt,
                                       Compat compat = Compat::kNone) {
  return detail::by_finding("auroc_by_finding", data, rows, compat, std::numeric_limits<double>::quiet_NaN(),
                            [](const auto& cells) { return auroc(cells.scores, cells.labels); });
}

/// Average precision of each finding over its known rows, with `macro = mean_f AP_f` and
/// `weighted = sum_f P_f AP_f / sum_f P_f` over the same findings as `auroc_by_finding`: a finding with one class
/// only is left out even when it has positives, because its value of 1 would say nothing. Under Compat::kPublished it
/// counts: 1 without negatives, 0 without positives (scikit-learn).
inline FindingSummary average_precision_by_finding(const MultiLabelData& data, const RowSelection& rows = std::nullopt,
                                                   Compat compat = Compat::kNone) {
  return detail::by_finding("average_precision_by_finding", data, rows, compat, 0,
                            [](const auto& cells) { return average_precision(cells.scores, cells.labels); });
}

/// AUROC of all known (row, finding) cells pooled into one binary problem, P and N being the positive and the negative
/// cells of all findings: `sum_{i in P, j in N} ([s_i > s_j] + [s_i = s_j] / 2) / (|P| |N|)`. Nothing when a class is
/// missing.
inline std::optional<double> micro_auroc(const MultiLabelData& data, const RowSelection& rows = std::nullopt) {
  const auto cells = detail::pool_findings("micro_auroc", data, rows);
  return auroc(cells.scores, cells.labels);
}

/// Average precision of all known (row, finding) cells pooled into one binary problem: `sum_i (R_i - R_{i-1}) P_i` as
/// in `average_precision`, with recall and precision counted over the cells of all findings. Nothing without a
/// positive.
inline std::optional<double> micro_average_precision(const MultiLabelData& data,
                                                     const RowSelection& rows = std::nullopt) {
  const auto cells = detail::pool_findings("micro_average_precision", data, rows);
  return average_precision(cells.scores, cells.labels);
}

}  // namespace daug
