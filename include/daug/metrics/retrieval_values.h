#pragma once
/// @file
/// A retrieval figure as a table [queries, findings]: first every value, then averages over any selection of queries.

#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

/// What a finding without any query does to the averages.
enum class EmptyFinding {
  kLeaveOut,           ///< it is in neither average
  kReferenceZeroOnce,  ///< it counts as a single query with value 0 (what DAug's released code means to do; it raises)
};

/// A figure for each query and finding.
struct RetrievalValues {
  std::size_t queries = 0;     ///< number of rows
  std::size_t columns = 0;     ///< findings, or 1 for Relevance::kAnyFinding
  std::vector<double> values;  ///< [queries, columns] row-major; NaN where the query lacks the finding or is left out

  /// Mean over the queries of each finding, `x_f = mean_q x_qf` over the n_f queries that have a value; `macro` is the
  /// mAP-like `mean_f x_f`, `weighted` the wmAP-like `sum_f n_f x_f / sum_f n_f`, the mean over all (query, finding)
  /// pairs. `rows` selects queries.
  FindingSummary summarize(const RowSelection& rows = std::nullopt,
                           EmptyFinding empty = EmptyFinding::kLeaveOut) const {
    std::vector<double> sum(columns, 0);
    std::vector<std::size_t> count(columns, 0);
    detail::for_each_row("RetrievalValues::summarize", rows, queries, [&](std::size_t row) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double value = values[row * columns + c];
        if (std::isnan(value)) continue;
        sum[c] += value;
        ++count[c];
      }
    });
    std::vector<std::optional<double>> mean(columns);
    for (std::size_t c = 0; c < columns; ++c) {
      if (count[c] == 0 && empty == EmptyFinding::kReferenceZeroOnce) count[c] = 1;
      if (count[c] > 0) mean[c] = sum[c] / static_cast<double>(count[c]);
    }
    return summarize_findings(std::move(mean), std::move(count));
  }
};

}  // namespace daug
