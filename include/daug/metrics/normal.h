#pragma once
/// @file
/// The standard normal distribution, for intervals and p-values.

#include <cmath>
#include <limits>

#include "daug/core/error.h"

namespace daug {

/// `P(Z <= z)` of a standard normal Z, precise in the lower tail. z: any number, infinities included.
inline double normal_cdf(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }

/// The z with `normal_cdf(z) = probability`, to about 1e-14; -infinity at 0, +infinity at 1. Throws kInvalidArgument
/// outside [0, 1].
inline double normal_quantile(double probability) {
  require_range(probability, 0, 1, "normal_quantile", "probability");
  if (probability > 0.5) return -normal_quantile(1 - probability);
  if (probability == 0) return -std::numeric_limits<double>::infinity();
  double below = -40, above = 0;  // normal_cdf(-40) is below every float64
  for (int step = 0; step < 100; ++step) {
    const double middle = (below + above) / 2;
    (normal_cdf(middle) < probability ? below : above) = middle;
  }
  return above;
}

/// `P(|Z| >= |z|)` of a standard normal Z.
inline double two_sided_p(double z) { return std::erfc(std::abs(z) / std::sqrt(2.0)); }

}  // namespace daug
