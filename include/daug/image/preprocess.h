#pragma once
/// @file
/// From a radiograph of any size to the square a network takes, with masks and boxes kept in step.

#include <cstdint>
#include <vector>

#include "daug/core/box.h"
#include "daug/image/image.h"

namespace daug {

/// Resampling kernels, as in Pillow. When a side shrinks, the kernel is widened by the factor (antialiasing).
enum class ResizeFilter {
  kBox,       ///< mean over the pixel's area; nearest neighbour when enlarging
  kBilinear,  ///< triangle
  kBicubic,   ///< Keys (1981), a = -0.5; may overshoot
  kLanczos,   ///< 3 lobes; may overshoot
};

/// Separable resampling, both sides in [1, 16384]. Throws kInvalidArgument for other sides and a bad image.
///
/// Pixel centres lie at +0.5; weights are renormalised at the border, so constants are kept. A side that does not
/// change is not resampled: its pixels pass through exactly. Sums in double, horizontal pass first. Agrees with
/// Pillow's mode F and with torch's antialiased interpolation. Results are not clamped. Deterministic.
GrayImage resize(const GrayImage& image, int width, int height, ResizeFilter filter = ResizeFilter::kBilinear);

/// How a picture becomes a square.
enum class Fit {
  kLetterbox,   ///< whole picture, aspect ratio kept, bands of `pad` beside it
  kCenterCrop,  ///< aspect ratio kept, square filled, the longer side loses its ends
  kStretch,     ///< aspect ratio given up
};

/// Settings of preprocess; part of the fingerprint of everything computed from its output.
struct PreprocessOptions {
  int size = 64;                                  ///< side of the square in pixels, in [1, 16384]
  Fit fit = Fit::kLetterbox;                      ///< how the aspect ratio is treated
  ResizeFilter filter = ResizeFilter::kBilinear;  ///< kernel for pictures (masks always take kBox)
  float pad = 0;                                  ///< gray level of the bands, in [0, 1]

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Where a picture lands on the square: it is resampled to width x height with its corner at (left, top), which are
/// negative where it is cropped. Both map source pixels exactly as preprocess does, rounding included.
struct Placement {
  int width = 0;   ///< pixels of the resampled picture, >= 1
  int height = 0;  ///< pixels of the resampled picture, >= 1
  int left = 0;    ///< column of the square at which it begins
  int top = 0;     ///< row of the square at which it begins
};

/// The geometry all functions below share. Sides are rounded to the nearest pixel, at least 1. Throws kInvalidArgument
/// for options out of range, a source side below 1, and an aspect ratio that asks for a side of more than 2^28 pixels.
Placement placement(int source_width, int source_height, const PreprocessOptions& options);

/// A picture as network input: size * size values in [-1, 1] (gray level * 2 - 1, overshoot clamped), row-major.
///
/// A picture that already is size x size passes through exactly. Throws kInvalidArgument (bad image or options),
/// kNumeric (a pixel that is not finite).
std::vector<float> preprocess(const GrayImage& image, const PreprocessOptions& options = {});

/// A mask with the same geometry: size * size values, 1 where at least half of the pixel's area is set (source value
/// >= 0.5 counts as set), else 0. Bands are 0. Throws kInvalidArgument as preprocess does.
std::vector<std::uint8_t> preprocess_mask(const GrayImage& mask, const PreprocessOptions& options = {});

/// A box with the same geometry, clipped to the square; width or height is 0 when nothing of it is left. Throws
/// kInvalidArgument for a box that is not finite or has a negative side, and as placement does.
Box map_box(const Box& box, int source_width, int source_height, const PreprocessOptions& options = {});

}  // namespace daug
