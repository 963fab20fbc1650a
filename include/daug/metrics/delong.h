#pragma once
/// @file
/// The sampling error of an AUROC without resampling, and the test of two AUROCs on the same rows: DeLong et al.
/// (Biometrics, 1988) in O(N log N), with Obuchowski's (Biometrics, 1997) extension to patients with several images.
///
/// With `psi(a, b) = [a > b] + [a = b] / 2`, M positives and N negatives, each positive i has the placement
/// `V_i = mean_j psi(s_i, s_j)` among the negatives and each negative j `V_j = mean_i psi(s_i, s_j)` among the
/// positives; the AUROC A is the mean of either. For patient g let `x_g` be the sum of `V_i - A` over its positives and
/// `y_g` that of `V_j - A` over its negatives. Then
/// `var A = I10 / (I10 - 1) sum_g x_g^2 / M^2 + I01 / (I01 - 1) sum_g y_g^2 / N^2 + 2 I / (I - 1) sum_g x_g y_g / (M
/// N)` with I patients, I10 of them with a positive and I01 with a negative; the covariance of two AUROCs replaces the
/// squares by products. When every row is its own patient the last term vanishes and this is DeLong's estimate.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/normal.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/view.h"

namespace daug {

/// An AUROC with its sampling error.
struct AurocEstimate {
  double auroc = 0;     ///< in [0, 1]
  double variance = 0;  ///< of the AUROC, >= 0
  double low = 0;       ///< `auroc - q sqrt(variance)`, at least 0; `q = Phi^-1((1 + confidence) / 2)`
  double high = 0;      ///< `auroc + q sqrt(variance)`, at most 1
};

/// Two AUROCs on the same rows.
struct AurocComparison {
  AurocEstimate first;    ///< of the first scores
  AurocEstimate second;   ///< of the second scores
  double difference = 0;  ///< first - second
  double variance = 0;    ///< of the difference: `var A1 + var A2 - 2 cov(A1, A2)`
  double low = 0;         ///< `difference - q sqrt(variance)`, not clipped; `q = Phi^-1((1 + confidence) / 2)`
  double high = 0;        ///< `difference + q sqrt(variance)`
  double z = 0;           ///< difference / sqrt(variance); 0 when both are 0
  double p = 1;           ///< `P(|Z| >= |z|)`, of no difference
};

namespace detail {

/// An AUROC and what each patient contributes to it beyond the mean.
struct PatientPlacements {
  double auroc = 0;
  std::vector<double> positive;  ///< [patients], x_g
  std::vector<double> negative;  ///< [patients], y_g
};

/// Numbers of rows and patients with each label.
struct ClassSizes {
  std::vector<std::size_t> positives, negatives;  ///< [patients]
  double rows_positive = 0, rows_negative = 0, patients_positive = 0, patients_negative = 0;

  ClassSizes(const char* function, ArrayView<std::uint8_t> labels, const PatientGroups& patients)
      : positives(patients.size(), 0), negatives(patients.size(), 0) {
    for (std::size_t row = 0; row < labels.size(); ++row) {
      require_label(function, labels[row]);
      ++(labels[row] ? positives : negatives)[patients.of(row)];
      ++(labels[row] ? rows_positive : rows_negative);
    }
    const auto present = [](std::size_t count) { return count > 0; };
    patients_positive = static_cast<double>(std::count_if(positives.begin(), positives.end(), present));
    patients_negative = static_cast<double>(std::count_if(negatives.begin(), negatives.end(), present));
  }
  bool enough() const { return patients_positive >= 2 && patients_negative >= 2; }
};

template <class Scores>
PatientPlacements patient_placements(const char* function, const Scores& scores, ArrayView<std::uint8_t> labels,
                                     const PatientGroups& patients, const ClassSizes& sizes) {
  const ArrayView values(scores);
  require_same_size(function, "scores", labels, values);
  for (auto score : values)
    if (!std::isfinite(score)) fail(ErrorCode::kNumeric, function, "scores", "finite values", score);
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });

  PatientPlacements result;
  result.positive.assign(patients.size(), 0);
  result.negative.assign(patients.size(), 0);
  double positives_below = 0, negatives_below = 0, total = 0;
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    double positives = 0, negatives = 0;  // that tie here
    for (; last < order.size() && values[order[last]] == values[order[first]]; ++last)
      ++(labels[order[last]] ? positives : negatives);
    for (std::size_t i = first; i < last; ++i) {
      const std::size_t row = order[i];
      if (labels[row]) {
        const double placement = (negatives_below + negatives / 2) / sizes.rows_negative;
        result.positive[patients.of(row)] += placement;
        total += placement;
      } else {
        const double positives_above = sizes.rows_positive - positives_below - positives;
        result.negative[patients.of(row)] += (positives_above + positives / 2) / sizes.rows_positive;
      }
    }
    positives_below += positives;
    negatives_below += negatives;
  }
  result.auroc = total / sizes.rows_positive;
  for (std::size_t g = 0; g < patients.size(); ++g) {
    result.positive[g] -= static_cast<double>(sizes.positives[g]) * result.auroc;
    result.negative[g] -= static_cast<double>(sizes.negatives[g]) * result.auroc;
  }
  return result;
}

inline double auroc_covariance(const PatientPlacements& a, const PatientPlacements& b, const ClassSizes& sizes) {
  double positive = 0, negative = 0, mixed = 0;
  for (std::size_t g = 0; g < a.positive.size(); ++g) {
    positive += a.positive[g] * b.positive[g];
    negative += a.negative[g] * b.negative[g];
    mixed += a.positive[g] * b.negative[g] + a.negative[g] * b.positive[g];
  }
  const auto unbias = [](double patients) { return patients / (patients - 1); };
  const double m = sizes.rows_positive, n = sizes.rows_negative;
  return unbias(sizes.patients_positive) * positive / (m * m) + unbias(sizes.patients_negative) * negative / (n * n) +
         unbias(static_cast<double>(a.positive.size())) * mixed / (m * n);
}

inline double half_width(const char* function, double confidence) {
  require(confidence > 0 && confidence < 1, function, "confidence", "a value in (0, 1)", confidence);
  return normal_quantile((1 + confidence) / 2);
}

inline AurocEstimate auroc_estimate(double auroc, double variance, double z) {
  const double half = z * std::sqrt(variance);
  return {auroc, variance, std::max(auroc - half, 0.0), std::min(auroc + half, 1.0)};
}

}  // namespace detail

/// AUROC with DeLong's variance and normal interval, see the head of the file.
///
/// `scores` [N]: contiguous float or double. `labels` [N]. `groups` [N]: patients; empty means that every row is its
/// own, which gives intervals that are too narrow when patients have several images. `confidence` in (0, 1). The
/// interval is clipped to [0, 1] and has no width when the classes separate perfectly: prefer `bootstrap_auroc` there.
/// Nothing unless each class has rows of two patients. Errors as in `auroc`.
template <class Scores>
std::optional<AurocEstimate> delong_auroc(const Scores& scores, ArrayView<std::uint8_t> labels,
                                          ArrayView<std::int64_t> groups = {}, double confidence = 0.95) {
  constexpr const char* kFunction = "delong_auroc";
  const double z = detail::half_width(kFunction, confidence);
  const PatientGroups patients = detail::patients_or_rows(kFunction, groups, labels.size());
  const detail::ClassSizes sizes(kFunction, labels, patients);
  const auto placements = detail::patient_placements(kFunction, scores, labels, patients, sizes);
  if (!sizes.enough()) return std::nullopt;
  const double variance = std::max(detail::auroc_covariance(placements, placements, sizes), 0.0);
  return detail::auroc_estimate(placements.auroc, variance, z);
}

/// DeLong's test of two score columns for the same rows: `z = (A1 - A2) / sqrt(var A1 + var A2 - 2 cov(A1, A2))`,
/// two-sided normal p-value. Two columns that differ by no more than rounding are equal (z = 0, p = 1). Arguments as in
/// `delong_auroc`.
template <class First, class Second>
std::optional<AurocComparison> delong_test(const First& first, const Second& second, ArrayView<std::uint8_t> labels,
                                           ArrayView<std::int64_t> groups = {}, double confidence = 0.95) {
  constexpr const char* kFunction = "delong_test";
  const double z = detail::half_width(kFunction, confidence);
  const PatientGroups patients = detail::patients_or_rows(kFunction, groups, labels.size());
  const detail::ClassSizes sizes(kFunction, labels, patients);
  const auto a = detail::patient_placements(kFunction, first, labels, patients, sizes);
  const auto b = detail::patient_placements(kFunction, second, labels, patients, sizes);
  if (!sizes.enough()) return std::nullopt;
  const double variance_a = std::max(detail::auroc_covariance(a, a, sizes), 0.0);
  const double variance_b = std::max(detail::auroc_covariance(b, b, sizes), 0.0);

  AurocComparison result;
  result.first = detail::auroc_estimate(a.auroc, variance_a, z);
  result.second = detail::auroc_estimate(b.auroc, variance_b, z);
  result.difference = a.auroc - b.auroc;
  const double variance = variance_a + variance_b - 2 * detail::auroc_covariance(a, b, sizes);
  // What is left of equal variances after their subtraction is rounding, not a variance.
  result.variance = variance > 1e-13 * (variance_a + variance_b) ? variance : 0;
  result.low = result.difference - z * std::sqrt(result.variance);
  result.high = result.difference + z * std::sqrt(result.variance);
  if (std::abs(result.difference) > 1e-13)
    result.z = result.variance > 0 ? result.difference / std::sqrt(result.variance)
                                   : std::copysign(std::numeric_limits<double>::infinity(), result.difference);
  result.p = two_sided_p(result.z);
  return result;
}

}  // namespace daug
