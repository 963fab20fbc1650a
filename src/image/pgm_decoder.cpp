// Portable gray maps: https://netpbm.sourceforge.net/doc/pgm.html

#include "format.h"

namespace daug::detail {
namespace {

bool is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

struct Header {
  bool plain = false;  // decimal text (P2), else raw bytes (P5)
  std::uint32_t width = 0, height = 0, largest = 0;
};

class PgmReader {
 public:
  PgmReader(ByteView bytes, const std::string& name) : reader_(bytes, name), bytes_(bytes), name_(name) {}

  Header header(const DecodeLimits& limits) {
    Header header;
    header.plain = reader_.take(2).data[1] == '2';
    header.width = number("width");
    header.height = number("height");
    header.largest = number("largest value");
    check_extent(header.width, header.height, limits, name_);
    if (header.largest < 1 || header.largest > 65535) malformed(name_, "a largest value in [1, 65535]", header.largest);
    return header;
  }

  GrayImage pixels(const Header& header) {
    const std::size_t count = std::size_t{header.width} * header.height;
    const std::size_t sample_bytes = header.plain || header.largest < 256 ? 1 : 2;
    if (!header.plain) reader_.u8();            // exactly one white-space byte
    if (reader_.left() / sample_bytes < count)  // a plain sample takes a digit and, but for the last, a separator
      malformed(name_, concat("at least ", count * sample_bytes, " bytes of pixels"), reader_.left());
    GrayImage image = GrayImage::filled(static_cast<int>(header.width), static_cast<int>(header.height));
    for (float& pixel : image.pixels) {
      const std::uint32_t value = header.plain ? number("pixel") : sample_bytes == 1 ? reader_.u8() : reader_.u16();
      if (value > header.largest) malformed(name_, concat("a pixel of at most ", header.largest), value);
      pixel = static_cast<float>(value) / static_cast<float>(header.largest);
    }
    return image;
  }

 private:
  /// Next decimal number, after white space and comments that run from # to the end of the line.
  std::uint32_t number(const char* what) {
    int c = peek();
    const std::size_t start = reader_.position();
    for (bool comment = false; is_space(c) || c == '#' || comment; c = peek()) {
      if (c < 0) break;
      comment = c == '#' || (comment && c != '\n' && c != '\r');
      reader_.u8();
    }
    if (reader_.position() == start || c < '0' || c > '9')
      malformed(name_, concat("a number after white space (", what, ") at byte ", reader_.position()),
                c < 0 ? "the end of the file" : "something else");
    std::uint32_t value = 0;
    for (; c >= '0' && c <= '9'; c = peek()) {
      value = value * 10 + (reader_.u8() - '0');
      if (value > 100'000'000) malformed(name_, concat("a ", what, " of at most 8 digits"), "more");
    }
    return value;
  }

  int peek() const { return reader_.left() == 0 ? -1 : bytes_.data[reader_.position()]; }

  Reader reader_;
  ByteView bytes_;
  const std::string& name_;
};

class PgmDecoder final : public ImageDecoder {
 public:
  const char* format() const override { return "PGM"; }

  bool recognises(ByteView bytes) const override {
    return bytes.size >= 3 && bytes.data[0] == 'P' && (bytes.data[1] == '2' || bytes.data[1] == '5') &&
           (is_space(bytes.data[2]) || bytes.data[2] == '#');
  }

  ImageInfo inspect(ByteView bytes, const std::string& name, const DecodeLimits& limits) const override {
    const Header header = PgmReader(bytes, name).header(limits);
    return {format(), static_cast<int>(header.width), static_cast<int>(header.height),
            1,        header.largest < 256 ? 8 : 16,  1};
  }

  GrayImage decode(ByteView bytes, const std::string& name, const DecodeLimits& limits) const override {
    PgmReader reader(bytes, name);
    const Header header = reader.header(limits);
    return reader.pixels(header);
  }
};

}  // namespace

const ImageDecoder& pgm_decoder() {
  static const PgmDecoder decoder;
  return decoder;
}

}  // namespace daug::detail
