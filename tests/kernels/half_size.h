#pragma once
// Images of half and of twice the height and width, by their definitions.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace daug::test {

/// Images [N, C, H, W], or [N, H, W, C] where channels lie last.
struct ImageShape {
  std::int64_t batch, channels, height, width;
  bool channels_last;

  std::int64_t count() const { return batch * channels * height * width; }
  std::size_t at(std::int64_t n, std::int64_t c, std::int64_t y, std::int64_t x) const {
    return static_cast<std::size_t>(channels_last ? ((n * height + y) * width + x) * channels + c
                                                  : ((n * channels + c) * height + y) * width + x);
  }
  /// The same of other sides.
  ImageShape with(std::int64_t other_height, std::int64_t other_width) const {
    return {batch, channels, other_height, other_width, channels_last};
  }
  /// value(n, c, y, x) of all its values.
  template <class Value>
  auto filled(const Value& value) const {
    std::vector<decltype(value(0, 0, 0, 0))> result(static_cast<std::size_t>(count()));
    for (std::int64_t n = 0; n < batch; ++n)
      for (std::int64_t c = 0; c < channels; ++c)
        for (std::int64_t y = 0; y < height; ++y)
          for (std::int64_t x = 0; x < width; ++x) result[at(n, c, y, x)] = value(n, c, y, x);
    return result;
  }
};

/// Each value at 2 x 2 pixels.
template <class T>
std::vector<T> doubled(const std::vector<T>& values, const ImageShape& shape) {
  return shape.with(2 * shape.height, 2 * shape.width)
      .filled([&](std::int64_t n, std::int64_t c, std::int64_t y, std::int64_t x) {
        return values[shape.at(n, c, y / 2, x / 2)];
      });
}

/// Means of 2 x 2 pixels, without the last row or column of an odd number of them.
inline std::vector<double> halved(const std::vector<double>& values, const ImageShape& shape) {
  return shape.with(shape.height / 2, shape.width / 2)
      .filled([&](std::int64_t n, std::int64_t c, std::int64_t y, std::int64_t x) {
        double sum = 0;
        for (const std::int64_t lower : {0, 1})
          for (const std::int64_t right : {0, 1}) sum += values[shape.at(n, c, 2 * y + lower, 2 * x + right)];
        return sum / 4;
      });
}

}  // namespace daug::test
