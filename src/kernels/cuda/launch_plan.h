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
