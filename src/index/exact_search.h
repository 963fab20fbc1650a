#pragma once
// Exact search of a snapshot, whatever it is asked for.

#include <array>
#include <cstddef>
#include <optional>
#include <type_traits>
#include <vector>

#include "chunk.h"
#include "exact_score.h"
#include "snapshot.h"

namespace daug::detail {

/// Scores, as Hit::score, of kCount items at once.
template <std::size_t kCount>
std::array<double, kCount> scores_at(const Snapshot& snapshot, const float* query, double norm, const Place* places) {
  std::array<const float*, kCount> items;
  std::array<double, kCount> norms;
  for (std::size_t i = 0; i < kCount; ++i) {
    const Chunk& chunk = *snapshot.parts()[places[i].part].chunk;
    items[i] = chunk.values(places[i].row);
    norms[i] = chunk.norms()[places[i].row];
  }
  return exact_scores<kCount>(snapshot.settings().metric, snapshot.settings().components(), query, norm, items, norms);
}

/// Calls take(i, score) for every one of these items, four of which are scored at a time.
template <class Take>
void for_each_score(const Snapshot& snapshot, const float* query, double norm, const std::vector<Place>& places,
                    const Take& take) {
  const auto score = [&]<std::size_t kCount>(std::integral_constant<std::size_t, kCount>, std::size_t first) {
    const auto scores = scores_at<kCount>(snapshot, query, norm, &places[first]);
    for (std::size_t i = 0; i < kCount; ++i) take(first + i, scores[i]);
  };
  constexpr std::integral_constant<std::size_t, 4> kFour;
  std::size_t i = 0;
  for (; i + kFour <= places.size(); i += kFour) score(kFour, i);
  for (; i < places.size(); ++i) score(std::integral_constant<std::size_t, 1>(), i);
}

/// The `count` nearest, or all that score at least `score` (kL2: at most).
struct SearchGoal {
  std::size_t count = 0;
  std::optional<double> score = {};
};

/// Hits of every query. `filters` holds one for all queries or one for each. `function` is named in errors.
std::vector<Hits> exact_search(const Snapshot& snapshot, const RowMatrixRef& queries, const SearchGoal& goal,
                               const std::vector<Filter>& filters, const SearchOptions& options, const char* function);

/// An item, and the bound that a scan found for a query (score_bounds.h).
struct BoundedPlace {
  Place place;
  float bound;
};

/// The `count` nearest of the given items of every query, scored and ordered as above. Those of a query come with the
/// largest bound first, and are scored until the bounds rule out all others. `norms` are the queries', which are valid.
std::vector<Hits> nearest_of(const Snapshot& snapshot, const RowMatrixRef& queries, std::vector<double> norms,
                             const std::vector<std::vector<BoundedPlace>>& items, std::size_t count,
                             const SearchOptions& options, const char* function);

}  // namespace daug::detail
