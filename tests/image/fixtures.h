#pragma once
// Image files made by hand, so that every byte of them is known.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "daug/image/image.h"

namespace daug::test {

using Bytes = std::vector<std::uint8_t>;

inline void append(Bytes& bytes, const Bytes& more) { bytes.insert(bytes.end(), more.begin(), more.end()); }

inline Bytes big_endian(std::uint32_t value) {
  return {static_cast<std::uint8_t>(value >> 24), static_cast<std::uint8_t>(value >> 16),
          static_cast<std::uint8_t>(value >> 8), static_cast<std::uint8_t>(value)};
}

/// CRC-32 bit by bit (PNG appendix D without the table).
inline std::uint32_t slow_crc(const Bytes& bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const std::uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320U : 0U);
  }
  return ~crc;
}

inline Bytes png_chunk(const std::string& type, const Bytes& data) {
  Bytes body(type.begin(), type.end());
  append(body, data);
  Bytes chunk = big_endian(static_cast<std::uint32_t>(data.size()));
  append(chunk, body);
  append(chunk, big_endian(slow_crc(body)));
  return chunk;
}

/// A zlib stream of stored (uncompressed) blocks.
inline Bytes stored_zlib(const Bytes& raw) {
  Bytes stream = {0x78, 0x01};
  std::size_t start = 0;
  do {
    const std::size_t size = std::min<std::size_t>(raw.size() - start, 65535);
    const bool last = start + size == raw.size();
    const auto low = static_cast<std::uint8_t>(size), high = static_cast<std::uint8_t>(size >> 8);
    append(stream, {static_cast<std::uint8_t>(last), low, high, static_cast<std::uint8_t>(~low),
                    static_cast<std::uint8_t>(~high)});
    stream.insert(stream.end(), raw.begin() + static_cast<std::ptrdiff_t>(start),
                  raw.begin() + static_cast<std::ptrdiff_t>(start + size));
    start += size;
  } while (start < raw.size());
  std::uint32_t a = 1, b = 0;
  for (const std::uint8_t byte : raw) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  append(stream, big_endian(b << 16 | a));
  return stream;
}

inline const Bytes kPngSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

inline Bytes png_header(std::uint32_t width, std::uint32_t height, int bits, int colour_type, int interlace = 0) {
  Bytes data = big_endian(width);
  append(data, big_endian(height));
  append(data, {static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(colour_type), 0, 0,
                static_cast<std::uint8_t>(interlace)});
  return png_chunk("IHDR", data);
}

/// Signature, then the chunks.
inline Bytes png_file(const std::vector<Bytes>& chunks) {
  Bytes file = kPngSignature;
  for (const Bytes& chunk : chunks) append(file, chunk);
  return file;
}

/// 8-bit gray PNG of rows without filters.
inline Bytes gray_png(int width, int height, const Bytes& pixels, const std::vector<Bytes>& extra = {}) {
  Bytes raw;
  for (int y = 0; y < height; ++y) {
    raw.push_back(0);
    for (int x = 0; x < width; ++x) raw.push_back(pixels[static_cast<std::size_t>(y * width + x)]);
  }
  std::vector<Bytes> chunks = {png_header(static_cast<std::uint32_t>(width), static_cast<std::uint32_t>(height), 8, 0)};
  chunks.insert(chunks.end(), extra.begin(), extra.end());
  chunks.push_back(png_chunk("IDAT", stored_zlib(raw)));
  chunks.push_back(png_chunk("IEND", {}));
  return png_file(chunks);
}

/// An EXIF block (TIFF) with a harmless entry and the orientation.
inline Bytes exif(int orientation, bool little) {
  const Bytes value = {0, static_cast<std::uint8_t>(orientation)};
  Bytes tiff = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 2};
  append(tiff, {1, 0, 0, 3, 0, 0, 0, 1, 0, 9, 0, 0});                               // ImageWidth
  append(tiff, {1, 0x12, 0, 3, 0, 0, 0, 1, value[0], value[1], 0, 0, 0, 0, 0, 0});  // Orientation, end
  if (!little) return tiff;
  // The same numbers byte by byte the other way round: fields of 2 and 4 bytes.
  Bytes swapped = tiff;
  swapped[0] = swapped[1] = 'I';
  const auto swap_field = [&](std::size_t at, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) swapped[at + i] = tiff[at + size - 1 - i];
  };
  for (const auto& [at, size] : std::vector<std::pair<std::size_t, std::size_t>>{
           {2, 2}, {4, 4}, {8, 2}, {10, 2}, {12, 2}, {14, 4}, {18, 2}, {22, 2}, {24, 2}, {26, 4}, {30, 2}, {34, 4}})
    swap_field(at, size);
  return swapped;
}

inline Bytes from_hex(const std::string& digits) {
  Bytes bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes.push_back(static_cast<std::uint8_t>(std::strtol(digits.substr(i, 2).c_str(), nullptr, 16)));
  return bytes;
}

/// What the JPEG fixtures show: 19 x 13, gray levels round(128 + 60 sin(x / 4) + 40 cos(y / 5)).
inline GrayImage jpeg_original() {
  GrayImage image = GrayImage::filled(19, 13);
  for (int y = 0; y < 13; ++y)
    for (int x = 0; x < 19; ++x)
      image.at(x, y) = static_cast<float>(std::round(128 + 60 * std::sin(x / 4.0) + 40 * std::cos(y / 5.0)) / 255);
  return image;
}

/// Baseline, gray, a restart marker after every second block; quality 97 (libjpeg-turbo 2.1).
inline Bytes baseline_gray_jpeg() {
  return from_hex(
      "ffd8ffe000104a46494600010100000100010000ffdb00430001010101010101010101010101010102020101010103020202"
      "020303040403030303040406050404050403030507050506060606060405070707060706060606ffc0000b08000d00130101"
      "1100ffc40017000003010000000000000000000000000006080a09ffc40028100000010a0505000000000000000000000100"
      "02030405070815233406111316422133435161ffdd00040002ffda0008010100003f00a1385f7b2cad9ea95d1da872f8499c"
      "783d9654bd7eba3ed9dc8bffd045db0f6595345eae86e0ee405aed0c0f33116d0550d61b63433d41f45fffd1008f079988a5"
      "ed0aa3d0c3b2aa253a6d879588668bd546e0ef2897ffd9");
}

/// Progressive, gray: spectral selection and successive approximation.
inline Bytes progressive_gray_jpeg() {
  return from_hex(
      "ffd8ffe000104a46494600010100000100010000ffdb00430001010101010101010101010101010102020101010103020202"
      "020303040403030303040406050404050403030507050506060606060405070707060706060606ffc2000b08000d00130101"
      "1100ffc400160001010100000000000000000000000000090708ffda000801010000000142632746bb8c1d3fffc400191000"
      "020301000000000000000000000000030504061314ffda0008010100010502abb6171df1b0b333616b58672392f8ce466665"
      "235fffc4001d1000020104030000000000000000000000002102013242510331a1ffda0008010100063f028ba5a4dd3a26e9"
      "71178ece47e93796cfffc4001910010003010100000000000000000000000041617101b1ffda0008010100013f21f4356192"
      "b0e965e308e9a90fffda0008010100000010cfffc4001c10000202020300000000000000000000000011213110a1516171ff"
      "da0008010100013f10e9b34c361a640526a9b705830a9964fa4fffd9");
}

/// Baseline, YCbCr with chroma at half width; the three channels were equal.
inline Bytes baseline_colour_jpeg() {
  return from_hex(
      "ffd8ffe000104a46494600010100000100010000ffdb00430001010101010101010101010101010102020101010103020202"
      "020303040403030303040406050404050403030507050506060606060405070707060706060606ffdb004301010101010101"
      "0302020306040304060606060606060606060606060606060606060606060606060606060606060606060606060606060606"
      "0606060606060606ffc0001108000d001303012100021101031101ffc4001700000301000000000000000000000000000008"
      "0a09ffc400281000000208060203000000000000000000000102040507081523340306111316422133435161ffc400140101"
      "00000000000000000000000000000000ffc40014110100000000000000000000000000000000ffda000c0301000211031100"
      "3f00a1385f7b2cae1ea95f0ed4bb7e04ce3c1ecb2a5ebf5f0fd6976013a0d87b2ca9a2f57c1b84bb10006bb4303cccc5c415"
      "4b78ed912d770fe82651e0f33314bda154fc2096954c04e9b61e56619a2f553b84be53000fffd9");
}

/// Progressive, YCbCr with chroma at half width and height; the three channels were equal.
inline Bytes progressive_colour_jpeg() {
  return from_hex(
      "ffd8ffe000104a46494600010100000100010000ffdb00430001010101010101010101010101010102020101010103020202"
      "020303040403030303040406050404050403030507050506060606060405070707060706060606ffdb004301010101010101"
      "0302020306040304060606060606060606060606060606060606060606060606060606060606060606060606060606060606"
      "0606060606060606ffc2001108000d001303012200021101031101ffc4001700010101010000000000000000000000000700"
      "0809ffc40014010100000000000000000000000000000000ffda000c03010002100310000001e848c918c05763d8ffc40019"
      "1000020301000000000000000000000000030504061314ffda0008010100010502abb6171df1b0b333616b58672392f8ce46"
      "6665235fffc40014110100000000000000000000000000000010ffda0008010301013f013fffc40014110100000000000000"
      "000000000000000010ffda0008010201013f013fffc4001d1000020104030000000000000000000000002102013242510331"
      "a1ffda0008010100063f028ba5a4dd3a26e971178ece47e93796cfffc4001910010003010100000000000000000000000041"
      "617101b1ffda0008010100013f21f4356192b0e965e308e9a90fffda000c03010002000300000010d0cfffc4001411010000"
      "0000000000000000000000000010ffda0008010301013f103fffc40014110100000000000000000000000000000010ffda00"
      "08010201013f103fffc4001c10000202020300000000000000000000000011213110a1516171ffda0008010100013f10e9b3"
      "4c361a640526a9b705830a9964fa4fffd9");
}

}  // namespace daug::test
