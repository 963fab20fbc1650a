#pragma once
/// @file
/// Bootstrap intervals of AUROC and average precision, by finding and pooled, and of the calibration error, fast:
/// scores are sorted (or put into bins) once, and a resample only reweighs its rows by how often their patient was
/// drawn.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/bootstrap.h"
#include "daug/metrics/calibration.h"
#include "daug/metrics/multilabel.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

/// The rows of one finding sorted by score, so that its figures for any copies of the patients cost one pass, O(N).
/// Immutable after construction; any number of threads may ask it.
class RankedRows {
 public:
  /// `scores` [N], finite (kNumeric); `labels` [N], 0 or 1; `patients` [N], the dense number of each row's patient.
  RankedRows(ArrayView<double> scores, ArrayView<std::uint8_t> labels, ArrayView<std::uint32_t> patients) {
    constexpr const char* kFunction = "RankedRows";
    detail::require_same_size(kFunction, "labels", scores, labels);
    detail::require_same_size(kFunction, "patients", scores, patients);
    std::vector<std::pair<double, std::uint32_t>> rows;
    rows.reserve(scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (!std::isfinite(scores[i])) fail(ErrorCode::kNumeric, kFunction, "scores", "finite values", scores[i]);
      detail::require_label(kFunction, labels[i]);
      require(patients[i] < kPatients, kFunction, "patients", "a value below 2^30", patients[i]);
      rows.emplace_back(scores[i], patients[i] << 2 | labels[i]);
      patients_ = std::max<std::size_t>(patients_, patients[i] + 1);
    }
    std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const bool last_of_ties = i + 1 == rows.size() || rows[i + 1].first != rows[i].first;
      rows_.push_back(rows[i].second | static_cast<std::uint32_t>(last_of_ties) << 1);
    }
  }

  /// A figure of some copies of the rows.
  struct Figure {
    double value;           ///< NaN when a class is missing
    std::size_t positives;  ///< rows, copies counted
  };

  /// `daug::auroc` of the rows, each as often as `copies` [patients] has its patient.
  Figure auroc(const PatientCopies& copies) const {
    double area = 0;
    const Count all = walk(copies, [&area](const Count& above, const Count& tied) {
      area += static_cast<double>(tied.negatives) * static_cast<double>(2 * above.positives + tied.positives);
    });
    return figure(all, area / 2 / (static_cast<double>(all.positives) * static_cast<double>(all.negatives)));
  }

  /// `daug::average_precision` of the same rows.
  Figure average_precision(const PatientCopies& copies) const {
    double sum = 0;
    const Count all = walk(copies, [&sum](const Count& above, const Count& tied) {
      if (tied.positives == 0) return;
      const auto positives = static_cast<double>(above.positives + tied.positives);
      const auto negatives = static_cast<double>(above.negatives + tied.negatives);
      sum += static_cast<double>(tied.positives) * positives / (positives + negatives);
    });
    return figure(all, sum / static_cast<double>(all.positives));
  }

 private:
  static constexpr std::uint32_t kPatients = 1U << 30;
  struct Count {
    std::int64_t positives = 0, negatives = 0;
  };

  static Figure figure(const Count& all, double value) {
    const bool both = all.positives > 0 && all.negatives > 0;
    return {both ? value : std::numeric_limits<double>::quiet_NaN(), static_cast<std::size_t>(all.positives)};
  }

  /// Calls `visit(above, tied)` for every distinct score, highest first; returns the counts of all rows.
  template <class Visit>
  Count walk(const PatientCopies& copies, Visit&& visit) const {
    if (copies.size() < patients_)
      fail(ErrorCode::kInvalidArgument, "RankedRows", "copies", detail::concat("at least ", patients_), copies.size());
    Count above, tied;
    for (std::uint32_t row : rows_) {
      const std::int64_t weight = copies[row >> 2];
      const std::int64_t positive = weight & -static_cast<std::int64_t>(row & 1);
      tied.positives += positive;
      tied.negatives += weight - positive;
      if (!(row & 2)) continue;
      visit(std::as_const(above), std::as_const(tied));
      above.positives += tied.positives;
      above.negatives += tied.negatives;
      tied = {};
    }
    return above;
  }

  std::vector<std::uint32_t> rows_;  ///< highest score first: patient << 2 | last of its ties << 1 | label
  std::size_t patients_ = 0;         ///< one more than the largest patient
};

/// Intervals of a figure for each finding and of its averages.
struct FindingIntervals {
  std::vector<std::optional<Interval>> finding;  ///< [K]; nothing where the data do not define the figure
  std::optional<Interval> macro;                 ///< of FindingSummary::macro
  std::optional<Interval> weighted;              ///< of FindingSummary::weighted
};

namespace detail {

/// The known cells of the findings [first, last), in one ranking.
inline RankedRows ranked_cells(const MultiLabelData& data, const PatientGroups& patients, std::size_t first,
                               std::size_t last) {
  std::vector<double> scores;
  std::vector<std::uint8_t> labels;
  std::vector<std::uint32_t> owners;
  for (std::size_t row = 0; row < data.scores.rows(); ++row)
    for (std::size_t f = first; f < last; ++f) {
      if (data.known.rows() != 0 && !data.known(row, f)) continue;
      scores.push_back(data.scores(row, f));
      labels.push_back(data.labels(row, f));
      owners.push_back(patients.of(row));
    }
  return {scores, labels, owners};
}

inline void require_rows(const char* function, const MultiLabelData& data, const PatientGroups& patients) {
  require_consistent(function, data);
  require(patients.rows() == data.scores.rows(), function, "groups", data.scores.rows(), patients.rows());
}

/// `summarize(copies)`, a FindingSummary, of every finding and its averages, on shared resamples.
template <class Summarize>
FindingIntervals bootstrap_summary(const PatientGroups& patients, const BootstrapOptions& options,
                                   Summarize&& summarize) {
  const auto measure = [&](const PatientCopies& copies) {
    const FindingSummary summary = summarize(copies);
    std::vector<double> figures;
    for (const auto& one : summary.finding) figures.push_back(or_nan(one));
    figures.push_back(or_nan(summary.macro));
    figures.push_back(or_nan(summary.weighted));
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

/// `figure(rows, copies)` of all cells in one ranking.
template <class Figure>
std::optional<Interval> bootstrap_cells(const char* function, const MultiLabelData& data,
                                        ArrayView<std::int64_t> groups, const BootstrapOptions& options,
                                        Figure&& figure) {
  const PatientGroups patients(groups);
  require_rows(function, data, patients);
  const RankedRows cells = ranked_cells(data, patients, 0, data.scores.columns());
  const auto measure = [&](const PatientCopies& copies) { return std::vector<double>{figure(cells, copies).value}; };
  return bootstrap_copies(patients, measure, options)[0];
}

}  // namespace detail

/// The known rows of every finding sorted by score, see RankedRows.
class RankedFindings {
 public:
  /// `data` as in `auroc_by_finding`, with the patient of each row. Errors as there, and kInvalidArgument for patients
  /// of another number of rows.
  RankedFindings(const MultiLabelData& data, const PatientGroups& patients) {
    detail::require_rows("RankedFindings", data, patients);
    for (std::size_t f = 0; f < data.scores.columns(); ++f)
      findings_.push_back(detail::ranked_cells(data, patients, f, f + 1));
  }

  /// `auroc_by_finding` of the rows, each as often as `copies` [patients] has its patient.
  FindingSummary auroc(const PatientCopies& copies) const { return summarize(copies, &RankedRows::auroc); }
  /// `average_precision_by_finding` of the same rows.
  FindingSummary average_precision(const PatientCopies& copies) const {
    return summarize(copies, &RankedRows::average_precision);
  }

 private:
  using FigureOf = RankedRows::Figure (RankedRows::*)(const PatientCopies&) const;

  FindingSummary summarize(const PatientCopies& copies, FigureOf figure_of) const {
    std::vector<std::optional<double>> defined;
    std::vector<std::size_t> weight;
    for (const RankedRows& rows : findings_) {
      const RankedRows::Figure measured = (rows.*figure_of)(copies);
      defined.push_back(std::isnan(measured.value) ? std::nullopt : std::optional(measured.value));
      weight.push_back(measured.positives);
    }
    return summarize_findings(std::move(defined), std::move(weight));
  }

  std::vector<RankedRows> findings_;  ///< [K]
};

/// Patient-bootstrap intervals of `auroc_by_finding`: each finding, macro and weighted, all on the same resamples.
///
/// `groups` [N]: patients. A resample that leaves a finding one class leaves it out of that resample's averages. Cost:
/// one sort per finding, then O(N) per finding and resample. Errors as in `auroc_by_finding`.
inline FindingIntervals bootstrap_auroc(const MultiLabelData& data, ArrayView<std::int64_t> groups,
                                        const BootstrapOptions& options = {}) {
  const PatientGroups patients(groups);
  const RankedFindings ranked(data, patients);
  return detail::bootstrap_summary(patients, options, [&](const auto& copies) { return ranked.auroc(copies); });
}

/// Patient-bootstrap intervals of `average_precision_by_finding`; otherwise as `bootstrap_auroc`.
inline FindingIntervals bootstrap_average_precision(const MultiLabelData& data, ArrayView<std::int64_t> groups,
                                                    const BootstrapOptions& options = {}) {
  const PatientGroups patients(groups);
  const RankedFindings ranked(data, patients);
  return detail::bootstrap_summary(patients, options,
                                   [&](const auto& copies) { return ranked.average_precision(copies); });
}

/// Patient-bootstrap interval of `micro_auroc`, on the same resamples as `bootstrap_auroc`. Nothing when a class is
/// missing. Cost: one sort of all cells, then O(N K) a resample.
inline std::optional<Interval> bootstrap_micro_auroc(const MultiLabelData& data, ArrayView<std::int64_t> groups,
                                                     const BootstrapOptions& options = {}) {
  return detail::bootstrap_cells("bootstrap_micro_auroc", data, groups, options,
                                 [](const auto& cells, const auto& copies) { return cells.auroc(copies); });
}

/// Patient-bootstrap interval of `micro_average_precision`; otherwise as `bootstrap_micro_auroc`.
inline std::optional<Interval> bootstrap_micro_average_precision(const MultiLabelData& data,
                                                                 ArrayView<std::int64_t> groups,
                                                                 const BootstrapOptions& options = {}) {
  return detail::bootstrap_cells("bootstrap_micro_average_precision", data, groups, options,
                                 [](const auto& cells, const auto& copies) { return cells.average_precision(copies); });
}

/// Patient-bootstrap interval of `calibration_error` (CalibrationNorm::kL1) of all known cells pooled; the scores are
/// probabilities in [0, 1]. Nothing without a known cell. Cost: O(P bins) a resample of P patients. Errors as in
/// `calibration_error` and `bootstrap_auroc`.
inline std::optional<Interval> bootstrap_calibration_error(const MultiLabelData& data, ArrayView<std::int64_t> groups,
                                                           int bins = 15, const BootstrapOptions& options = {}) {
  constexpr const char* kFunction = "bootstrap_calibration_error";
  const PatientGroups patients(groups);
  detail::require_rows(kFunction, data, patients);
  const std::vector<double> edges = calibration_edges<double>(bins);
  struct Cell {
    double count = 0, gap = 0;  // rows, and positives less probabilities
  };
  std::vector<Cell> cells(patients.size() * edges.size());
  for (std::size_t row = 0; row < data.scores.rows(); ++row)
    for (std::size_t f = 0; f < data.scores.columns(); ++f) {
      if (data.known.rows() != 0 && !data.known(row, f)) continue;
      const double probability = data.scores(row, f);
      require_range(probability, 0.0, 1.0, kFunction, "scores");
      detail::require_label(kFunction, data.labels(row, f));
      Cell& cell = cells[patients.of(row) * edges.size() + calibration_bin(edges, probability)];
      ++cell.count;
      cell.gap += data.labels(row, f) - probability;
    }
  const auto measure = [&](const PatientCopies& copies) {
    std::vector<Cell> total(edges.size());
    for (std::size_t patient = 0; patient < copies.size(); ++patient) {
      const auto weight = static_cast<double>(copies[patient]);
      if (weight == 0) continue;
      for (std::size_t b = 0; b < edges.size(); ++b) {
        total[b].count += weight * cells[patient * edges.size() + b].count;
        total[b].gap += weight * cells[patient * edges.size() + b].gap;
      }
    }
    double rows = 0, gaps = 0;  // a bin's gap of means weighs as many rows as it has: the gap of its sums
    for (const Cell& bin : total) {
      rows += bin.count;
      gaps += std::abs(bin.gap);
    }
    return std::vector<double>{rows > 0 ? gaps / rows : std::nan("")};
  };
  return bootstrap_copies(patients, measure, options)[0];
}

}  // namespace daug
