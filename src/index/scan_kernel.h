#pragma once
// The inner loops of an exact search: dot products of blocks of rows with queries, and which of them are worth a closer
// look. One version for every instruction set, chosen at run time.
//
// Rows come in blocks of 16, so that a vector holds one component of several rows and no sum runs across a vector. A
// block of codes is
//     float32, float16, bfloat16   [dimension][16]
//     int8                         [ceil(dimension / 2)][16][2], an odd last component followed by zeros

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "daug/index/search_options.h"
#include "tile_unit.h"

namespace daug::detail {

constexpr std::size_t kBlockRows = 16;

/// Allocates on cache lines, so that no vector load crosses one.
template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, kLine); }
  friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
};
template <class T>
using LineVector = std::vector<T, LineAllocator<T>>;

/// Bytes of a block of rows, and of the part of a query that one block is multiplied with.
std::size_t block_bytes(Storage storage, std::size_t dimension);
std::size_t query_bytes(Storage storage, std::size_t dimension);

/// Blocks that lie one after another. The arrays of terms hold 16 values a block.
struct ScanRows {
  const std::byte* codes;
  const float* scale;
  const float* error;
  const float* offset;
  std::size_t blocks;
};

/// Queries that lie one after another. A row survives a query when its upper bound
///     d scale[row] factor[query] + error[row] - offset[row] inverse[query]
/// is at least threshold[query].
struct ScanQueries {
  const std::byte* codes;
  const float* factor;
  const float* inverse;
  const float* threshold;
  std::size_t count;
};

/// A row of `ScanRows` that is worth a closer look for one of `ScanQueries`, and d scale factor.
struct Survivor {
  std::uint32_t row;
  std::uint32_t query;
  float estimate;
};

/// Writes the survivors of every pair, at most 16 blocks x count of them, and returns their number.
std::size_t scan(Storage storage, const ScanRows& rows, const ScanQueries& queries, std::size_t dimension,
                 Survivor* survivors);

/// A block of float32 codes from 16 rows of floats; nullptr stands for a row of zeros.
void pack_block(const float* const rows[kBlockRows], std::size_t dimension, float* block);

/// Name of the instruction set that `scan` runs on: "AMX" where int8 codes are multiplied in its tiles.
const char* scan_target();

}  // namespace daug::detail
