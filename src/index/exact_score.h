#pragma once
// The scores that decide: double arithmetic, summed in component order.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "daug/index/retrieval_index.h"

namespace daug::detail {

/// Products of `query` with several vectors, each summed in index order. A product of two floats is exact in double.
/// Several sums at once, because each addition waits for the one before.
template <std::size_t kCount>
std::array<double, kCount> dots(const float* query, const std::array<const float*, kCount>& items, std::size_t size) {
  std::array<double, kCount> sums{};
  for (std::size_t i = 0; i < size; ++i) {
    const double component = query[i];
    for (std::size_t item = 0; item < kCount; ++item) sums[item] += component * static_cast<double>(items[item][i]);
  }
  return sums;
}

template <std::size_t kCount>
std::array<double, kCount> squared_distances(const float* query, const std::array<const float*, kCount>& items,
                                             std::size_t size) {
  std::array<double, kCount> sums{};
  for (std::size_t i = 0; i < size; ++i) {
    const double component = query[i];
    for (std::size_t item = 0; item < kCount; ++item) {
      const double difference = component - static_cast<double>(items[item][i]);
      sums[item] += difference * difference;
    }
  }
  return sums;
}

/// The norm that cosines are divided by. Squares of finite floats cannot overflow a double, so it is finite exactly
/// when every value is.
inline double norm_of(const float* values, std::size_t size) { return std::sqrt(dots<1>(values, {values}, size)[0]); }

/// Scores as Hit::score, of items with these norms.
template <std::size_t kCount>
std::array<double, kCount> exact_scores(Metric metric, std::size_t dimension, const float* query, double query_norm,
                                        const std::array<const float*, kCount>& items,
                                        const std::array<double, kCount>& norms) {
  if (metric == Metric::kL2) return squared_distances(query, items, dimension);
  auto scores = dots(query, items, dimension);
  if (metric == Metric::kCosine)
    for (std::size_t i = 0; i < kCount; ++i) scores[i] = std::clamp(scores[i] / (query_norm * norms[i]), -1.0, 1.0);
  return scores;
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
