#pragma once
/// @file
/// Do probabilities mean what they say? Reliability diagrams, calibration error, Brier score, temperature scaling, and
/// whether p-values are uniform.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/view.h"

namespace daug {

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
  double mean_probability = 0;  ///< `sum_{i in bin} p_i / count`; 0 when the bin is empty
  double positive_rate = 0;     ///< `sum_{i in bin} y_i / count`; 0 when the bin is empty
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

/// Calibration error: the gap between what happens and what is said, over equal bins of the probability of the positive
/// class. With `n_b` rows, positive rate `y_b` and mean probability `p_b` in bin b:
/// `L1 = sum_b n_b / N |y_b - p_b|`, `L2 = sqrt(sum_b n_b / N (y_b - p_b)^2)`, `max = max_b |y_b - p_b|`.
/// Definition of torchmetrics' binary_calibration_error, which is not the "confidence of the predicted class" form of
/// Guo et al. (arXiv 1706.04599).
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

/// Brier score: `mean_i (p_i - y_i)^2` (Brier, 1950, halved for two classes). Arguments as in `calibration_bins`. In
/// [0, 1]; nothing without rows.
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

/// How far a temperature is searched.
struct TemperatureOptions {
  double lowest = 1e-3;  ///< > 0
  double highest = 1e3;  ///< > lowest, finite

  /// Throws kInvalidArgument for a value out of its range.
  void validate() const {
    require(lowest > 0 && std::isfinite(lowest), "TemperatureOptions", "lowest", "a finite value > 0", lowest);
    require(highest > lowest && std::isfinite(highest), "TemperatureOptions", "highest",
            "a finite value above `lowest`", highest);
  }
};

namespace detail {

/// 1 / (1 + exp(-x)) without overflow.
inline double sigmoid(double x) {
  const double small = std::exp(-std::abs(x));
  return x >= 0 ? 1 / (1 + small) : small / (1 + small);
}

}  // namespace detail

/// Temperature scaling (Guo et al., arXiv 1706.04599) for binary labels: the temperature T that minimises the negative
/// log-likelihood `sum_i log(1 + exp(z_i / T)) - y_i z_i / T` of the probabilities `1 / (1 + exp(-z_i / T))`.
///
/// `logits` [N]: contiguous float or double, finite (kNumeric). `labels` [N]. Fit it on validation rows, never on those
/// the calibration is then measured on. The likelihood is convex in 1 / T, so there is one optimum, found by bisection
/// of its derivative to the precision of float64. Nothing when the optimum is not within `options`: no rows, all logits
/// 0, scores that rank the wrong way round (no positive T helps), or logits that separate the classes (T = 0).
template <class Logits>
std::optional<double> fit_temperature(const Logits& logits, ArrayView<std::uint8_t> labels,
                                      const TemperatureOptions& options = {}) {
  constexpr const char* kFunction = "fit_temperature";
  options.validate();
  const ArrayView values(logits);
  detail::require_same_size(kFunction, "labels", values, labels);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) fail(ErrorCode::kNumeric, kFunction, "logits", "finite values", values[i]);
    detail::require_label(kFunction, labels[i]);
  }
  const auto slope = [&](double inverse) {  // of the likelihood in 1 / T; rises with it
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto logit = static_cast<double>(values[i]);
      sum += logit * (detail::sigmoid(logit * inverse) - labels[i]);
    }
    return sum;
  };
  double below = 1 / options.highest, above = 1 / options.lowest;
  if (!(slope(below) < 0 && slope(above) > 0)) return std::nullopt;
  for (int step = 0; step < 200; ++step) {
    const double middle = std::sqrt(below * above);
    if (middle <= below || middle >= above) break;
    (slope(middle) < 0 ? below : above) = middle;
  }
  return 1 / std::sqrt(below * above);
}

/// The probabilities `1 / (1 + exp(-z_i / T))` of `logits` [N] at temperature T > 0 (kInvalidArgument otherwise).
template <class Logits>
std::vector<double> tempered_probabilities(const Logits& logits, double temperature) {
  require(temperature > 0 && std::isfinite(temperature), "tempered_probabilities", "temperature", "a finite value > 0",
          temperature);
  std::vector<double> probabilities;
  for (auto logit : ArrayView(logits)) {
    if (!std::isfinite(logit)) fail(ErrorCode::kNumeric, "tempered_probabilities", "logits", "finite values", logit);
    probabilities.push_back(detail::sigmoid(static_cast<double>(logit) / temperature));
  }
  return probabilities;
}

/// Largest distance between the distribution of `values`, finite, and the uniform one on [0, 1] (Kolmogorov and
/// Smirnov), `D_n = sup_x |#{i : v_i <= x} / n - min(max(x, 0), 1)|`: 1 / (2 n) at best, 1 at worst. Of n values that
/// are uniform it is 0.87 / sqrt(n) on average, and above 1.63 / sqrt(n) once in a hundred times (n large);
/// `uniform_distance_p` says how often for any n. Empty: nothing. Throws kNumeric naming the first value that is not
/// finite.
inline std::optional<double> uniform_distance(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  for (const double value : values)  // NaN has no place in an order
    if (!std::isfinite(value)) fail(ErrorCode::kNumeric, "uniform_distance", "values", "finite values", value);
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  double largest = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double expected = std::clamp(values[i], 0.0, 1.0);  // the share below this value steps from i / n
    largest = std::max({largest, expected - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - expected});
  }
  return largest;
}

namespace detail {

/// `P(D_n < distance)` by the matrix of Marsaglia, Tsang and Wang (Journal of Statistical Software 8(18), 2003): with
/// `n distance = k - h`, 0 < h <= 1, it is `n! / n^n (H^n)_kk`, H of `m = 2 k - 1` rows. H is applied to a vector n
/// times in place of its power, with a factor of n! / n^n each time, so that nothing overflows: O(n m^2).
inline double uniform_distance_below(double distance, std::size_t n) {
  const double steps = static_cast<double>(n) * distance;
  const std::size_t k = static_cast<std::size_t>(steps) + 1, m = 2 * k - 1;
  const double h = static_cast<double>(k) - steps;
  std::vector<double> reciprocal(m + 1, 1);  // 1 / i!
  for (std::size_t i = 1; i <= m; ++i) reciprocal[i] = reciprocal[i - 1] / static_cast<double>(i);
  std::vector<double> matrix(m * m, 0);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < std::min(i + 2, m); ++j) matrix[i * m + j] = reciprocal[i + 1 - j];
  for (std::size_t i = 0; i < m; ++i) {  // the first column, and the last row from its end
    const double less = std::pow(h, static_cast<double>(i + 1)) * reciprocal[i + 1];
    matrix[i * m] -= less;
    matrix[m * m - 1 - i] -= less;
  }
  matrix[(m - 1) * m] += std::pow(std::max(2 * h - 1, 0.0), static_cast<double>(m)) * reciprocal[m];
  std::vector<double> now(m, 0), next(m);
  now[k - 1] = 1;
  for (std::size_t step = 1; step <= n; ++step) {
    const double factor = static_cast<double>(step) / static_cast<double>(n);
    for (std::size_t i = 0; i < m; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < std::min(i + 2, m); ++j) sum += matrix[i * m + j] * now[j];
      next[i] = factor * sum;
    }
    now.swap(next);
  }
  return now[k - 1];
}

/// Twice the probability of a distance on one side (Birnbaum and Tingey, Annals of Mathematical Statistics 22, 1951):
/// `2 d sum_{j < n (1 - d)} C(n, j) (d + j/n)^(j-1) (1 - d - j/n)^(n-j)`. All terms are positive, so that small values
/// keep their digits. It counts twice what is as far on both sides, which nothing is from d = 1/2 on. O(n).
inline double uniform_distance_tail(double distance, std::size_t n) {
  const auto count = static_cast<double>(n);
  double sum = 0, log_choose = 0;
  for (double j = 0; j < count; ++j) {
    const double rest = 1 - distance - j / count;
    if (rest <= 0) break;
    sum += std::exp(log_choose + (j - 1) * std::log(distance + j / count) + (count - j) * std::log(rest));
    log_choose += std::log((count - j) / (j + 1));
  }
  return std::min(1.0, 2 * distance * sum);
}

/// `lim P(sqrt(n) D_n >= x)`, x > 0 (Kolmogorov, 1933), by whichever of its two series ends at once.
inline double kolmogorov_p(double x) {
  constexpr double kPi = 3.14159265358979323846;
  double sum = 0;
  if (x < 1) {
    for (const int odd : {1, 3, 5, 7}) sum += std::exp(-odd * odd * kPi * kPi / (8 * x * x));
    return 1 - std::sqrt(2 * kPi) / x * sum;
  }
  for (const int i : {1, 2, 3, 4}) sum += (i % 2 == 1 ? 2 : -2) * std::exp(-2 * i * i * x * x);
  return sum;
}

}  // namespace detail

/// p-value of a `uniform_distance`: the probability `P(D_n >= distance)` that n independent values, uniform on [0, 1],
/// are at least that far from uniform. In [0, 1], falling with the distance; deterministic.
///
/// To about 10 digits from a distance of 1/2 on and where `n distance^2 >= 4` (Birnbaum and Tingey, 1951; n up to 10^4,
/// fewer digits beyond); else, for n <= 1000, to the 10th decimal (Marsaglia, Tsang and Wang, 2003); else it is
/// Kolmogorov's limit at `x + 1 / (6 sqrt(n)) + (x - 1) / (4 n)`, `x = sqrt(n) distance` (Vrbik, Pioneer Journal of
/// Theoretical and Applied Statistics 15, 2018), within 1e-4. At most about 8 n^2 operations up to n = 1000, O(n)
/// beyond.
///
/// Values that are p-values of a calibration on m images of their own stray further than chance takes n uniform ones:
/// the error of those m is common to all n, and distances are sqrt(1 + n / m) times as large. This p then is too small,
/// and holds its level only where m is many times n. With `n m / (n + m)` in place of n, as for two samples, it allows
/// for both.
///
/// Throws kInvalidArgument for a distance outside [0, 1] and n = 0.
inline double uniform_distance_p(double distance, std::size_t n) {
  constexpr const char* kFunction = "uniform_distance_p";
  constexpr std::size_t kExact = 1000;
  require_range(distance, 0, 1, kFunction, "distance");
  require(n >= 1, kFunction, "n", "at least one value", n);
  const auto count = static_cast<double>(n);
  if (distance >= 0.5 || count * distance * distance >= 4) return detail::uniform_distance_tail(distance, n);
  if (n <= kExact) return std::clamp(1 - detail::uniform_distance_below(distance, n), 0.0, 1.0);
  const double root = std::sqrt(count), x = root * distance;
  return std::clamp(detail::kolmogorov_p(x + 1 / (6 * root) + (x - 1) / (4 * count)), 0.0, 1.0);
}

}  // namespace daug
