#pragma once
/// @file
/// One search over several indexes, wherever each of them is.

#include <cstdint>
#include <vector>

#include "daug/index/retrieval_index.h"

namespace daug {

/// The k nearest of what shards found, for every query: `shards[s][q]` are the hits of query q in shard s, each sorted
/// as RetrievalIndex::search returns them. Equal, bit for bit, to the search of one index that holds the items of all
/// shards, when every shard was asked for its k nearest, or all of its items if it has fewer.
///
/// Throws kInvalidArgument for k < 1, hits that are not sorted, or an id that two shards have; kMismatch when shards
/// answered different numbers of queries.
std::vector<Hits> merge_hits(const std::vector<std::vector<Hits>>& shards, std::int64_t k, Metric metric);

}  // namespace daug
