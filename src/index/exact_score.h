#pragma once
// The scores that decide: double arithmetic, summed in component order.

#include <algorithm>
#include <array>
#include <cstddef>

#include "index_state.h"

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

/// Scores as Hit::score, of the items in these rows.
template <std::size_t kCount>
std::array<double, kCount> exact_scores(const IndexState& index, const float* query, double query_norm,
                                        const std::size_t* rows) {
  const auto size = static_cast<std::size_t>(index.dimension);
  std::array<const float*, kCount> items;
  for (std::size_t i = 0; i < kCount; ++i) items[i] = index.row(rows[i]);
  if (index.metric == Metric::kL2) return squared_distances(query, items, size);
  auto scores = dots(query, items, size);
  if (index.metric == Metric::kCosine)
    for (std::size_t i = 0; i < kCount; ++i)
      scores[i] = std::clamp(scores[i] / (query_norm * index.norms[rows[i]]), -1.0, 1.0);
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
