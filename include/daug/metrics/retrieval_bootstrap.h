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

/// A table of values summed by patient, so that its means for any copies of the patients cost one pass over them,
/// O(P K). Immutable after construction; any number of threads may ask it.
class SummedValues {
 public:
  /// `values` with the patient of each of its rows, or of each of `rows` when these are given. Throws kInvalidArgument
  /// for another number of patients' rows and rows that are not there.
  SummedValues(const RetrievalValues& values, const PatientGroups& patients, const RowSelection& rows = std::nullopt)
      : columns_(values.columns), cells_(patients.size() * values.columns) {
    constexpr const char* kFunction = "SummedValues";
    const std::size_t expected = rows ? rows->size() : values.queries;
    require(patients.rows() == expected, kFunction, "patients", detail::concat("those of ", expected, " rows"),
            patients.rows());
    std::size_t place = 0;
    detail::for_each_row(kFunction, rows, values.queries, [&](std::size_t row) {
      Cell* cells = cells_.data() + patients.of(place++) * columns_;
      for (std::size_t c = 0; c < columns_; ++c) {
        const double value = values.values[row * columns_ + c];
        if (std::isnan(value)) continue;
        cells[c].sum += value;
        ++cells[c].count;
      }
    });
  }

  /// `RetrievalValues::summarize` of the rows, each as often as `copies` [patients] has its patient, up to rounding.
  /// Throws kInvalidArgument for another number of patients.
  FindingSummary summarize(const PatientCopies& copies) const {
    require(copies.size() * columns_ == cells_.size(), "SummedValues", "copies",
            columns_ == 0 ? 0 : cells_.size() / columns_, copies.size());
    std::vector<Cell> total(columns_);
    for (std::size_t patient = 0; patient < copies.size(); ++patient) {
      if (copies[patient] == 0) continue;
      const auto weight = static_cast<double>(copies[patient]);
      for (std::size_t c = 0; c < columns_; ++c) {
        total[c].sum += weight * cells_[patient * columns_ + c].sum;
        total[c].count += weight * cells_[patient * columns_ + c].count;
      }
    }
    std::vector<std::optional<double>> mean;
    std::vector<std::size_t> count;
    for (const Cell& cell : total) {
      mean.push_back(cell.count > 0 ? std::optional(cell.sum / cell.count) : std::nullopt);
      count.push_back(static_cast<std::size_t>(cell.count));
    }
    return summarize_findings(std::move(mean), std::move(count));
  }

 private:
  struct Cell {
    double sum = 0, count = 0;
  };

  std::size_t columns_;
  std::vector<Cell> cells_;  ///< [patients, columns]
};

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
  std::vector<std::int64_t> owners;
  detail::for_each_row(kFunction, rows, values.queries, [&](std::size_t row) { owners.push_back(groups[row]); });
  const PatientGroups patients(owners);
  const SummedValues sums(values, patients, rows);
  return detail::bootstrap_summary(patients, options, [&](const auto& copies) { return sums.summarize(copies); });
}

}  // namespace daug
