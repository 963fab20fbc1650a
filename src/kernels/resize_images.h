#pragma once
// Batches of planes resampled bilinearly, every one of them read once.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/map_plan.h"

namespace daug::kernels {

/// A pixel of the result is the sum of source pixels, each times its row's and its column's weight (resample_taps.h).
struct ResizeImages {
  std::int64_t planes = 0;                     ///< at most 65535, may be 0
  std::int64_t height = 0, width = 0;          ///< in [1, 2^24)
  std::int64_t out_height = 0, out_width = 0;  ///< in [1, 2^24)
  const void* images = nullptr;                ///< [planes, height, width]
  void* output = nullptr;                      ///< [planes, out_height, out_width], of the same type
};

constexpr std::int64_t kResizeRows = 32;       ///< of the result that a block makes at most, 32 columns wide
constexpr std::int64_t kMostSourceRows = 352;  ///< of a block, resampled along the rows: 44 KiB of the 48 that it has

/// What the kernel reads beside the planes, as one array that its caller puts there, in this order: the first source
/// row of every row of the result, and their weights; the first source column of every column, and their weights, tap
/// by tap, as neighbouring threads read them. First pixels are whole numbers below 2^24, which floats hold.
struct ResizeTables {
  std::vector<float> values;
  std::int64_t row_taps = 0, column_taps = 0;  ///< source pixels of one of the result
  std::int64_t block_rows = 0;   ///< of the result that a block makes; 0: one alone is of more source rows than fit
  std::int64_t source_rows = 0;  ///< of a block, at most
};

/// Source rows from the first to the last of `rows` rows of a result, at most.
inline std::int64_t source_rows_of(const Resampling& axis, std::int64_t rows) {
  const auto count = static_cast<std::int64_t>(axis.first.size());
  std::int64_t most = 0;
  for (std::int64_t top = 0; top < count; top += rows) {
    const std::int64_t last = std::min(top + rows, count) - 1;
    most = std::max(most,
                    axis.first[static_cast<std::size_t>(last)] + axis.taps - axis.first[static_cast<std::size_t>(top)]);
  }
  return most;
}

inline ResizeTables resize_tables(const ResizeImages& p, bool antialias) {
  ResizeTables tables;
  auto& all = tables.values;
  const Resampling rows = resampling(p.height, p.out_height, antialias);
  const Resampling columns = resampling(p.width, p.out_width, antialias);
  for (const std::int64_t row : rows.first) all.push_back(static_cast<float>(row));
  all.insert(all.end(), rows.weights.begin(), rows.weights.end());
  for (const std::int64_t column : columns.first) all.push_back(static_cast<float>(column));
  for (std::int64_t tap = 0; tap < columns.taps; ++tap)
    for (std::int64_t i = 0; i < p.out_width; ++i)
      all.push_back(columns.weights[static_cast<std::size_t>(i * columns.taps + tap)]);
  tables.row_taps = rows.taps, tables.column_taps = columns.taps;
  for (std::int64_t most = kResizeRows; most > 0 && tables.block_rows == 0; most /= 2) {
    tables.source_rows = source_rows_of(rows, most);
    if (tables.source_rows <= kMostSourceRows) tables.block_rows = most;
  }
  return tables;
}

}  // namespace daug::kernels
