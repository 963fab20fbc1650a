#pragma once
// Exact search of a snapshot, whatever it is asked for.

#include <optional>
#include <vector>

#include "snapshot.h"

namespace daug::detail {

/// The `count` nearest, or all that score at least `score` (kL2: at most).
struct SearchGoal {
  std::size_t count = 0;
  std::optional<double> score = {};
};

/// Hits of every query. `filters` holds one for all queries or one for each. `function` is named in errors.
std::vector<Hits> exact_search(const Snapshot& snapshot, const RowMatrixRef& queries, const SearchGoal& goal,
                               const std::vector<Filter>& filters, const SearchOptions& options, const char* function);

/// The `count` nearest of the given items of every query, scored and ordered as above.
std::vector<Hits> nearest_of(const Snapshot& snapshot, const RowMatrixRef& queries,
                             const std::vector<std::vector<Place>>& items, std::size_t count,
                             const SearchOptions& options, const char* function);

}  // namespace daug::detail
