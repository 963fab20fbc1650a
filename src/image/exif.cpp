#include <utility>

#include "format.h"

namespace daug::detail {

// TIFF 6.0, section 2: byte order, 42, offset of the first directory; entries of tag, type, count, value.
int exif_orientation(ByteView tiff) {
  constexpr unsigned kOrientationTag = 0x0112, kShort = 3;
  if (tiff.size < 8) return 1;
  const bool little = tiff.data[0] == 'I';
  if (tiff.data[0] != tiff.data[1] || !(little || tiff.data[0] == 'M')) return 1;
  const auto number = [&](std::size_t at, int bytes) {
    std::uint32_t value = 0;
    for (int i = 0; i < bytes; ++i)
      value = value << 8 | tiff.data[at + static_cast<std::size_t>(little ? bytes - 1 - i : i)];
    return value;
  };
  const std::size_t directory = number(4, 4);
  if (number(2, 2) != 42 || directory > tiff.size - 2) return 1;
  const std::size_t entries = number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.size) return 1;
    if (number(entry, 2) != kOrientationTag) continue;
    const std::uint32_t value = number(entry + 8, 2);
    return number(entry + 2, 2) == kShort && number(entry + 4, 4) == 1 && value >= 1 && value <= 8
               ? static_cast<int>(value)
               : 1;
  }
  return 1;
}

// EXIF 2.3, tag 274: where the stored first row and first column belong.
GrayImage upright(GrayImage image, int orientation) {
  if (orientation == 1) return image;
  const bool exchange = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const int width = exchange ? image.height : image.width;
  const int height = exchange ? image.width : image.height;
  GrayImage result = GrayImage::filled(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      int u = x, v = y;
      if (exchange) std::swap(u, v);
      if (from_right) u = image.width - 1 - u;
      if (from_bottom) v = image.height - 1 - v;
      result.at(x, y) = image.at(u, v);
    }
  return result;
}

}  // namespace daug::detail
