#pragma once
/// @file
/// Position tables of transformers, resampled for another image size or text length.

#include <cstdint>

namespace at {
class Tensor;
}

namespace daug {

/// How a position table is interpolated. All align the outer edges of the first and last cell, as LibTorch's
/// `interpolate` without align_corners does.
enum class PositionFilter {
  kBicubicAntialias,  ///< a = -0.5, weights renormalised at the border; the reference method, open_clip for images
  kBicubic,           ///< a = -0.75, indices clamped; transformers' `interpolate_pos_encoding`
  kLinear,            ///< without antialias; open_clip for texts
};

/// Cells of a position table.
struct PositionGrid {
  std::int64_t rows = 1,  ///< cells from top to bottom, in [1, 16384]
      columns = 1;        ///< cells from left to right, in [1, 16384]
};

/// Image positions [1 + rows columns, D] from one grid to another; row 0, the class token's, is copied. A table that
/// has the grid already is returned as it is. dtype float32 or float64, which the arithmetic uses. Throws kMismatch
/// unless the table has 1 + from.rows from.columns rows, kInvalidArgument for grids out of range. Deterministic.
at::Tensor resampled_image_positions(const at::Tensor& table, PositionGrid from, PositionGrid to,
                                     PositionFilter filter = PositionFilter::kBicubicAntialias);

/// Text positions [L, D] -> [length, D], length in [1, 65536]: the table is an image of one row. As above.
at::Tensor resampled_text_positions(const at::Tensor& table, std::int64_t length,
                                    PositionFilter filter = PositionFilter::kBicubicAntialias);

}  // namespace daug
