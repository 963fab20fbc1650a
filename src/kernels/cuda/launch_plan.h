#pragma once
// How work is cut into blocks. Host arithmetic, tested without a device.

#include <cstdint>
#include <initializer_list>

namespace daug::kernels::cuda {

constexpr int kThreads = 256;                 ///< of a block
constexpr std::int64_t kMostInGrid = 65535;   ///< blocks along a grid's second or third dimension
constexpr std::int64_t kMostChannels = 6144;  ///< of which a block's 48 KiB hold two floats each

/// Whether a group norm of [batch, channels, ...] in so many groups is within what a launch takes.
inline bool fits_group_norm(std::int64_t batch, std::int64_t channels, std::int64_t groups, bool channels_last) {
  return batch <= kMostInGrid && groups <= kMostInGrid && (!channels_last || channels <= kMostChannels);
}

// Tiles of scores. A block takes whole rows, so that it knows their sums; of these each thread takes some columns.
constexpr int kTileColumnsOfThread = 8;
constexpr int kTileRowsOfBlock = 8;
constexpr std::int64_t kMostTileColumns = kThreads * kTileColumnsOfThread;

/// Blocks that share the rows of a tile.
inline std::int64_t tile_blocks(std::int64_t rows) { return (rows + kTileRowsOfBlock - 1) / kTileRowsOfBlock; }

inline bool fits_tile(std::int64_t rows, std::int64_t columns) {
  return tile_blocks(rows) <= kMostInGrid && columns <= kMostTileColumns;
}

constexpr std::int64_t kLeastTileRows = 512;
/// Up to products of 16 MB: a device's cache holds them, and 256 blocks keep all of it at work.
constexpr int kMostDoublings = 2;

/// How often the rows of tiles of kMostTileColumns are doubled for a loss of so many items: what is held beside its
/// gradients and the scores it keeps (products, soft pairs, and where items are left out the gathered rows of both
/// sides with their gradients) stays within items * width floats and 16 MB.
inline int tile_doublings(std::int64_t items, std::int64_t width) {
  int doublings = kMostDoublings;
  const auto held = [&] {
    const std::int64_t rows = kLeastTileRows << doublings;
    return 2 * rows * kMostTileColumns + 2 * (rows + kMostTileColumns) * width;
  };
  while (doublings > 0 && held() > items * width + (std::int64_t{1} << 22)) --doublings;
  return doublings;
}

/// Elements of `bytes` bytes that one load of at most 16 bytes takes, so that every row of `length` elements is cut
/// into whole loads and all addresses allow it. Null pointers are absent.
inline int vector_width(std::int64_t length, int bytes, std::initializer_list<const void*> addresses,
                        std::initializer_list<std::int64_t> strides = {}) {
  int width = 16 / bytes;
  const auto fits = [&] {
    if (length % width != 0) return false;
    for (const std::int64_t stride : strides)
      if (stride % width != 0) return false;
    for (const void* address : addresses)
      if (reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(width * bytes) != 0) return false;
    return true;
  };
  while (width > 1 && !fits()) width /= 2;
  return width;
}

/// `total` items in chunks of `size` each, the last one perhaps smaller.
struct Chunks {
  std::int64_t size = 0;
  int count = 0;
};

/// Chunks of about `preferred` items, but no more of them than `most`. No items: one chunk without any.
inline Chunks chunks(std::int64_t total, std::int64_t preferred, int most) {
  if (total <= 0) return {0, 1};
  const std::int64_t least = (total + most - 1) / most;
  const std::int64_t size = preferred > least ? preferred : least;
  return {size, static_cast<int>((total + size - 1) / size)};
}

/// A block over rows of `length` elements in which every thread keeps to its column of `width` elements.
struct RowBlock {
  int lanes = 0;  ///< threads along a row; a lane takes more than one column when the row is longer than the block
  int rows = 0;   ///< rows at a time
};

inline RowBlock row_block(std::int64_t length, int width) {
  const std::int64_t columns = length / width;
  RowBlock block;
  block.lanes = static_cast<int>(columns < kThreads ? columns : kThreads);
  block.rows = block.lanes > 0 ? kThreads / block.lanes : 1;
  return block;
}

}  // namespace daug::kernels::cuda
