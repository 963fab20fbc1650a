#pragma once
/// @file
/// Numbers to colours, and pictures of heatmaps over radiographs.

#include <cstdint>
#include <vector>

#include "daug/image/image.h"

namespace daug {

/// Colour scales. Viridis and inferno (van der Walt and Smith, matplotlib 1.5, CC0) are perceptually uniform and rise
/// steadily in lightness, so they survive gray printing and colour-blind eyes. They are interpolated linearly between
/// nine of their colours (within 8 of 256 levels of the original).
enum class Colormap {
  kGray,       ///< black to white
  kViridis,    ///< dark violet over green to yellow
  kInferno,    ///< black over red to light yellow
  kDiverging,  ///< blue - light gray - red, equally dark at both ends: for signed values around 0
};

/// Colour at position t in [0, 1]; outside it the nearest end. Throws kNumeric for not-a-number.
Rgb colormap_at(Colormap map, double t);

/// A height x width map (row-major) in colour; `low` and below get the first colour, `high` and above the last. When
/// low == high (a constant map) everything gets the first colour. Throws kInvalidArgument for sizes that do not agree,
/// low > high or an extent that is not finite, kNumeric for not-a-number.
RgbImage apply_colormap(const std::vector<float>& values, int width, int height, float low, float high,
                        Colormap map = Colormap::kInferno);

/// Gray levels as RGB, rounded and clamped like encode_png, with its errors.
RgbImage to_rgb(const GrayImage& image);

/// (1 - opacity) * base + opacity * overlay, rounded; opacity in [0, 1]. Sizes must agree (kInvalidArgument).
RgbImage blend(const RgbImage& base, const RgbImage& overlay, double opacity);

/// A heatmap over a radiograph. Each pixel's opacity is `opacity` * (value - low) / (high - low), clamped, so that the
/// anatomy stays visible where the map says nothing. `values` has the image's size; opacity in [0, 1]. Errors as
/// apply_colormap and to_rgb.
RgbImage overlay_map(const GrayImage& image, const std::vector<float>& values, float low, float high,
                     Colormap map = Colormap::kInferno, double opacity = 0.6);

/// Paints the inner border of a mask of the image's size (pixels that are set and have an unset or outside
/// 4-neighbour). Throws kInvalidArgument for another size.
void draw_outline(RgbImage& image, const std::vector<std::uint8_t>& mask, Rgb colour = {0, 255, 0});

}  // namespace daug
