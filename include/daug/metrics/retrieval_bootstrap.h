#pragma once
/// @file
/// Bootstrap intervals of means over a table of values (retrieval figures, localisation, squared errors), fast: a
/// patient's values are summed once, and a resample only adds the sums of the patients drawn.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "daug/metrics/bootstrap.h"
#include "daug/metrics/classification_bootstrap.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/retrieval_values.h"
#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

/// Patient-bootstrap intervals of `RetrievalValues::summarize`: each column's mean, macro and weighted, all on the same
/// resamples; equal to `bootstrap` of the same means up to rounding.
///
/// `groups` [queries]: patients. `rows`: the queries to measure, whose patients alone are resampled; all when none are
/// given. A resample without a value in a column leaves the column out of its averages. Cost: O(P K) a resample of P
/// patients. Throws kInvalidArgument for another number of groups and rows that are not there.
inline FindingIntervals bootstrap_values(const RetrievalValues& values, ArrayView<std::int64_t> groups,
                                         const BootstrapOptions& options = {},
                                         const RowSelection& rows = std::nullopt) {
  constexpr const char* kFunction = "bootstrap_values";
  require(groups.size() == values.queries, kFunction, "groups", values.queries, groups.size());
  std::vector<std::size_t> chosen;
  std::vector<std::int64_t> owners;
  detail::for_each_row(kFunction, rows, values.queries, [&](std::size_t row) {
    chosen.push_back(row);
    owners.push_back(groups[row]);
  });
  const PatientGroups patients(owners);
  struct Cell {
    double sum = 0, count = 0;
  };
  const std::size_t columns = values.columns;
  std::vector<Cell> cells(patients.size() * columns);
  for (std::size_t i = 0; i < chosen.size(); ++i)
    for (std::size_t c = 0; c < columns; ++c) {
      const double value = values.values[chosen[i] * columns + c];
      if (std::isnan(value)) continue;
      Cell& cell = cells[patients.of(i) * columns + c];
      cell.sum += value;
      ++cell.count;
    }
  const auto measure = [&](const PatientCopies& copies) {
    std::vector<Cell> total(columns);
    for (std::size_t patient = 0; patient < copies.size(); ++patient) {
      if (copies[patient] == 0) continue;
      const auto weight = static_cast<double>(copies[patient]);
      for (std::size_t c = 0; c < columns; ++c) {
        total[c].sum += weight * cells[patient * columns + c].sum;
        total[c].count += weight * cells[patient * columns + c].count;
      }
    }
    std::vector<std::optional<double>> mean;
    std::vector<std::size_t> count;
    for (const Cell& cell : total) {
      mean.push_back(cell.count > 0 ? std::optional(cell.sum / cell.count) : std::nullopt);
      count.push_back(static_cast<std::size_t>(cell.count));
    }
    const FindingSummary summary = summarize_findings(std::move(mean), std::move(count));
    std::vector<double> figures;
    for (const auto& one : summary.finding) figures.push_back(detail::or_nan(one));
    figures.push_back(detail::or_nan(summary.macro));
    figures.push_back(detail::or_nan(summary.weighted));
    return figures;
  };
  FindingIntervals result;
  result.finding = bootstrap_copies(patients, measure, options);
  result.weighted = result.finding.back();
  result.finding.pop_back();
  result.macro = result.finding.back();
  result.finding.pop_back();
  return result;
}

}  // namespace daug
