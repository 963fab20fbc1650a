#pragma once
// Images moved together with their maps, and their gray levels changed, in one pass.

#include <cmath>
#include <cstdint>

namespace daug::kernels {

/// Where the pixels of an item's result come from, and what becomes of its gray levels. Positions are in 2^-32 pixels:
/// whole numbers add up exactly, where float32 has steps of 6e-5 pixels near pixel 1000.
struct ImageChange {
  std::int64_t column[3] = {};  ///< of the source: what a column and a row of the result add, and of pixel (0, 0)
  std::int64_t row[3] = {};     ///< of the source, likewise
  float gain = 1, offset = 0;   ///< of the image's values
};

/// Of an affine change [2, 3] as affine_grid takes it: source coordinates from those of the result, both -1 and 1 at
/// the picture's edges, x before y. All positions have to be within 2^30 pixels, and what a step moves them within 2^6.
inline ImageChange image_change(const float* affine, std::int64_t height, std::int64_t width, float gain,
                                float offset) {
  const double h = static_cast<double>(height), w = static_cast<double>(width);
  const auto set = [&](const float* from, double size, std::int64_t* to) {
    const auto fixed = [](double pixels) { return static_cast<std::int64_t>(std::llround(std::ldexp(pixels, 32))); };
    // Pixel i of n lies at (2 i + 1) / n - 1.
    to[0] = fixed(from[0] * size / w);
    to[1] = fixed(from[1] * size / h);
    to[2] = fixed(((from[0] * (1 / w - 1) + from[1] * (1 / h - 1) + from[2] + 1) * size - 1) / 2);
  };
  ImageChange change;
  set(affine, w, change.column);
  set(affine + 3, h, change.row);
  change.gain = gain, change.offset = offset;
  return change;
}

/// A pixel of the result is the bilinear mean of the four pixels around its source position, those beyond the borders
/// at what lies outside: -1 of images, 0 of maps. Where `shades`, values of images are then value * gain + offset, held
/// in [-1, 1]. In float32 and rounded once; what elements are is said apart. Results overlap nothing.
struct AugmentImages {
  std::int64_t batch = 0;                             ///< at most 65535, may be 0
  std::int64_t image_channels = 0, map_channels = 0;  ///< may be 0
  std::int64_t height = 0, width = 0;                 ///< in [1, 2^24)
  bool shades = false;

  const void* images = nullptr;          ///< [batch, image_channels, height, width]
  const void* maps = nullptr;            ///< [batch, map_channels, height, width]
  void* new_images = nullptr;            ///< in the images' shape
  void* new_maps = nullptr;              ///< in the maps' shape
  const ImageChange* changes = nullptr;  ///< [batch], where the images are
};

}  // namespace daug::kernels
