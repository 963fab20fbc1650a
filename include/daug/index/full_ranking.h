#pragma once
/// @file
/// Average precision over rankings of a whole gallery, for queries by the hundred thousand. Its code is part of
/// `daug::daug`, as it needs LibTorch; the header does not.

#include <cstdint>
#include <vector>

#include "daug/core/progress.h"
#include "daug/index/retrieval_index.h"

namespace c10 {
struct Device;
}

namespace daug {

/// Who asks for what: C columns, such as findings, of which each has its queries and its relevant items.
struct RankingMarks {
  std::int64_t columns = 0;                  ///< C, at least 1
  std::vector<std::uint8_t> queries;         ///< [Q, C]: 1 where the query asks, else 0
  std::vector<std::uint8_t> gallery;         ///< [G, C]: 1 where the item is relevant to whoever asks, else 0
  std::vector<std::int64_t> query_groups;    ///< [Q] patients; empty (with `gallery_groups`): all the gallery counts
  std::vector<std::int64_t> gallery_groups;  ///< [G] patients; a query's own are neither ranked nor relevant
};

/// How full_average_precision runs.
struct FullRankingOptions {
  /// Bytes of the device that rankings take, about, at least 1: 64 for each item and query at a time. The gallery
  /// takes 8 a component beside them.
  std::int64_t memory_budget = std::int64_t{1} << 30;

  /// Throws kInvalidArgument.
  void validate() const;
};

/// Average precision of every query and column over the ranking of all the gallery, `sum_{i <= R} i / rank_i / R`,
/// with `rank_1 < rank_2 < ...` the places of its R relevant items: RetrievalMetric::kApAll with k = G and
/// Relevance::kSameFinding, to rounding. The ranking is that of RetrievalIndex::search for items whose ids are their
/// rows: by scores in double, equal ones by row. [Q, C] row-major, in [0, 1]; NaN where a query does not ask or
/// nothing is relevant (NothingToFind::kSkip), so that it makes a RetrievalValues.
///
/// LibTorch multiplies in float64 on `device`, the CPU or a CUDA device (device_called), and sorts there. Where two
/// neighbours of a ranking are closer than rounding may have moved them, and one is relevant and the other not, the
/// scores that decide are computed on the CPU, for them and their neighbours as close. Q G D multiplications and Q
/// sorts of G values; memory 8 G D bytes, a few numbers an item, and memory_budget, never Q x G. **No CUDA device has
/// run it yet.**
///
/// `queries` [Q, D], `gallery` [G, D]. Which items rank where does not depend on device and budget; sums differ by
/// rounding. Progress counts queries; a stop throws kCancelled between two blocks of them. Throws kMismatch for shapes
/// that do not agree; kInvalidArgument for marks other than 0 and 1, values that are not finite, and zero vectors
/// under cosine; kUnsupported for another device; kOutOfMemory where a CUDA device has no room for the gallery or one
/// query, and kDevice where it failed.
std::vector<double> full_average_precision(const RowMatrixRef& queries, const RowMatrixRef& gallery, Metric metric,
                                           const RankingMarks& marks, const c10::Device& device,
                                           const FullRankingOptions& options = {}, const RunControl& control = {});

}  // namespace daug
