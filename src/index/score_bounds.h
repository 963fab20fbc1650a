#pragma once
// Bounds of a score from reduced precision.
//
// All metrics are ranked by one number, larger is nearer: with n the norm of the query q (1 for a zero query),
//     cosine          q.x / (n |x|)
//     inner product   q.x / n
//     L2              q.x / n - |x|^2 / (2n)            so that |q - x|^2 = |q|^2 - 2n rank
// A scan computes d, the product of the codes of q / n and of x. With the stored scales of both, d scale factor is an
// estimate of (q / n).x (over |x| under cosine) that is wrong by at most
//     |e|                  e = x less its decoded code, known exactly when x is stored (Cauchy-Schwarz, |q / n| = 1)
//   + slack (|x| + |e|)    the query's own code and the roundings of the scan, query_slack
//   + 2^-20 |x|            roundings of the estimate and of the float64 score it stands for
// which, rounded up, is the row's `error`. Sums of float products in any order are within D 2^-23 of exact relative to
// the product of norms (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), twice what is needed;
// int8 sums are exact.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "daug/index/retrieval_index.h"

namespace daug::detail {

/// Outside of these norms float products under- or overflow; such rows pass every bound and are scored in float64.
constexpr double kSmallestNorm = 1e-12;
constexpr double kLargestNorm = 1e12;
inline bool in_float_range(double norm) { return norm == 0 || (norm >= kSmallestNorm && norm <= kLargestNorm); }

/// Largest code of a query's component under int8 storage, and largest norm of its codes such that no sum of products
/// with a row's codes, of at most 127 each, leaves int32.
constexpr double kLargestQueryCode = 32767;
inline double query_norm_limit(std::size_t dimension) {
  return 0.9 * 0x1p31 / (127 * std::sqrt(static_cast<double>(dimension)));
}

/// The part of the error that is relative to a row's norm.
inline double query_slack(Storage storage, std::size_t dimension) {
  const auto components = static_cast<double>(dimension);
  if (storage != Storage::kInt8) return (components + 4) * 0x1p-23;
  // Half a code a component; a query of norm 1 has no component larger than 1.
  return 0.5 * std::sqrt(components) / std::min(kLargestQueryCode, query_norm_limit(dimension));
}

/// What a scan multiplies and adds to d, see ScanQueries.
struct RowTerms {
  float scale;
  float error;
  float offset;
};

/// Terms of a row of norm `norm` whose code times `scale` is wrong by `coding_error` in norm.
inline RowTerms row_terms(Metric metric, Storage storage, std::size_t dimension, double norm, double scale,
                          double coding_error) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const bool plain = metric != Metric::kCosine || storage == Storage::kFloat32;
  if (plain && !in_float_range(norm)) return {0, kInfinity, 0};
  const double unit = metric == Metric::kCosine ? norm : 1;
  const double error = coding_error + query_slack(storage, dimension) * (norm + coding_error) + 0x1p-20 * norm;
  const auto rounded = static_cast<float>(error / unit);
  return {static_cast<float>(scale / unit), std::nextafter(rounded * (1 + 0x1p-20F), kInfinity),
          metric == Metric::kL2 ? static_cast<float>(0.5 * norm * norm * (1 - 0x1p-21)) : 0.0F};
}

/// What ranks the items of one query.
class QueryRank {
 public:
  QueryRank(Metric metric, std::size_t dimension, double norm)
      : metric_(metric), norm_(norm), unit_(norm > 0 ? norm : 1) {
    // Rounding of the float64 distance; what is relative to the item's own norm is in its `error` and `offset`.
    if (metric == Metric::kL2) slack_ = static_cast<double>(dimension) * 0x1p-50 * norm;
  }

  /// Whether a scan can bound the scores of this query.
  bool bounded() const { return metric_ != Metric::kL2 || in_float_range(norm_); }
  /// The norm by which the query is divided before it is coded.
  double unit() const { return unit_; }
  float inverse() const { return metric_ == Metric::kL2 ? static_cast<float>(1 / unit_) : 0.0F; }

  struct Bounds {
    double lower;
    double upper;
  };
  Bounds bounds(float estimate, float error, double item_norm, std::size_t dimension) const {
    if (std::isinf(error)) return {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    double center = estimate;
    double width = error;
    if (metric_ == Metric::kL2) {
      const double offset = item_norm * item_norm / (2 * unit_);
      center -= offset;
      width += slack_ + static_cast<double>(dimension) * 0x1p-49 * offset;
    }
    return {center - width, center + width};
  }

  /// A float such that the scan keeps every row whose upper bound reaches `limit`.
  float threshold(double limit) const {
    const double lowered = limit - slack_;
    constexpr auto kLowest = std::numeric_limits<float>::lowest();
    if (!(lowered > kLowest)) return kLowest;
    if (lowered > std::numeric_limits<float>::max()) return std::numeric_limits<float>::max();
    return std::nextafter(static_cast<float>(lowered), kLowest);
  }

  /// The rank that a score stands for, a little lowered: no item of at least this score ranks lower.
  double rank_of(double score) const {
    const double rank = metric_ == Metric::kCosine         ? score
                        : metric_ == Metric::kInnerProduct ? score / unit_
                                                           : (norm_ * norm_ - score) / (2 * unit_);
    const double scale = metric_ == Metric::kL2 ? norm_ + std::abs(score) / unit_ : std::abs(rank);
    return rank - 0x1p-40 * scale;
  }

  /// Whether an item of which a scan found this bound is farther than one of this score; never where it may be as near.
  bool rules_out(float bound, double score) const { return bounded() && bound < threshold(rank_of(score)); }

 private:
  Metric metric_;
  double norm_;
  double unit_;
  double slack_ = 0;
};

}  // namespace daug::detail
