// Portable Network Graphics, third edition: https://www.w3.org/TR/png-3/
//
// Every chunk is checked before its content is used; stb's zlib then inflates into a buffer of exactly the size that
// the header implies, and the rows are rebuilt here.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "format.h"

namespace daug::detail {
namespace {

constexpr std::array<std::uint8_t, 8> kSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr int kRgbType = 2, kPaletteType = 3, kRgbAlphaType = 6;

struct PngFile {
  int width = 0, height = 0, bits = 0, colour_type = 0, channels = 0;
  bool interlaced = false;
  std::vector<Rgb> palette;
  std::vector<std::uint8_t> stream;  // all IDAT chunks
  int orientation = 1;

  std::size_t pixel_bits() const { return static_cast<std::size_t>(channels * bits); }
};

/// One picture in the raw data: all of it, or one of Adam7's seven. Pixel (i, j) belongs at (x0 + i dx, y0 + j dy).
struct Pass {
  int x0, y0, dx, dy, width, height;
};

std::vector<Pass> passes(const PngFile& file) {
  if (!file.interlaced) return {{0, 0, 1, 1, file.width, file.height}};
  std::vector<Pass> result;
  constexpr int kAdam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
  for (const auto& [x0, y0, dx, dy] : kAdam7)
    if (file.width > x0 && file.height > y0)
      result.push_back({x0, y0, dx, dy, (file.width - x0 + dx - 1) / dx, (file.height - y0 + dy - 1) / dy});
  return result;
}

std::size_t row_bytes(const PngFile& file, const Pass& pass) {
  return (static_cast<std::size_t>(pass.width) * file.pixel_bits() + 7) / 8;
}

std::uint32_t crc32(ByteView bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> values{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      values[i] = i;
      for (int bit = 0; bit < 8; ++bit) values[i] = values[i] & 1 ? 0xedb88320U ^ values[i] >> 1 : values[i] >> 1;
    }
    return values;
  }();
  std::uint32_t crc = 0xffffffffU;
  for (std::size_t i = 0; i < bytes.size; ++i) crc = table[(crc ^ bytes.data[i]) & 0xff] ^ crc >> 8;
  return ~crc;
}

std::uint32_t adler32(const std::vector<std::uint8_t>& bytes) {
  std::uint32_t a = 1, b = 0;
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t end = std::min(bytes.size(), i + 5552);  // the most that cannot overflow
    for (; i < end; ++i) b += a += bytes[i];
    a %= 65521;
    b %= 65521;
  }
  return b << 16 | a;
}

void parse_header(Reader chunk, PngFile& file, const std::string& name, const DecodeLimits& limits) {
  const std::uint32_t width = chunk.u32(), height = chunk.u32();
  const unsigned bits = chunk.u8(), type = chunk.u8(), compression = chunk.u8(), filter = chunk.u8();
  const unsigned interlace = chunk.u8();
  constexpr int kChannels[7] = {1, 0, 3, 1, 2, 0, 4};
  constexpr unsigned kDepths[7] = {1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16};
  if (type > 6 || kChannels[type] == 0) malformed(name, "colour type 0, 2, 3, 4 or 6", type);
  if (bits == 0 || (bits & (bits - 1)) != 0 || (bits & kDepths[type]) == 0)
    malformed(name, concat("a bit depth that colour type ", type, " allows"), bits);
  if (compression != 0 || filter != 0 || interlace > 1)
    malformed(name, "compression 0, filter 0, interlace 0 or 1", concat(compression, ", ", filter, ", ", interlace));
  check_extent(width, height, limits, name);
  file.width = static_cast<int>(width);
  file.height = static_cast<int>(height);
  file.bits = static_cast<int>(bits);
  file.colour_type = static_cast<int>(type);
  file.channels = kChannels[type];
  file.interlaced = interlace == 1;
}

void parse_palette(ByteView chunk, PngFile& file, const std::string& name) {
  if (!file.palette.empty() || !file.stream.empty()) malformed(name, "one PLTE chunk, before the pixels", "another");
  if (chunk.size == 0 || chunk.size % 3 != 0 || chunk.size > 768)
    malformed(name, "3 to 768 bytes of palette, a multiple of 3", chunk.size);
  for (std::size_t i = 0; i < chunk.size; i += 3)
    file.palette.push_back({chunk.data[i], chunk.data[i + 1], chunk.data[i + 2]});
}

/// Walks all chunks up to IEND.
PngFile parse(ByteView bytes, const std::string& name, const DecodeLimits& limits) {
  Reader reader(bytes, name);
  if (std::memcmp(reader.take(kSignature.size()).data, kSignature.data(), kSignature.size()) != 0)
    malformed(name, "the PNG signature", "one that a text-mode transfer or an error has changed");
  PngFile file;
  bool stream_ended = false;
  for (bool first = true;; first = false) {
    const std::size_t start = reader.position();
    const std::uint32_t length = reader.u32();
    const std::string type(reinterpret_cast<const char*>(reader.take(4).data), 4);
    for (const char letter : type)
      if (!((letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z')))
        malformed(name, concat("four letters as chunk type at byte ", start + 4), "something else");
    if (first && type == "CgBI") unsupported(name, "a standard PNG file", "Apple's CgBI variant");
    if (first != (type == "IHDR")) malformed(name, "IHDR as the first chunk and nowhere else", concat("chunk ", type));
    const ByteView chunk = reader.take(length);
    const std::uint32_t expected = crc32({bytes.data + start + 4, std::size_t{length} + 4}), actual = reader.u32();
    if (actual != expected)
      malformed(name, concat("checksum ", expected, " of chunk ", type, " at byte ", start), actual);

    if (type == "IHDR") {
      if (length != 13) malformed(name, "13 bytes of IHDR", length);
      parse_header(Reader(chunk, name), file, name, limits);
    } else if (type == "PLTE") {
      parse_palette(chunk, file, name);
    } else if (type == "IDAT") {
      if (stream_ended) malformed(name, "IDAT chunks in one run", concat("another at byte ", start));
      file.stream.insert(file.stream.end(), chunk.data, chunk.data + chunk.size);
    } else if (type == "eXIf") {
      file.orientation = exif_orientation(chunk);
    } else if (type == "IEND") {
      break;
    } else if (type[0] >= 'A' && type[0] <= 'Z') {
      unsupported(name, "known critical chunks", type);
    }
    if (type != "IDAT") stream_ended = stream_ended || !file.stream.empty();
  }
  if (file.stream.empty()) malformed(name, "pixel data (an IDAT chunk)", "none");
  if (file.colour_type == kPaletteType && file.palette.empty()) malformed(name, "a PLTE chunk", "none");
  return file;
}

std::vector<std::uint8_t> inflate(const PngFile& file, const std::string& name) {
  std::uint64_t size = 0;
  for (const Pass& pass : passes(file))
    size += (1 + std::uint64_t{row_bytes(file, pass)}) * static_cast<std::uint64_t>(pass.height);
  if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max()))
    unsupported(name, "at most 2^31 - 1 bytes of unpacked rows", size);
  // Deflate packs at most 1032 : 1, so data too short for the header are refused before memory is set aside for them.
  const std::size_t packed = file.stream.size();
  if (size / 1032 > packed)
    malformed(name, concat("enough data for ", size, " bytes of rows"), concat(packed, " bytes"));
  std::vector<std::uint8_t> raw(static_cast<std::size_t>(size));
  const std::int64_t produced = packed < 8 ? -1 : inflate_into({file.stream.data(), packed}, raw);
  if (produced != static_cast<std::int64_t>(size))
    malformed(name, concat(size, " bytes of rows, as ", file.width, " x ", file.height, " takes"),
              produced < 0 ? std::string("damaged data or more") : std::to_string(produced));
  Reader trailer({file.stream.data(), packed}, name, packed - 4);
  const std::uint32_t expected = adler32(raw), actual = trailer.u32();
  if (actual != expected) malformed(name, concat("checksum ", expected, " of the pixel data"), actual);
  return raw;
}

/// Undoes a row's filter in place; `step` is the distance to the pixel on the left, `above` the row before or zeros.
void unfilter(unsigned filter, std::uint8_t* row, const std::uint8_t* above, std::size_t size, std::size_t step,
              const std::string& name) {
  const auto add = [&](auto prediction) {
    for (std::size_t i = 0; i < size; ++i) {
      const int left = i >= step ? row[i - step] : 0, corner = i >= step ? above[i - step] : 0;
      row[i] = static_cast<std::uint8_t>(row[i] + prediction(left, above[i], corner));
    }
  };
  switch (filter) {
    case 0:
      return;
    case 1:
      return add([](int left, int, int) { return left; });
    case 2:
      return add([](int, int up, int) { return up; });
    case 3:
      return add([](int left, int up, int) { return (left + up) / 2; });
    case 4:
      return add([](int left, int up, int corner) {  // Paeth: the neighbour closest to left + up - corner
        const int a = std::abs(up - corner), b = std::abs(left - corner), c = std::abs(left + up - 2 * corner);
        return a <= b && a <= c ? left : b <= c ? up : corner;
      });
    default:
      malformed(name, "row filter 0 to 4", filter);
  }
}

/// ITU-R BT.601 in integers, so that equal channels give exactly the gray level.
float luma(unsigned red, unsigned green, unsigned blue, unsigned largest) {
  return static_cast<float>((299.0 * red + 587.0 * green + 114.0 * blue) / (1000.0 * largest));
}

/// Gray levels of one row of samples.
class RowReader {
 public:
  RowReader(const PngFile& file, const std::string& name) : file_(file), name_(name), largest_((1U << file.bits) - 1) {
    for (const Rgb& colour : file.palette) palette_.push_back(luma(colour[0], colour[1], colour[2], 255));
  }

  float gray(const std::uint8_t* row, std::size_t pixel) const {
    const std::size_t first = pixel * static_cast<std::size_t>(file_.channels);
    const unsigned value = sample(row, first);
    switch (file_.colour_type) {
      case kPaletteType:
        if (value >= palette_.size()) malformed(name_, concat("a palette index below ", palette_.size()), value);
        return palette_[value];
      case kRgbType:
      case kRgbAlphaType:
        return luma(value, sample(row, first + 1), sample(row, first + 2), largest_);
      default:
        return static_cast<float>(value) / static_cast<float>(largest_);
    }
  }

 private:
  unsigned sample(const std::uint8_t* row, std::size_t i) const {
    if (file_.bits == 8) return row[i];
    if (file_.bits == 16) return static_cast<unsigned>(row[2 * i] << 8 | row[2 * i + 1]);
    const std::size_t bit = i * static_cast<std::size_t>(file_.bits);
    return row[bit / 8] >> (8 - static_cast<int>(bit % 8) - file_.bits) & largest_;
  }

  const PngFile& file_;
  const std::string& name_;
  unsigned largest_;
  std::vector<float> palette_;
};

class PngDecoder final : public ImageDecoder {
 public:
  const char* format() const override { return "PNG"; }

  /// Also a damaged signature, so that the error can say so.
  bool recognises(ByteView bytes) const override {
    return bytes.size >= 4 && std::memcmp(bytes.data, kSignature.data(), 4) == 0;
  }

  ImageInfo inspect(ByteView bytes, const std::string& name, const DecodeLimits& limits) const override {
    const PngFile file = parse(bytes, name, limits);
    const int channels = file.colour_type == kPaletteType ? 3 : file.channels;
    return {format(), file.width, file.height, channels, file.bits, file.orientation};
  }

  GrayImage decode(ByteView bytes, const std::string& name, const DecodeLimits& limits) const override {
    const PngFile file = parse(bytes, name, limits);
    std::vector<std::uint8_t> raw = inflate(file, name);
    GrayImage image = GrayImage::filled(file.width, file.height);
    const RowReader reader(file, name);
    const std::size_t step = (file.pixel_bits() + 7) / 8;
    const std::vector<std::uint8_t> zeros(row_bytes(file, {0, 0, 1, 1, file.width, 1}));
    std::uint8_t* next = raw.data();
    for (const Pass& pass : passes(file)) {
      const std::size_t size = row_bytes(file, pass);
      const std::uint8_t* above = zeros.data();
      for (int j = 0; j < pass.height; ++j) {
        std::uint8_t* row = next + 1;
        unfilter(*next, row, above, size, step, name);
        for (int i = 0; i < pass.width; ++i)
          image.at(pass.x0 + i * pass.dx, pass.y0 + j * pass.dy) = reader.gray(row, static_cast<std::size_t>(i));
        above = row;
        next = row + size;
      }
    }
    return upright(std::move(image), file.orientation);
  }
};

}  // namespace

const ImageDecoder& png_decoder() {
  static const PngDecoder decoder;
  return decoder;
}

}  // namespace daug::detail
