#pragma once
// Batches of planes resampled bilinearly, every one of them read once.

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

/// What the kernel reads beside the planes, as one array that its caller puts there, in this order: the first source
/// row of every row of the result, and their weights; the first source column of every column, and their weights, tap
/// by tap, as neighbouring threads read them. First pixels are whole numbers below 2^24, which floats hold.
struct ResizeTables {
  std::vector<float> values;
  std::int64_t row_taps = 0, column_taps = 0;  ///< source pixels of one of the result
};

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
  return tables;
}

}  // namespace daug::kernels
