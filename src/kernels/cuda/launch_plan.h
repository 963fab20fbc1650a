#pragma once
// How work is cut into blocks. Host arithmetic, tested without a device.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#ifdef __CUDACC__
#define DAUG_HOST_DEVICE __host__ __device__
#else
#define DAUG_HOST_DEVICE
#endif

namespace daug::kernels::cuda {

constexpr int kThreads = 256;                      ///< of a block
constexpr std::int64_t kMostInGrid = 65535;        ///< blocks along a grid's second or third dimension
constexpr std::int64_t kMostSide = (1 << 24) - 1;  ///< pixels of a plane that is resized or moved: what floats count
constexpr std::int64_t kMostChannels = 6144;       ///< of which a block's 48 KiB hold two floats each

/// Whether a group norm of [batch, channels, ...] in so many groups is within what a launch takes.
inline bool fits_group_norm(std::int64_t batch, std::int64_t channels, std::int64_t groups, bool channels_last) {
  return batch <= kMostInGrid && groups <= kMostInGrid && (!channels_last || channels <= kMostChannels);
}

// Tiles of scores. A block takes whole rows, so that it knows their sums; of these each thread takes some columns.
constexpr int kTileColumnsOfThread = 8;
constexpr std::int64_t kMostTileColumns = kThreads * kTileColumnsOfThread;

/// Rows that a block takes: of the largest tiles so many that no more than 256 blocks, two for each multiprocessor of a
/// large device, leave parts of the sums over columns.
DAUG_HOST_DEVICE inline int tile_rows_of_block(std::int64_t rows) { return rows <= 2048 ? 8 : 16; }

/// Blocks that share the rows of a tile.
inline std::int64_t tile_blocks(std::int64_t rows) {
  const int of_block = tile_rows_of_block(rows);
  return (rows + of_block - 1) / of_block;
}

inline bool fits_tile(std::int64_t rows, std::int64_t columns) {
  return tile_blocks(rows) <= kMostInGrid && columns <= kMostTileColumns;
}

/// What tiles need beside their products, in numbers.
struct TileNeeds {
  bool soft = false;        ///< one more for each pair
  std::int64_t copied = 0;  ///< of each row and column, for copies and for gradients that are made beside them
  std::int64_t states = 0;  ///< of the labels of all items
};

constexpr std::int64_t kLeastTileRows = 512;
/// Up to 32 MB of products, or of products and soft pairs: a large device's cache holds them, and the more a tile has,
/// the larger are its matrix products and the fewer calls are queued.
constexpr int kMostDoublings = 3;
/// Of the 2^22 numbers that a loss may hold beside those that grow with items * width: factors and sums have the rest.
constexpr std::int64_t kTileRoom = std::int64_t{3} << 20;

/// How often the rows of tiles of kMostTileColumns are doubled for a loss of so many items: what is held beside its
/// gradients and the scores it keeps stays within items * width numbers, in which such scores would be, and kTileRoom.
inline int tile_doublings(std::int64_t items, std::int64_t width, const TileNeeds& needs = {}) {
  int doublings = needs.soft ? kMostDoublings - 1 : kMostDoublings;
  const auto held = [&] {
    const std::int64_t rows = std::min(kLeastTileRows << doublings, items);
    return rows * kMostTileColumns * (needs.soft ? 2 : 1) + (rows + kMostTileColumns) * needs.copied + needs.states;
  };
  while (doublings > 0 && held() > items * width + kTileRoom) --doublings;
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

/// Bits of a float that order as unsigned numbers do what is no NaN, -0 before 0.
DAUG_HOST_DEVICE inline std::uint32_t ordered_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

/// The float of such bits.
DAUG_HOST_DEVICE inline float from_ordered_bits(std::uint32_t bits) {
  bits = bits & 0x80000000U ? bits & 0x7fffffffU : ~bits;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// map_postprocess: a block blurs a tile of a map in its memory; another looks at all of a map for its scale.

constexpr int kMapRun = 4;                         ///< neighbouring pixels that a thread blurs
constexpr int kMapColumns = 32 * kMapRun;          ///< pixels of a tile's row, a run for each thread of a warp
constexpr int kMostFixedRadius = 4;                ///< of a blur that a kernel is compiled for
constexpr int kAnyRadius = -1;                     ///< of the kernel for all other blurs
constexpr int kResizedRows = 64;                   ///< of the result that a block makes, at most
constexpr std::int64_t kMostMapShrink = 176;       ///< times that a map's height may shrink
constexpr std::int64_t kMostTileFloats = 12160;    ///< of 48 KiB, which a block has everywhere, less what else it keeps
constexpr std::int64_t kMostMapPixels = 1 << 22;   ///< of a map
constexpr std::int64_t kSmoothedFloats = 1 << 23;  ///< of maps at a time: 32 MiB, for a device's cache
/// Floats of 99 KiB, which from compute capability 8.0 on a block has on request, less what else it keeps.
constexpr std::int64_t kLargestTileFloats = 25216;
/// Floats of each of two tiles that share the 164 KiB of a multiprocessor of 8.0, where 1 KiB of each block is not its
/// own.
constexpr std::int64_t kPairedTileFloats = 20608;

/// The radius of the kernel for a blur with these radii.
inline int fixed_radius(std::int64_t vertical, std::int64_t horizontal) {
  return vertical == horizontal && vertical <= kMostFixedRadius ? static_cast<int>(vertical) : kAnyRadius;
}

/// So many pixels or a few more, in whole runs.
DAUG_HOST_DEVICE constexpr int whole_runs(int pixels) { return (pixels + kMapRun - 1) / kMapRun * kMapRun; }

/// What a block blurs of a map.
struct MapTile {
  int fixed = kAnyRadius;   ///< see fixed_radius
  int rows = 0;             ///< of kMapColumns pixels
  std::int64_t floats = 0;  ///< with what the blur reaches beside it, in whole runs along the rows
};

/// The tile for a blur with these radii. Rows that several tiles reach are blurred along themselves for each of them,
/// so that tall tiles are less work; but two of them should fit a multiprocessor, and one has to.
inline MapTile map_tile(std::int64_t vertical, std::int64_t horizontal) {
  const std::int64_t pitch = kMapColumns + 2 * whole_runs(static_cast<int>(horizontal));
  MapTile tile;
  tile.fixed = fixed_radius(vertical, horizontal);
  tile.rows = tile.fixed != kAnyRadius ? 64 : (32 + 2 * vertical) * pitch <= kPairedTileFloats ? 32 : 16;
  tile.floats = (tile.rows + 2 * vertical) * pitch;
  return tile;
}

/// Whether maps, blurred with these radii, are within what a launch takes: 48 pixels of radius in both directions are.
inline bool fits_map_postprocess(std::int64_t height, std::int64_t width, std::int64_t vertical,
                                 std::int64_t horizontal, std::int64_t out_height) {
  return height * width <= kMostMapPixels && map_tile(vertical, horizontal).floats <= kLargestTileFloats &&
         height <= kMostMapShrink * out_height;
}

/// What a block makes of a resized map.
struct ResizedTile {
  int rows = 0;
  int run = 1;              ///< neighbouring columns of a thread: kMapRun or 1
  std::int64_t floats = 0;  ///< of the source rows that it is made of, at the result's columns
};

/// For rows of which each is made of so many source rows: the largest tile that fits, none (no rows) if one row alone
/// does not, as it does within kMostMapShrink.
inline ResizedTile resized_tile(std::int64_t height, std::int64_t out_height, std::int64_t row_taps) {
  for (const int run : {kMapRun, 1})
    for (int rows = kResizedRows; rows >= (run == 1 ? 1 : 8); rows /= 2) {  // eight warps want a row each
      // From the first source row of the first one to that of the last is no farther than this plus one.
      const std::int64_t apart = (std::min<std::int64_t>(rows, out_height) - 1) * height / out_height;
      const std::int64_t floats = std::min(height, apart + 1 + row_taps) * 32 * run;
      if (floats <= kMostTileFloats) return {rows, run, floats};
    }
  return {};
}

/// The pixel that stands at `at`, which may lie `radius` < `size` beyond either border; what lies farther, where tiles
/// are not full or have more beside them, is anywhere inside.
DAUG_HOST_DEVICE inline int reflected(int at, int radius, int size) {
  const int last = size - 1;
  if (at < -radius || at > last + radius) at = last;
  if (at < 0) at = -at;
  return at > last ? 2 * last - at : at;
}

/// Blocks of `size` that cover `length`.
DAUG_HOST_DEVICE inline int blocks_of(std::int64_t length, int size) {
  return static_cast<int>((length + size - 1) / size);
}

/// How many of `count` values in rising order, from rising[i] on, are less than values[i]: none for a NaN. Takes the
/// same steps for all of them, so that their loads can be on their way together.
template <int kValues>
DAUG_HOST_DEVICE inline void count_below(const float* const (&rising)[kValues], int count,
                                         const float (&values)[kValues], int (&below)[kValues]) {
  for (int i = 0; i < kValues; ++i) below[i] = 0;
  while (count > 0) {
    const int half = (count + 1) / 2;
    for (int i = 0; i < kValues; ++i)
      if (rising[i][below[i] + half - 1] < values[i]) below[i] += half;
    count -= half;
  }
}

/// Tiles of so many rows that cover a map.
inline std::int64_t map_tiles(std::int64_t height, std::int64_t width, int rows) {
  return std::int64_t{blocks_of(height, rows)} * blocks_of(width, kMapColumns);
}

/// Maps of so many pixels that are worked on at a time, of `maps` >= 1: as evenly as can be.
inline std::int64_t maps_at_once(std::int64_t maps, std::int64_t pixels) {
  const std::int64_t most = std::clamp<std::int64_t>(kSmoothedFloats / pixels, 1, kMostInGrid);
  const std::int64_t groups = (maps + most - 1) / most;
  return (maps + groups - 1) / groups;
}

/// Floats that so many maps of so many pixels take, so that what lies behind them is as well aligned.
inline std::int64_t smoothed_floats(std::int64_t maps, std::int64_t pixels) { return (maps * pixels + 3) / 4 * 4; }

// resize_images: a block makes a tile of the result from strips of source columns.

constexpr int kResizeTile = 32;     ///< rows of the result that a block makes, and columns, one a lane
constexpr int kStripColumns = 160;  ///< of the source in its memory, 20 KiB: what a tile at a quarter of the size takes

/// Where a strip's column lies in a row of that memory. Neighbours are a quarter of a row apart, 8 banks: threads that
/// write four of them each do not meet in a bank, nor do those that read every fourth; of others two at most.
DAUG_HOST_DEVICE inline int strip_place(int column) { return (column & 3) * (kStripColumns / 4) + (column >> 2); }

// adamw: whole loads by all blocks, and what is left one by one.

constexpr int kAdamwWidth = 4;                   ///< elements of a load
constexpr std::int64_t kMostAdamwBlocks = 8192;  ///< many, so that the last ones leave little of a device idle

/// How a launch cuts the elements of a step.
struct AdamwPlan {
  int width = 1;           ///< of a load: kAdamwWidth or 1
  std::int64_t packs = 0;  ///< whole loads; fewer than `width` elements are left
  unsigned blocks = 1;
};

/// Of arrays of so many elements, which may begin anywhere. Null pointers are absent.
inline AdamwPlan adamw_plan(std::int64_t elements, std::initializer_list<const void*> addresses) {
  AdamwPlan plan;
  plan.width = vector_width(0, sizeof(float), addresses) == kAdamwWidth ? kAdamwWidth : 1;
  plan.packs = elements / plan.width;
  plan.blocks =
      static_cast<unsigned>(std::clamp<std::int64_t>((plan.packs + kThreads - 1) / kThreads, 1, kMostAdamwBlocks));
  return plan;
}

// search_select: a block takes the keys of a chunk of scores that are better than what its query has into its memory,
// and throws the worse ones out whenever that is full.

constexpr int kSearchRound = 8 * kThreads;       ///< scores between two looks at the room that is left
constexpr int kSearchBuffer = 2 * kSearchRound;  ///< keys in a block's memory: 32 KiB
constexpr int kMostWanted = 1024;                ///< keys a query
constexpr std::int64_t kSearchSeed = 1 << 14;    ///< scores from which the first keys to beat come
constexpr std::int64_t kShortestChunk = 2048;    ///< scores of a query that a block looks at, at least

/// Scores of a query that a block looks at: long chunks leave fewer keys to merge, short ones occupy the device.
inline std::int64_t search_chunk(std::int64_t scores, std::int64_t queries) {
  constexpr std::int64_t kLongest = 8 * kShortestChunk, kEnoughBlocks = 2048;
  return std::clamp(scores * queries / kEnoughBlocks, kShortestChunk, kLongest);
}

/// Chunks of a query whose keys are kept at a time, at most: the first scores go in the shortest ones.
inline std::int64_t search_chunks(std::int64_t scores, std::int64_t queries) {
  const std::int64_t chunk = search_chunk(scores, queries), first = std::min(scores, kSearchSeed);
  return std::max((scores + chunk - 1) / chunk, (first + kShortestChunk - 1) / kShortestChunk);
}

/// A row and its score as one number, larger is better: the larger score and, of equal ones, the smaller row. 0: none.
using SearchKey = std::uint64_t;
constexpr std::int64_t kMostRows = 0xffffffff;  ///< that have keys

/// Of a score that is no NaN and a row in [0, kMostRows).
DAUG_HOST_DEVICE inline SearchKey search_key(float score, std::int64_t row) {
  return static_cast<SearchKey>(ordered_bits(score)) << 32 | (0xffffffffU - static_cast<std::uint32_t>(row));
}
inline float score_of(SearchKey key) { return from_ordered_bits(static_cast<std::uint32_t>(key >> 32)); }
inline std::int64_t row_of(SearchKey key) { return 0xffffffffU - static_cast<std::uint32_t>(key); }

/// A bitonic sort goes through spans 2, 4, .. of the size, a power of two, and for each through steps span / 2, .. 1.
/// In each step number i < size / 2 compares what lies at bitonic_first(i, step) and one step behind it; the larger
/// goes first where bitonic_descends(first, span), else last.
DAUG_HOST_DEVICE inline int bitonic_first(int i, int step) { return 2 * i - (i & (step - 1)); }
DAUG_HOST_DEVICE inline bool bitonic_descends(int first, int span) { return (first & span) == 0; }

/// How the rows of an index lie on a device.
struct SearchBlocks {
  std::int64_t rows = 0;  ///< of a block, a multiple of 32, as a filter says of 32 rows at a time which may be found
  bool resident = false;  ///< all of them stay there
};

constexpr std::int64_t kQueriesAtOnce = 1024;
constexpr std::int64_t kMostBlockRows = 1 << 20;  ///< scores of a block stay below 2^31

/// Within `budget` bytes, or 32 rows at a time where these are too few: three quarters for rows of `row_bytes` each,
/// the rest for the scores of a block.
inline SearchBlocks search_blocks(std::int64_t rows, std::int64_t row_bytes, std::int64_t budget) {
  const std::int64_t for_scores = budget / 4, for_rows = budget - for_scores;
  SearchBlocks blocks;
  blocks.resident = rows <= for_rows / row_bytes;
  std::int64_t most = for_scores / (kQueriesAtOnce * static_cast<std::int64_t>(sizeof(float)));
  if (!blocks.resident) most = std::min(most, for_rows / row_bytes);
  blocks.rows = std::clamp<std::int64_t>(most / 32 * 32, 32, kMostBlockRows);
  return blocks;
}

/// Rows that may have to be scored exactly for the k nearest: bounds of rows of fewer bits leave more of them open.
inline std::int64_t search_candidates(std::int64_t k, bool reduced) {
  return reduced ? std::max<std::int64_t>(128, 8 * k) : k + std::max<std::int64_t>(22, k / 4);
}

}  // namespace daug::kernels::cuda
