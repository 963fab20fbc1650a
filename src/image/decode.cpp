#include "daug/image/decode.h"

#include <cstring>
#include <limits>

#include "daug/io/random_access_file.h"
#include "format.h"

namespace daug {
namespace {

/// Signatures of formats that are recognised only to be named in the error.
struct Foreign {
  const char* name;
  std::size_t offset;
  std::string signature;
};

const std::vector<Foreign>& foreign_formats() {
  using namespace std::string_literals;
  static const std::vector<Foreign> formats = {
      {"BMP", 0, "BM"},
      {"GIF", 0, "GIF8"},
      {"TIFF", 0, "II*\0"s},
      {"TIFF", 0, "MM\0*"s},
      {"BigTIFF", 0, "II+\0"s},
      {"BigTIFF", 0, "MM\0+"s},
      {"JPEG 2000", 4, "jP  \r\n\x87\n"s},
      {"JPEG 2000", 0, "\xff\x4f\xff\x51"s},
      {"JPEG XL", 0, "\xff\x0a"s},
      {"ICO", 0, "\0\0\1\0"s},
      {"WebP", 8, "WEBP"},
      {"Photoshop", 0, "8BPS"},
      {"DICOM", 128, "DICM"},
      {"NIfTI or gzip", 0, "\x1f\x8b"s},
      {"PBM", 0, "P1"},
      {"PPM", 0, "P3"},
      {"PBM", 0, "P4"},
      {"PPM", 0, "P6"},
      {"PAM", 0, "P7"},
  };
  return formats;
}

bool carries(ByteView bytes, const Foreign& format) {
  return bytes.size >= format.offset + format.signature.size() &&
         std::memcmp(bytes.data + format.offset, format.signature.data(), format.signature.size()) == 0;
}

void check_size(std::uint64_t size, const DecodeLimits& limits, const std::string& name) {
  limits.validate();
  if (size > static_cast<std::uint64_t>(limits.max_bytes))
    detail::unsupported(name, detail::concat("a file of at most ", limits.max_bytes, " bytes"), size);
}

/// Checks what holds for every format, then picks the decoder.
const ImageDecoder& checked_decoder(ByteView bytes, const std::string& name, const DecodeLimits& limits) {
  check_size(bytes.size, limits, name);
  return decoder_for(bytes, name);
}

std::vector<std::uint8_t> read_capped(const std::string& path, const DecodeLimits& limits) {
  const RandomAccessFile file(path, RandomAccessFile::Mode::kRead);
  const std::uint64_t size = file.size();
  check_size(size, limits, path);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
  file.read(0, bytes.data(), bytes.size());
  return bytes;
}

}  // namespace

namespace detail {

void check_extent(std::int64_t width, std::int64_t height, const DecodeLimits& limits, const std::string& name) {
  const std::string actual = concat(width, " x ", height);
  if (width < 1 || height < 1) malformed(name, "sides of at least 1 pixel", actual);
  if (width > limits.max_width || height > limits.max_height || width > limits.max_pixels / height)
    unsupported(name,
                concat("at most ", limits.max_width, " x ", limits.max_height, " and ", limits.max_pixels, " pixels"),
                actual);
}

}  // namespace detail

void DecodeLimits::validate() const {
  constexpr auto kLargest = std::numeric_limits<std::int32_t>::max();
  require_range(max_width, 1, kLargest, "DecodeLimits", "max_width");
  require_range(max_height, 1, kLargest, "DecodeLimits", "max_height");
  require_range(max_pixels, 1, std::numeric_limits<std::int64_t>::max(), "DecodeLimits", "max_pixels");
  require_range(max_bytes, 1, kLargest, "DecodeLimits", "max_bytes");
}

const std::vector<const ImageDecoder*>& image_decoders() {
  static const std::vector<const ImageDecoder*> decoders = {&detail::png_decoder(), &detail::jpeg_decoder(),
                                                            &detail::pgm_decoder()};
  return decoders;
}

const ImageDecoder& decoder_for(ByteView bytes, const std::string& name) {
  for (const ImageDecoder* decoder : image_decoders())
    if (decoder->recognises(bytes)) return *decoder;
  for (const Foreign& format : foreign_formats())
    if (carries(bytes, format))
      detail::unsupported(name, "a PNG, JPEG or PGM file", detail::concat(format.name, " data"));
  detail::malformed(name, "a PNG, JPEG or PGM file", bytes.size == 0 ? "an empty file" : "an unknown signature");
}

GrayImage decode_image(ByteView bytes, const std::string& name, const DecodeLimits& limits) {
  return checked_decoder(bytes, name, limits).decode(bytes, name, limits);
}

GrayImage read_image(const std::string& path, const DecodeLimits& limits) {
  return decode_image(read_capped(path, limits), path, limits);
}

ImageInfo inspect_image(ByteView bytes, const std::string& name, const DecodeLimits& limits) {
  return checked_decoder(bytes, name, limits).inspect(bytes, name, limits);
}

}  // namespace daug
