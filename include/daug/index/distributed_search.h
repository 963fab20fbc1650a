#pragma once
/// @file
/// One search over indexes that lie on several processes. Its code is part of `daug::daug`, as it needs LibTorch; the
/// header does not.

#include <cstdint>
#include <vector>

#include "daug/index/retrieval_index.h"

namespace c10d {
class ProcessGroup;
}

namespace daug {

/// The k nearest of what the ranks of a process group hold, for every query: equal, bit for bit, to
/// RetrievalIndex::search on one index with the items of all ranks, and the same on every rank. Every rank calls it
/// with its own shard (which may be empty) and the same queries, k, filter and breadth; a filter's predicate must be
/// the same function, which is not checked. With options.breadth each shard's nearest are approximate.
///
/// - group: with a backend for tensors on the CPU. Gloo is tested. Two exchanges: a few numbers a rank, then k hits a
///   query and rank.
/// - Each rank sees its shard as it was at one moment, but changes of several shards are seen independently.
///
/// Throws on every rank what one index would throw, for the same reasons: k beyond the items of all ranks, a filter on
/// a name that no item of any rank ever had. Also kMismatch on every rank when shards differ in dimension, metric or
/// fingerprint, or ranks in what they ask, and when a search fails on one rank (whose own error it throws there);
/// kInvalidArgument for an id that two ranks found, as only what they found is compared; kIo when the ranks cannot
/// exchange it.
std::vector<Hits> distributed_search(const RetrievalIndex& shard, const RowMatrixRef& queries, std::int64_t k,
                                     c10d::ProcessGroup& group, const Filter& filter = {},
                                     const SearchOptions& options = {});

}  // namespace daug
