#pragma once
// What the decoders share. Not installed.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/image/decode.h"

namespace daug::detail {

const ImageDecoder& png_decoder();
const ImageDecoder& jpeg_decoder();
const ImageDecoder& pgm_decoder();

/// The bytes contradict the format.
template <class Expected, class Actual>
[[noreturn]] void malformed(const std::string& name, const Expected& expected, const Actual& actual) {
  fail(ErrorCode::kFormat, "decode_image", name, expected, actual);
}

/// The bytes are valid, but nothing here reads them.
template <class Expected, class Actual>
[[noreturn]] void unsupported(const std::string& name, const Expected& expected, const Actual& actual) {
  fail(ErrorCode::kUnsupported, "decode_image", name, expected, actual);
}

/// Refuses an empty picture (kFormat) and one beyond the limits (kUnsupported).
void check_extent(std::int64_t width, std::int64_t height, const DecodeLimits& limits, const std::string& name);

/// Reads big-endian numbers in order; running off the end is kFormat.
class Reader {
 public:
  Reader(ByteView bytes, const std::string& name, std::size_t position = 0)
      : bytes_(bytes), name_(name), position_(position) {}

  std::size_t position() const { return position_; }
  std::size_t left() const { return bytes_.size - position_; }

  ByteView take(std::size_t count) {
    if (count > left())
      malformed(name_, concat(count, " more bytes after byte ", position_),
                concat("a file that ends ", left(), " later"));
    position_ += count;
    return {bytes_.data + position_ - count, count};
  }
  unsigned u8() { return take(1).data[0]; }
  unsigned u16() {
    const ByteView b = take(2);
    return static_cast<unsigned>(b.data[0] << 8 | b.data[1]);
  }
  std::uint32_t u32() {
    const std::uint32_t high = u16();
    return high << 16 | u16();
  }

 private:
  ByteView bytes_;
  const std::string& name_;
  std::size_t position_;
};

/// Orientation (1 to 8) in a TIFF block as EXIF has it; 1 when there is none or the block is malformed.
int exif_orientation(ByteView tiff);

/// The picture turned and mirrored so that it is upright.
GrayImage upright(GrayImage image, int orientation);

/// Inflates a zlib stream into `out` and returns how many bytes came out; -1: damaged, or more than `out` holds. The
/// stream's checksum is not looked at.
std::int64_t inflate_into(ByteView stream, std::vector<std::uint8_t>& out);

/// Luma of a JPEG file that was checked before, row-major. Throws kUnsupported with the reason.
std::vector<std::uint8_t> jpeg_luma(ByteView bytes, int width, int height, const std::string& name);

/// PNG of interleaved bytes; empty on failure.
std::vector<std::uint8_t> png_bytes(const std::uint8_t* pixels, int width, int height, int channels);

}  // namespace daug::detail
