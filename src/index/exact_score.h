#pragma once
// The scores that decide: double arithmetic, summed in component order.

#include <algorithm>
#include <cstddef>

#include "daug/index/retrieval_index.h"

namespace daug::detail {

/// Sum of a[i] b[i] in index order. A product of two floats is exact in double.
inline double dot(const float* a, const float* b, std::size_t size) {
  double sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

inline double squared_distance(const float* a, const float* b, std::size_t size) {
  double sum = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

/// The score of Hit::score.
inline double exact_score(Metric metric, const float* query, double query_norm, const float* item, double item_norm,
                          std::size_t size) {
  if (metric == Metric::kL2) return squared_distance(query, item, size);
  const double product = dot(query, item, size);
  return metric == Metric::kInnerProduct ? product : std::clamp(product / (query_norm * item_norm), -1.0, 1.0);
}

/// Orders hits from the nearest on; equal scores by id.
struct Nearer {
  Metric metric;
  bool operator()(const Hit& a, const Hit& b) const {
    if (a.score != b.score) return metric == Metric::kL2 ? a.score < b.score : a.score > b.score;
    return a.id < b.id;
  }
};

}  // namespace daug::detail
