#pragma once
// The size at which a report shows images and maps.

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

namespace daug {

/// Side of a picture in a report, in pixels: small images are enlarged by whole factors, so that the browser does not
/// blur them away, large ones averaged down by whole factors, so that a page of hundreds stays small. In [65, 255].
inline int shown_size(int size) {
  constexpr int kWanted = 128;
  return size < kWanted ? size * (kWanted / size) : size / (size / kWanted);
}

/// An image, map or region [size, size] at that size, [shown_size, shown_size]: floats are means, a pixel of a region
/// is inside where any of its pixels is. A margin narrower than the factor is left out on the right and below.
template <class T>
std::vector<T> shown_pixels(const T* values, int size) {
  const int side = shown_size(size), up = std::max(1, side / size), down = std::max(1, size / side);
  const auto at = [&](int y, int x) { return values[(y / up) * size + x / up]; };
  std::vector<T> shown;
  shown.reserve(static_cast<std::size_t>(side) * static_cast<std::size_t>(side));
  for (int y = 0; y < side; ++y)
    for (int x = 0; x < side; ++x) {
      double sum = 0;
      for (int dy = 0; dy < down; ++dy)
        for (int dx = 0; dx < down; ++dx) sum += at(y * down + dy, x * down + dx);
      if constexpr (std::is_integral_v<T>)
        shown.push_back(sum > 0 ? 1 : 0);
      else
        shown.push_back(static_cast<T>(sum / (down * down)));
    }
  return shown;
}

}  // namespace daug
