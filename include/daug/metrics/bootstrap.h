#pragma once
/// @file
/// Percentile bootstrap intervals that resample patients, not images: images of one patient resemble each other, and
/// resampling them one by one gives intervals that are too narrow.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/metrics/view.h"

namespace daug {

/// How many resamples, how wide an interval, which draws.
struct BootstrapOptions {
  int resamples = 1000;      ///< number of resamples, >= 1
  double confidence = 0.95;  ///< coverage of the interval, in (0, 1)
  std::uint64_t seed = 0;    ///< any value; the same seed draws the same patients

  /// Throws kInvalidArgument for a value out of its range.
  void validate() const {
    require(resamples >= 1, "BootstrapOptions", "resamples", "a value >= 1", resamples);
    require(confidence > 0 && confidence < 1, "BootstrapOptions", "confidence", "a value in (0, 1)", confidence);
  }
};

/// A figure with its bootstrap interval.
struct Interval {
  double value = 0;            ///< the statistic of the data themselves
  double low = 0;              ///< lower percentile; NaN when no resample defined the statistic
  double high = 0;             ///< upper percentile; NaN when no resample defined the statistic
  std::size_t n = 0;           ///< rows
  std::size_t groups = 0;      ///< distinct patients
  std::size_t degenerate = 0;  ///< resamples that did not define the statistic and were left out
};

/// Percentile bootstrap over groups (Efron & Tibshirani, 1993, chapter 13).
///
/// `groups` [N] names the patient of each row. `statistic(rows)` takes a `const std::vector<std::size_t>&` of row
/// indices, possibly repeated, and returns std::optional<double>; NaN counts as nothing. A resample draws as many
/// patients as there are, with replacement, and brings all rows of each. Percentiles interpolate linearly between order
/// statistics.
///
/// Returns nothing when the data themselves do not define the statistic. Resample r depends on (seed, r, the groups)
/// alone, so two calls with the same groups and seed see the same resamples.
template <class Statistic>
std::optional<Interval> bootstrap(ArrayView<std::int64_t> groups, Statistic&& statistic,
                                  const BootstrapOptions& options = {}) {
  options.validate();
  std::map<std::int64_t, std::vector<std::size_t>> by_group;
  std::vector<std::size_t> rows(groups.size());
  for (std::size_t row = 0; row < groups.size(); ++row) {
    by_group[groups[row]].push_back(row);
    rows[row] = row;
  }
  const std::optional<double> value = statistic(std::as_const(rows));
  if (!value || std::isnan(*value)) return std::nullopt;

  std::vector<const std::vector<std::size_t>*> members;
  for (const auto& group : by_group) members.push_back(&group.second);
  std::vector<double> draws;
  for (int resample = 0; resample < options.resamples; ++resample) {
    RandomStream random(options.seed, static_cast<std::uint64_t>(resample), "bootstrap");
    rows.clear();
    for (std::size_t i = 0; i < members.size(); ++i) {
      const auto& chosen = *members[random.below(static_cast<std::uint32_t>(members.size()))];
      rows.insert(rows.end(), chosen.begin(), chosen.end());
    }
    const std::optional<double> draw = statistic(std::as_const(rows));
    if (draw && !std::isnan(*draw)) draws.push_back(*draw);
  }
  std::sort(draws.begin(), draws.end());
  const auto percentile = [&draws](double fraction) {
    if (draws.empty()) return std::numeric_limits<double>::quiet_NaN();
    const double position = fraction * static_cast<double>(draws.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const auto above = std::min(below + 1, draws.size() - 1);
    return draws[below] + (position - static_cast<double>(below)) * (draws[above] - draws[below]);
  };
  const double tail = (1 - options.confidence) / 2;
  return Interval{*value,        percentile(tail), percentile(1 - tail),
                  groups.size(), members.size(),   static_cast<std::size_t>(options.resamples) - draws.size()};
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
