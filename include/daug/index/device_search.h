#pragma once
/// @file
/// Exact search of an index that lies on a device. Its code is part of `daug::daug`, as it needs LibTorch; the header
/// does not.

#include <cstdint>
#include <memory>
#include <vector>

#include "daug/core/execution.h"
#include "daug/index/retrieval_index.h"

namespace c10 {
struct Device;
}

namespace daug {

/// How an index lies on a device.
struct DeviceSearchOptions {
  /// What is multiplied: kFloat32, kBFloat16, which takes half the memory, or kInt8, which takes a quarter, for vectors
  /// of at most kMostInt8Components. Speed and memory only, never results.
  Storage storage = Storage::kFloat32;
  /// Bytes of the device that items and their scores take, about, at least 1. Three quarters are for the items: when
  /// they take more, they stay in memory of the CPU that is pinned, as they are multiplied, and every search sends all
  /// of them there, block by block. A block has at least 32 of them.
  std::int64_t memory_budget = std::int64_t{8} << 30;
  /// Of the selection: kFused is its kernel on a CUDA device, for k up to 819 with kFloat32 and up to 128 else.
  Execution execution = Execution::kAuto;

  static constexpr std::int64_t kMostInt8Components = 8192;  ///< of whose products int32 holds every sum

  /// Throws kInvalidArgument.
  void validate() const;
};

/// The exact search of RetrievalIndex with the products on a device: ids, scores and order are those of
/// RetrievalIndex::search, bit for bit. **No CUDA device has run it yet.**
///
/// A matrix product scores all items, each score is widened to a bound by the error that it may have, the largest
/// bounds are kept, and what they belong to is scored again in double on the CPU, from the largest on, until the k-th
/// score so far beats the bounds that are left (SearchStats::rescored). A query whose k-th score does not beat the
/// bounds of all others is searched on the CPU (SearchStats::float32_fallbacks): among more than a few copies of one
/// vector, and where vectors differ in length by orders of magnitude. With kInt8 a query's components are whole numbers
/// of 16 bits, in two halves, and all sums are exact.
///
/// The items are those that the index had when this was made; copies share them. Any number of threads may search. The
/// device's work is queued on LibTorch's current stream, and a search waits for it. Where the device has less memory
/// left than memory_budget, items stay on the CPU as if they were beyond it. A search that runs out of memory is made
/// with half the items at a time, down to 8192, then with half the queries, and of one query with fewer items, down to
/// 32; later searches begin with all queries and the items that fitted, at least 8192. LibTorch's warning handler is
/// told once of either. Products of float32 have to be such: on a CUDA device TF32 is switched off for the call, unless
/// cuBLASLt is LibTorch's preferred library, which does not heed that; there and on the CPU LibTorch's precision of
/// such products (set_float32_matmul_precision) must be left at "highest".
class DeviceSearch {
 public:
  /// Puts what `index` has now on the CPU or a CUDA device (device_called). The vectors in the index's own memory are
  /// read by searches too. Throws kInvalidArgument, kUnsupported for another device or more than 2^32 - 2 items,
  /// kFormat when the items come from a damaged file, kUnsupported also for kInt8 and longer vectors, and
  /// kOutOfMemory where the CPU has too little memory.
  DeviceSearch(const RetrievalIndex& index, const c10::Device& device, const DeviceSearchOptions& options = {});

  /// The k nearest matching items of every query, as RetrievalIndex::search, and with its errors. options.breadth must
  /// be 0; options.max_candidates is for what is searched on the CPU. Also throws kUnsupported for kFused where there
  /// is no kernel, kOutOfMemory where not even one query and 32 items fit, and kDevice where the device failed.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter = {},
                           const SearchOptions& options = {}) const;
  /// The same without a filter.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const SearchOptions& options) const {
    return search(queries, k, Filter(), options);
  }

  /// The same with a filter for each query, as RetrievalIndex::search. What few items match is a bit an item and query;
  /// of a filter that most items pass, such as Filter::exclude_patient, what was found is asked about, and a query that
  /// has fewer than k hits left is searched on the CPU. Throws kMismatch also when there are not as many filters as
  /// queries.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const std::vector<Filter>& filters,
                           const SearchOptions& options = {}) const;

  /// Whether the items stay on the device between searches: they are within memory_budget, and the device had room.
  bool resident() const;

 private:
  class Items;
  std::vector<Hits> nearest(const RowMatrixRef& queries, std::int64_t k, const std::vector<Filter>& filters,
                            const SearchOptions& options) const;

  std::shared_ptr<const Items> items_;
};

}  // namespace daug
