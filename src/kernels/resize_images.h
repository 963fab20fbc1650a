#pragma once
// Batches of planes resampled bilinearly, every one of them read once.

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
/// by tap, as neighbouring threads read them.
struct ResizeTables {
  std::vector<float> values;
  std::int64_t row_taps = 0, column_taps = 0;  ///< source pixels of one of the result
};

inline ResizeTables resize_tables(const ResizeImages& p, bool antialias) {
  ResizeTables tables;
  const Resampling rows = resampling(p.height, p.out_height, antialias);
  const Resampling columns = resampling(p.width, p.out_width, antialias);
  append_axis(rows, false, tables.values);
  append_axis(columns, true, tables.values);
  tables.row_taps = rows.taps, tables.column_taps = columns.taps;
  return tables;
}

}  // namespace daug::kernels
