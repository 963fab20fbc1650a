#pragma once
// Searches through the graph of a snapshot.

#include <vector>

#include "snapshot.h"

namespace daug::detail {

/// As exact_search for the `count` nearest. Throws kInvalidArgument when there is no graph.
std::vector<Hits> approximate_search(const Snapshot& snapshot, const RowMatrixRef& queries, std::size_t count,
                                     const std::vector<Filter>& filters, const SearchOptions& options,
                                     const char* function);

}  // namespace daug::detail
