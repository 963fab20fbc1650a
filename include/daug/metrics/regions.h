#pragma once
/// @file
/// The connected regions of a mask and the candidates of a heatmap: what lesion-wise figures count.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "daug/core/box.h"
#include "daug/core/error.h"
#include "daug/metrics/view.h"

namespace daug {

/// The regions of a mask: pixels that touch, diagonals included (8-connected).
struct MaskRegions {
  std::vector<std::uint32_t> label;  ///< [height * width]; 0 outside, else 1 + the region's number
  std::vector<Box> boxes;  ///< [regions]; smallest box around each, regions in raster order of their first pixel
};

/// Finds the regions of `mask` [height, width], any non-zero value is inside. O(height * width). Throws
/// kInvalidArgument for another length.
inline MaskRegions mask_regions(ArrayView<std::uint8_t> mask, std::size_t height, std::size_t width) {
  const MatrixView<std::uint8_t> pixels(mask, height, width);
  MaskRegions regions;
  regions.label.assign(mask.size(), 0);
  std::vector<std::size_t> pending;
  for (std::size_t seed = 0; seed < mask.size(); ++seed) {
    if (!mask[seed] || regions.label[seed]) continue;
    const auto label = static_cast<std::uint32_t>(regions.boxes.size() + 1);
    std::size_t top = height, bottom = 0, left = width, right = 0;
    pending.assign(1, seed);
    regions.label[seed] = label;
    while (!pending.empty()) {
      const std::size_t row = pending.back() / width, column = pending.back() % width;
      pending.pop_back();
      top = std::min(top, row);
      bottom = std::max(bottom, row + 1);
      left = std::min(left, column);
      right = std::max(right, column + 1);
      for (std::size_t r = row > 0 ? row - 1 : 0; r < std::min(row + 2, height); ++r)
        for (std::size_t c = column > 0 ? column - 1 : 0; c < std::min(column + 2, width); ++c) {
          const std::size_t neighbour = r * width + c;
          if (!pixels(r, c) || regions.label[neighbour]) continue;
          regions.label[neighbour] = label;
          pending.push_back(neighbour);
        }
    }
    regions.boxes.push_back({static_cast<double>(left), static_cast<double>(top), static_cast<double>(right - left),
                             static_cast<double>(bottom - top)});
  }
  return regions;
}

/// A place that something points at.
struct Candidate {
  double score = 0;  ///< higher is surer; finite
  double x = 0;      ///< of the point, in pixels (see Box)
  double y = 0;      ///< of the point
  Box box;           ///< around it; empty when only the point is known
};

/// The candidates of a heatmap [height, width]: one for each connected region with map >= threshold, its score the
/// highest value in it, its point the centre of that pixel (the first in raster order among equals), its box the
/// region's.
///
/// `map` finite (kNumeric); wrong lengths and a threshold that is not a number throw kInvalidArgument.
inline std::vector<Candidate> map_candidates(ArrayView<float> map, std::size_t height, std::size_t width,
                                             double threshold) {
  constexpr const char* kFunction = "map_candidates";
  require(!std::isnan(threshold), kFunction, "threshold", "a number", threshold);
  const MatrixView<float> values(map, height, width);
  std::vector<std::uint8_t> above;
  above.reserve(map.size());
  for (float value : map) {
    if (!std::isfinite(value)) fail(ErrorCode::kNumeric, kFunction, "map", "finite values", value);
    above.push_back(static_cast<double>(value) >= threshold);
  }
  const MaskRegions regions = mask_regions(above, height, width);
  std::vector<Candidate> candidates(regions.boxes.size());
  std::vector<std::uint8_t> seen(regions.boxes.size(), 0);
  for (std::size_t row = 0; row < height; ++row)
    for (std::size_t column = 0; column < width; ++column) {
      if (!above[row * width + column]) continue;
      const std::size_t region = regions.label[row * width + column] - 1;
      const auto value = static_cast<double>(values(row, column));
      if (seen[region] && value <= candidates[region].score) continue;
      seen[region] = 1;
      candidates[region] = {value, static_cast<double>(column) + 0.5, static_cast<double>(row) + 0.5,
                            regions.boxes[region]};
    }
  return candidates;
}

}  // namespace daug
