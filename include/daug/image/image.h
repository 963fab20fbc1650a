#pragma once
/// @file
/// Pictures in memory: plain structs that any code can fill.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace daug {

/// One gray picture. Row-major; 0 is black, 1 is white.
struct GrayImage {
  int width = 0;              ///< pixels
  int height = 0;             ///< pixels
  std::vector<float> pixels;  ///< height * width values; in [0, 1] when they come from a decoder

  /// A picture of one value. Throws kInvalidArgument when a side is negative.
  static GrayImage filled(int width, int height, float value = 0);

  /// Whether there are no pixels.
  bool empty() const noexcept { return pixels.empty(); }
  /// Unchecked access; x counts from the left, y from the top.
  float& at(int x, int y) { return pixels[index(x, y)]; }
  /// The same, to read.
  float at(int x, int y) const { return pixels[index(x, y)]; }

  /// Throws kInvalidArgument, in the name of `function`, unless both sides are positive and agree with `pixels`.
  void validate(const char* function) const;

 private:
  std::size_t index(int x, int y) const noexcept {
    return static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x);
  }
};

/// Red, green, blue; 0 to 255 each, sRGB.
using Rgb = std::array<std::uint8_t, 3>;

/// One colour picture for display. Row-major, three bytes a pixel.
struct RgbImage {
  int width = 0;                     ///< pixels
  int height = 0;                    ///< pixels
  std::vector<std::uint8_t> pixels;  ///< height * width * 3 values

  /// A picture of one colour. Throws kInvalidArgument when a side is negative.
  static RgbImage filled(int width, int height, Rgb colour = {0, 0, 0});

  /// Whether there are no pixels.
  bool empty() const noexcept { return pixels.empty(); }
  /// The colour of a pixel. Unchecked; x counts from the left, y from the top.
  Rgb at(int x, int y) const {
    const std::uint8_t* p = &pixels[index(x, y)];
    return {p[0], p[1], p[2]};
  }
  /// Changes the colour of a pixel. Unchecked, as at.
  void set(int x, int y, Rgb colour) {
    for (std::size_t channel = 0; channel < 3; ++channel) pixels[index(x, y) + channel] = colour[channel];
  }

  /// As GrayImage::validate, for three values a pixel.
  void validate(const char* function) const;

 private:
  std::size_t index(int x, int y) const noexcept {
    return 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x));
  }
};

}  // namespace daug
