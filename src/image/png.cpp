#include "daug/image/png.h"

#include <limits>

#include "daug/io/file.h"
#include "format.h"
#include "levels.h"

namespace daug {
namespace {

std::vector<std::uint8_t> encode(const std::vector<std::uint8_t>& pixels, int width, int height, int channels) {
  const std::int64_t size = (std::int64_t{width} * channels + 1) * height;
  require_range(size, 1, std::numeric_limits<std::int32_t>::max() / 2, "encode_png", "bytes of pixels");
  std::vector<std::uint8_t> bytes = detail::png_bytes(pixels.data(), width, height, channels);
  if (bytes.empty()) fail(ErrorCode::kIo, "encode_png", "memory", "room to compress", "none");
  return bytes;
}

void write(const std::string& path, const std::vector<std::uint8_t>& bytes) {
  write_file_atomically(path, bytes.data(), bytes.size());
}

}  // namespace

std::vector<std::uint8_t> encode_png(const GrayImage& image) {
  image.validate("encode_png");
  std::vector<std::uint8_t> levels;
  levels.reserve(image.pixels.size());
  for (const float value : image.pixels) levels.push_back(detail::to_level(value, "encode_png"));
  return encode(levels, image.width, image.height, 1);
}

std::vector<std::uint8_t> encode_png(const RgbImage& image) {
  image.validate("encode_png");
  return encode(image.pixels, image.width, image.height, 3);
}

void write_png(const std::string& path, const GrayImage& image) { write(path, encode_png(image)); }
void write_png(const std::string& path, const RgbImage& image) { write(path, encode_png(image)); }

}  // namespace daug
