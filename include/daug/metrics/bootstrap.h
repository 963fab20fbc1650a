#pragma once
/// @file
/// Bootstrap intervals that resample patients, not images: images of one patient resemble each other, and resampling
/// them one by one gives intervals that are too narrow.
///
/// A resample draws as many patients as there are, with replacement. Two forms of the same draws: `bootstrap` hands the
/// statistic the drawn rows, one by one; `bootstrap_copies` tells it how often each patient was drawn, which is all a
/// statistic over sorted rows needs, so that nothing is sorted again. Resample r depends on (seed, r, the patients)
/// alone: two calls with the same patients and seed see the same resamples, whatever they measure.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/metrics/normal.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/view.h"

namespace daug {

/// How an interval is read off the resamples.
enum class IntervalMethod {
  kPercentile,  ///< the percentiles at `(1 - confidence) / 2` and `(1 + confidence) / 2` (Efron & Tibshirani, 1993,
                ///< chapter 13)
  kBca,         ///< bias-corrected and accelerated (ibid., chapter 14): those at
                ///< `Phi(z0 + (z0 + z) / (1 - a (z0 + z)))`, z the normal quantile of either of the above,
                ///< `z0 = Phi^-1((#{draws < value} + #{draws <= value}) / (2 #{draws}))`,
                ///< `a = sum_g d_g^3 / (6 (sum_g d_g^2)^(3/2))`, d_g the mean of the values without one patient minus
                ///< that without patient g, 0 when none differs: another pass, leaving out each patient in turn.
                ///< Numbers that differ by less than 1e-12 of themselves, which is rounding, count as equal
};

/// How many resamples, how wide an interval, which draws.
struct BootstrapOptions {
  int resamples = 1000;                                 ///< number of resamples, >= 1
  double confidence = 0.95;                             ///< coverage of the interval, in (0, 1)
  std::uint64_t seed = 0;                               ///< any value; the same seed draws the same patients
  IntervalMethod method = IntervalMethod::kPercentile;  ///< how the interval is read off the resamples

  /// Throws kInvalidArgument for a value out of its range.
  void validate() const {
    require(resamples >= 1, "BootstrapOptions", "resamples", "a value >= 1", resamples);
    require(confidence > 0 && confidence < 1, "BootstrapOptions", "confidence", "a value in (0, 1)", confidence);
  }
};

/// A figure with its bootstrap interval.
struct Interval {
  double value = 0;            ///< the statistic of the data themselves
  double low = 0;              ///< lower end; NaN when the resamples do not define it
  double high = 0;             ///< upper end; NaN when the resamples do not define it
  std::size_t n = 0;           ///< rows
  std::size_t groups = 0;      ///< distinct patients
  std::size_t degenerate = 0;  ///< resamples that did not define the statistic and were left out
};

/// How often each patient is in a resample, [patients].
using PatientCopies = std::vector<std::uint32_t>;

namespace detail {

inline double or_nan(const std::optional<double>& value) {
  return value.value_or(std::numeric_limits<double>::quiet_NaN());
}

/// The patients of resample `resample`, in the order they were drawn.
inline void draw_patients(const BootstrapOptions& options, int resample, std::size_t patients,
                          std::vector<std::uint32_t>& drawn) {
  RandomStream random(options.seed, static_cast<std::uint64_t>(resample), "bootstrap");
  drawn.resize(patients);
  for (std::uint32_t& patient : drawn) patient = random.below(static_cast<std::uint32_t>(patients));
}

/// The value at a fraction of sorted numbers, interpolated linearly between neighbours; NaN without any.
inline double percentile(const std::vector<double>& sorted, double fraction) {
  if (sorted.empty() || std::isnan(fraction)) return std::numeric_limits<double>::quiet_NaN();
  const double position = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const auto above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

/// What a number may differ by from another, by rounding alone.
inline double rounding_of(double value) { return 1e-12 * std::abs(value); }

/// `a = sum_g d_g^3 / (6 (sum_g d_g^2)^(3/2))`, d_g the mean of the values without one patient minus that without g; 0
/// when they differ by rounding alone, whose skewness says nothing. At least one value.
inline double acceleration(const std::vector<double>& without_patient) {
  const auto count = static_cast<double>(without_patient.size());
  double beyond_first = 0, rounding = 0;
  for (double value : without_patient) {
    beyond_first += value - without_patient[0];
    rounding = std::max(rounding, rounding_of(value));
  }
  const double mean = without_patient[0] + beyond_first / count;
  double square = 0, cube = 0;
  for (double value : without_patient) {
    square += (mean - value) * (mean - value);
    cube += (mean - value) * (mean - value) * (mean - value);
  }
  return square > count * rounding * rounding ? cube / (6 * std::pow(square, 1.5)) : 0;
}

/// The percentile that BCa reads instead of `fraction`: `Phi(z0 + (z0 + z) / (1 - a (z0 + z)))`.
inline double bca_fraction(double fraction, double bias, double acceleration) {
  const double z = bias + normal_quantile(fraction);
  const double scale = 1 - acceleration * z;
  if (!std::isfinite(bias) || !(scale > 0)) return std::numeric_limits<double>::quiet_NaN();
  return normal_cdf(bias + z / scale);
}

/// The interval of `value` from its draws and, for BCa, the values without each patient; NaN draws are left out.
inline Interval make_interval(double value, std::vector<double> draws, std::vector<double> without_patient,
                              const PatientGroups& patients, const BootstrapOptions& options) {
  const auto drop_undefined = [](std::vector<double>& values) {
    values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return std::isnan(v); }), values.end());
  };
  const std::size_t resamples = draws.size();
  drop_undefined(draws);
  std::sort(draws.begin(), draws.end());
  double low = (1 - options.confidence) / 2, high = 1 - low;
  if (options.method == IntervalMethod::kBca && !draws.empty()) {
    drop_undefined(without_patient);
    const auto less = std::lower_bound(draws.begin(), draws.end(), value - rounding_of(value));
    const auto more = std::upper_bound(draws.begin(), draws.end(), value + rounding_of(value));
    const auto below = static_cast<double>(less - draws.begin()), up_to = static_cast<double>(more - draws.begin());
    const double bias = normal_quantile((below + up_to) / (2 * static_cast<double>(draws.size())));
    const double a = without_patient.empty() ? std::numeric_limits<double>::quiet_NaN() : acceleration(without_patient);
    low = bca_fraction(low, bias, a);
    high = bca_fraction(high, bias, a);
  }
  return {value,           percentile(draws, low), percentile(draws, high),
          patients.rows(), patients.size(),        resamples - draws.size()};
}

}  // namespace detail

/// Bootstrap interval of any statistic of rows.
///
/// `groups` [N] names the patient of each row. `statistic(rows)` takes a `const std::vector<std::size_t>&` of row
/// indices, possibly repeated, and returns std::optional<double>; NaN counts as nothing. A resample brings all rows of
/// each patient it draws. Percentiles interpolate linearly between order statistics: the one at q of n draws is
/// `x_(j) + (p - j) (x_(j+1) - x_(j))`, `p = q (n - 1)`, `j = floor(p)`, order statistics counted from 0. BCa is
/// undefined (NaN) when every resample lies on one side of the value, or no patient can be left out.
///
/// Returns nothing when the data themselves do not define the statistic. Cost: `resamples` calls, and with BCa one for
/// each patient.
template <class Statistic>
std::optional<Interval> bootstrap(ArrayView<std::int64_t> groups, Statistic&& statistic,
                                  const BootstrapOptions& options = {}) {
  options.validate();
  const PatientGroups patients(groups);
  std::vector<std::size_t> rows(groups.size());
  std::iota(rows.begin(), rows.end(), std::size_t{0});
  const double value = detail::or_nan(statistic(std::as_const(rows)));
  if (std::isnan(value)) return std::nullopt;

  const auto measure = [&](const std::vector<std::uint32_t>& chosen) {
    rows.clear();
    for (std::uint32_t patient : chosen) {
      const auto members = patients.rows_of(patient);
      rows.insert(rows.end(), members.begin(), members.end());
    }
    return detail::or_nan(statistic(std::as_const(rows)));
  };
  std::vector<double> draws, without_patient;
  std::vector<std::uint32_t> chosen;
  for (int resample = 0; resample < options.resamples; ++resample) {
    detail::draw_patients(options, resample, patients.size(), chosen);
    draws.push_back(measure(chosen));
  }
  if (options.method == IntervalMethod::kBca)
    for (std::uint32_t left_out = 0; left_out < patients.size(); ++left_out) {
      chosen.clear();
      for (std::uint32_t patient = 0; patient < patients.size(); ++patient)
        if (patient != left_out) chosen.push_back(patient);
      without_patient.push_back(measure(chosen));
    }
  return detail::make_interval(value, std::move(draws), std::move(without_patient), patients, options);
}

/// Bootstrap intervals of several statistics at once, all on the same resamples.
///
/// `statistics(copies)` takes a `const PatientCopies&` and returns a std::vector<double>, always equally long, NaN
/// where a statistic is undefined; a patient with c copies counts as c patients with the same rows. Entry i of the
/// result is what `bootstrap` would return for statistic i, up to rounding.
template <class Statistics>
std::vector<std::optional<Interval>> bootstrap_copies(const PatientGroups& patients, Statistics&& statistics,
                                                      const BootstrapOptions& options = {}) {
  options.validate();
  PatientCopies copies(patients.size(), 1);
  const std::vector<double> value = statistics(std::as_const(copies));
  std::vector<std::vector<double>> draws(value.size()), without_patient(value.size());
  const auto measure = [&](std::vector<std::vector<double>>& results) {
    const std::vector<double> figures = statistics(std::as_const(copies));
    require(figures.size() == value.size(), "bootstrap_copies", "statistics", value.size(), figures.size());
    for (std::size_t i = 0; i < figures.size(); ++i) results[i].push_back(figures[i]);
  };
  if (options.method == IntervalMethod::kBca)
    for (std::uint32_t& patient : copies) {
      patient = 0;
      measure(without_patient);
      patient = 1;
    }
  std::vector<std::uint32_t> drawn;
  for (int resample = 0; resample < options.resamples; ++resample) {
    detail::draw_patients(options, resample, patients.size(), drawn);
    std::fill(copies.begin(), copies.end(), 0);
    for (std::uint32_t patient : drawn) ++copies[patient];
    measure(draws);
  }
  std::vector<std::optional<Interval>> intervals(value.size());
  for (std::size_t i = 0; i < value.size(); ++i)
    if (!std::isnan(value[i]))
      intervals[i] =
          detail::make_interval(value[i], std::move(draws[i]), std::move(without_patient[i]), patients, options);
  return intervals;
}

/// Bootstrap interval of `first - second`, both computed on the same resamples: narrower than the difference of two
/// separate intervals, because what makes a resample easy makes it easy for both. Undefined where either is.
template <class First, class Second>
std::optional<Interval> paired_bootstrap(ArrayView<std::int64_t> groups, First&& first, Second&& second,
                                         const BootstrapOptions& options = {}) {
  const auto difference = [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
    const std::optional<double> a = first(rows);
    const std::optional<double> b = a ? second(rows) : std::nullopt;
    if (!b) return std::nullopt;
    return *a - *b;
  };
  return bootstrap(groups, difference, options);
}

}  // namespace daug
