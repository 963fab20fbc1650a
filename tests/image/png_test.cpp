// PNG reading against files made by hand, and PNG writing.
#include "daug/image/png.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/image/decode.h"
#include "fixtures.h"
#include "support/catch.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;

namespace {

struct Kind {
  int colour_type, bits, channels;
};
const std::vector<Kind> kKinds = {{0, 1, 1}, {0, 2, 1},  {0, 4, 1},  {0, 8, 1}, {0, 16, 1},
                                  {2, 8, 3}, {2, 16, 3}, {3, 1, 1},  {3, 2, 1}, {3, 4, 1},
                                  {3, 8, 1}, {4, 8, 2},  {4, 16, 2}, {6, 8, 4}, {6, 16, 4}};

/// A picture with random samples as a PNG file of any kind, rows filtered by each of the five filters in turn.
struct RandomPng {
  Bytes file;
  GrayImage expected;
};

Bytes filtered(int filter, const Bytes& row, const Bytes& above, std::size_t step) {
  Bytes result = {static_cast<std::uint8_t>(filter)};
  for (std::size_t i = 0; i < row.size(); ++i) {
    const int a = i >= step ? row[i - step] : 0, b = above.empty() ? 0 : above[i];
    const int c = i >= step && !above.empty() ? above[i - step] : 0;
    const int p = a + b - c;
    int nearest = a;
    if (std::abs(p - b) < std::abs(p - nearest)) nearest = b;
    if (std::abs(p - c) < std::abs(p - nearest)) nearest = c;
    const std::array<int, 5> predictions = {0, a, b, (a + b) / 2, nearest};
    result.push_back(static_cast<std::uint8_t>(row[i] - predictions[static_cast<std::size_t>(filter)]));
  }
  return result;
}

RandomPng random_png(const Kind& kind, bool interlaced, int width, int height) {
  RandomStream random(7, static_cast<std::uint64_t>(width * 100 + height), "png");
  const unsigned levels = 1U << kind.bits;
  const auto channels = static_cast<std::size_t>(kind.channels);
  Bytes palette;
  for (unsigned i = 0; i < 3 * std::min(levels, 256U); ++i)
    palette.push_back(static_cast<std::uint8_t>(random.below(256)));
  std::vector<unsigned> samples(static_cast<std::size_t>(width * height) * channels);
  for (unsigned& sample : samples) sample = random.below(levels);
  const auto sample = [&](int x, int y, std::size_t c) {
    return samples[static_cast<std::size_t>(y * width + x) * channels + c];
  };

  Bytes raw;
  int filter = 0;
  const auto add_pass = [&](int x0, int y0, int dx, int dy) {
    Bytes above;
    for (int y = y0; y < height && x0 < width; y += dy) {
      std::vector<bool> bits;
      for (int x = x0; x < width; x += dx)
        for (std::size_t c = 0; c < channels; ++c)
          for (int bit = kind.bits - 1; bit >= 0; --bit) bits.push_back((sample(x, y, c) >> bit & 1) != 0);
      Bytes row((bits.size() + 7) / 8);
      for (std::size_t i = 0; i < bits.size(); ++i)
        if (bits[i]) row[i / 8] = static_cast<std::uint8_t>(row[i / 8] | 0x80 >> i % 8);
      append(raw, filtered(filter++ % 5, row, above, (channels * static_cast<std::size_t>(kind.bits) + 7) / 8));
      above = row;
    }
  };
  if (interlaced) {
    add_pass(0, 0, 8, 8);
    add_pass(4, 0, 8, 8);
    add_pass(0, 4, 4, 8);
    add_pass(2, 0, 4, 4);
    add_pass(0, 2, 2, 4);
    add_pass(1, 0, 2, 2);
    add_pass(0, 1, 1, 2);
  } else {
    add_pass(0, 0, 1, 1);
  }
  const Bytes stream = stored_zlib(raw);
  const auto middle = stream.begin() + static_cast<std::ptrdiff_t>(stream.size() / 2);
  RandomPng png;
  png.file = png_file({png_header(static_cast<std::uint32_t>(width), static_cast<std::uint32_t>(height), kind.bits,
                                  kind.colour_type, interlaced),
                       png_chunk("gAMA", {0, 0, 0xb1, 0x8f}), png_chunk("PLTE", palette),
                       png_chunk("IDAT", Bytes(stream.begin(), middle)), png_chunk("IDAT", Bytes(middle, stream.end())),
                       png_chunk("tEXt", {'k', 0, 'v'}), png_chunk("IEND", {})});
  png.expected = GrayImage::filled(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      std::array<double, 3> rgb{};
      for (std::size_t c = 0; c < 3; ++c)
        rgb[c] = kind.colour_type == 3       ? palette[3 * sample(x, y, 0) + c] / 255.0
                 : kind.colour_type % 4 == 2 ? sample(x, y, c) / (levels - 1.0)
                                             : sample(x, y, 0) / (levels - 1.0);
      png.expected.at(x, y) = static_cast<float>(0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]);
    }
  return png;
}

Bytes small_png() { return gray_png(3, 2, {10, 20, 30, 40, 50, 60}); }

/// Most memory this program has held so far, in KiB.
long peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

ErrorCode code_of(const Bytes& bytes) {
  return caught([&] { decode_image(bytes, "x.png"); }).code();
}

/// A 2 x 2 gray file whose raw data (filter bytes included) are given.
Bytes with_raw(const Bytes& raw, int colour_type = 0, const std::vector<Bytes>& extra = {}) {
  std::vector<Bytes> chunks = {png_header(2, 2, 8, colour_type)};
  chunks.insert(chunks.end(), extra.begin(), extra.end());
  chunks.push_back(png_chunk("IDAT", stored_zlib(raw)));
  chunks.push_back(png_chunk("IEND", {}));
  return png_file(chunks);
}

}  // namespace

TEST_CASE("every kind of PNG decodes to its samples", "[image]") {
  for (const Kind& kind : kKinds)
    for (const bool interlaced : {false, true})
      for (const auto& [width, height] : std::vector<std::pair<int, int>>{{1, 1}, {3, 2}, {8, 8}, {13, 11}}) {
        INFO("colour type " << kind.colour_type << ", " << kind.bits << " bits, interlaced " << interlaced << ", "
                            << width << " x " << height);
        const RandomPng png = random_png(kind, interlaced, width, height);
        const GrayImage image = decode_image(png.file, "x");
        REQUIRE(image.width == width);
        REQUIRE(image.height == height);
        float error = 0;
        for (std::size_t i = 0; i < image.pixels.size(); ++i)
          error = std::max(error, std::abs(image.pixels[i] - png.expected.pixels[i]));
        CHECK(error < 1e-6F);
        const ImageInfo info = inspect_image(png.file, "x");
        CHECK(info.bits == kind.bits);
        CHECK(info.channels == (kind.colour_type == 3 ? 3 : kind.channels));
      }
}

TEST_CASE("equal channels give exactly the gray value, and 16 bits of 257 v exactly v", "[image]") {
  Bytes gray, rgb_rows, deep_rows;
  for (int v = 0; v < 256; ++v) gray.push_back(static_cast<std::uint8_t>(v));
  rgb_rows.push_back(0);
  deep_rows.push_back(0);
  for (const std::uint8_t v : gray) {
    append(rgb_rows, {v, v, v});
    append(deep_rows, {v, v});
  }
  const GrayImage source = decode_image(gray_png(256, 1, gray), "x");
  const auto one_row = [](int bits, int type, const Bytes& rows) {
    return png_file({png_header(256, 1, bits, type), png_chunk("IDAT", stored_zlib(rows)), png_chunk("IEND", {})});
  };
  CHECK(decode_image(one_row(8, 2, rgb_rows), "x").pixels == source.pixels);
  CHECK(decode_image(one_row(16, 0, deep_rows), "x").pixels == source.pixels);
  CHECK(source.pixels[255] == 1.0F);
  CHECK(source.pixels[51] == 0.2F);
}

TEST_CASE("a header that claims 60000 x 60000 is refused before memory is taken", "[image]") {
  const Bytes bomb =
      png_file({png_header(60000, 60000, 8, 0), png_chunk("IDAT", stored_zlib(Bytes(1000))), png_chunk("IEND", {})});
  DecodeLimits wide;
  wide.max_width = wide.max_height = 100000;
  wide.max_pixels = std::int64_t{1} << 40;
  const auto before = peak_memory();
  CHECK_THROWS_WITH(decode_image(bomb, "bomb.png"), contains_text("bomb.png") && contains_text("60000 x 60000"));
  CHECK_THROWS_AS(decode_image(bomb, "bomb.png", wide), Error);  // the data cannot fill it
  CHECK(peak_memory() - before < 64 << 10);
}

TEST_CASE("a PNG that is cut anywhere is refused", "[image]") {
  for (const Bytes& file : {small_png(), random_png({6, 16, 4}, true, 5, 5).file}) {
    REQUIRE_NOTHROW(decode_image(file, "x"));
    for (std::size_t size = 0; size < file.size(); ++size) {
      INFO(size << " of " << file.size());
      CHECK_THROWS_AS(decode_image(Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)), "x"), Error);
    }
  }
}

TEST_CASE("a PNG with one byte changed is refused", "[image]") {
  const Bytes file = small_png();
  for (std::size_t i = 0; i < file.size(); ++i)
    for (const int change : {1, 0x20, 0x80}) {
      Bytes changed = file;
      changed[i] = static_cast<std::uint8_t>(changed[i] ^ change);
      INFO("byte " << i << " xor " << change);
      CHECK_THROWS_AS(decode_image(changed, "x"), Error);
    }
}

TEST_CASE("what a PNG file must not contain", "[image]") {
  const Bytes good = {0, 1, 2, 0, 3, 4};
  REQUIRE(decode_image(with_raw(good), "x").at(1, 1) == 4 / 255.0F);
  SECTION("data that do not fill the picture exactly") {
    CHECK(code_of(with_raw({0, 1, 2})) == ErrorCode::kFormat);
    CHECK(code_of(with_raw({0, 1, 2, 0, 3})) == ErrorCode::kFormat);
    CHECK(code_of(with_raw({0, 1, 2, 0, 3, 4, 0})) == ErrorCode::kFormat);
    CHECK(code_of(png_file({png_header(2, 2, 8, 0), png_chunk("IDAT", {}), png_chunk("IEND", {})})) ==
          ErrorCode::kFormat);
    CHECK(code_of(png_file({png_header(2, 2, 8, 0), png_chunk("IEND", {})})) == ErrorCode::kFormat);
  }
  SECTION("a wrong checksum of the pixels under right checksums of the chunks") {
    Bytes stream = stored_zlib(good);
    stream.back() ^= 1;
    CHECK(code_of(png_file({png_header(2, 2, 8, 0), png_chunk("IDAT", stream), png_chunk("IEND", {})})) ==
          ErrorCode::kFormat);
  }
  SECTION("an unknown row filter") { CHECK(code_of(with_raw({0, 1, 2, 5, 3, 4})) == ErrorCode::kFormat); }
  SECTION("palettes") {
    const Bytes two = png_chunk("PLTE", {0, 0, 0, 255, 255, 255});
    CHECK(decode_image(with_raw({0, 0, 1, 0, 1, 0}, 3, {two}), "x").pixels == std::vector<float>{0, 1, 1, 0});
    CHECK(code_of(with_raw({0, 0, 1, 0, 2, 0}, 3, {two})) == ErrorCode::kFormat);
    CHECK(code_of(with_raw({0, 0, 1, 0, 1, 0}, 3)) == ErrorCode::kFormat);
    CHECK(code_of(with_raw({0, 0, 1, 0, 1, 0}, 3, {two, two})) == ErrorCode::kFormat);
    CHECK(code_of(with_raw({0, 0, 1, 0, 1, 0}, 3, {png_chunk("PLTE", {1, 2})})) == ErrorCode::kFormat);
  }
  SECTION("chunks in the wrong place, unknown critical chunks") {
    const Bytes header = png_header(2, 2, 8, 0), data = png_chunk("IDAT", stored_zlib(good)),
                end = png_chunk("IEND", {});
    CHECK(code_of(png_file({data, header, end})) == ErrorCode::kFormat);
    CHECK(code_of(png_file({header, header, data, end})) == ErrorCode::kFormat);
    CHECK(code_of(png_file({header, data, png_chunk("tEXt", {}), data, end})) == ErrorCode::kFormat);
    CHECK(code_of(png_file({header, png_chunk("ABCD", {}), data, end})) == ErrorCode::kUnsupported);
    CHECK(code_of(png_file({png_chunk("CgBI", {0, 0, 0, 0}), header, data, end})) == ErrorCode::kUnsupported);
    CHECK_NOTHROW(decode_image(png_file({header, png_chunk("abCd", {1}), data, end, Bytes(100, 7)}), "x"));
  }
  SECTION("headers") {
    for (const auto& [bits, type] : std::vector<std::pair<int, int>>{
             {0, 0}, {3, 0}, {32, 0}, {4, 2}, {16, 3}, {4, 4}, {1, 6}, {8, 1}, {8, 5}, {8, 7}, {99, 2}})
      CHECK(code_of(png_file({png_header(1, 1, bits, type), png_chunk("IDAT", stored_zlib({0, 0})),
                              png_chunk("IEND", {})})) == ErrorCode::kFormat);
    CHECK(code_of(png_file({png_header(0, 1, 8, 0), png_chunk("IDAT", stored_zlib({0, 0})), png_chunk("IEND", {})})) ==
          ErrorCode::kFormat);
    CHECK(code_of(png_file({png_header(1, 1, 8, 0, 2), png_chunk("IDAT", stored_zlib({0, 0})),
                            png_chunk("IEND", {})})) == ErrorCode::kFormat);
  }
}

TEST_CASE("hostile PNG data under right checksums neither crash nor leave the documented errors", "[image]") {
  RandomStream random(3, 0, "fuzz");
  int decoded = 0;
  for (int round = 0; round < 3000; ++round) {
    const Kind& kind = kKinds[random.below(static_cast<std::uint32_t>(kKinds.size()))];
    Bytes raw(1 + random.below(60)), stream = {0x78, 0x9c};
    for (auto& byte : raw) byte = static_cast<std::uint8_t>(random.below(256));
    if (round % 2 == 0)
      stream = stored_zlib(raw);
    else
      append(stream, raw);  // as deflate codes
    const Bytes file = png_file(
        {png_header(1 + random.below(9), 1 + random.below(9), kind.bits, kind.colour_type, random.below(2)),
         png_chunk("PLTE", Bytes(3 * (1 + random.below(256)), 5)), png_chunk("IDAT", stream), png_chunk("IEND", {})});
    try {
      decode_image(file, "x");
      ++decoded;
    } catch (const Error&) {
    }
  }
  CHECK(decoded < 100);
}

TEST_CASE("the EXIF orientation is applied", "[image]") {
  const Bytes letters = {'a', 'b', 'c', 'd', 'e', 'f'};  // abc / def
  const std::vector<std::string> upright = {"abcdef", "cbafed", "fedcba", "defabc",
                                            "adbecf", "daebfc", "fcebda", "cfbead"};
  for (int orientation = 1; orientation <= 8; ++orientation)
    for (const bool little : {false, true}) {
      const Bytes file = gray_png(3, 2, letters, {png_chunk("eXIf", exif(orientation, little))});
      const GrayImage image = decode_image(file, "x");
      std::string actual;
      for (const float value : image.pixels) actual += static_cast<char>(std::lround(value * 255));
      CHECK(actual == upright[static_cast<std::size_t>(orientation - 1)]);
      CHECK(image.width == (orientation < 5 ? 3 : 2));
      const ImageInfo info = inspect_image(file, "x");
      CHECK(info.orientation == orientation);
      CHECK(info.width == 3);
    }
  SECTION("malformed blocks count as upright") {
    const Bytes good = exif(6, true);
    for (std::size_t size = 0; size < 34; ++size) {
      const Bytes file = gray_png(
          3, 2, letters, {png_chunk("eXIf", Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)))});
      CHECK(inspect_image(file, "x").orientation == 1);
    }
    CHECK(inspect_image(gray_png(3, 2, letters, {png_chunk("eXIf", exif(9, false))}), "x").orientation == 1);
  }
}

TEST_CASE("written PNG files read back", "[image]") {
  RandomStream random(1, 0, "pixels");
  GrayImage gray = GrayImage::filled(37, 23);
  for (float& value : gray.pixels) value = static_cast<float>(random.uniform(-0.2, 1.2));
  const GrayImage back = decode_image(encode_png(gray), "x");
  REQUIRE(back.width == 37);
  for (std::size_t i = 0; i < gray.pixels.size(); ++i)
    REQUIRE(back.pixels[i] ==
            static_cast<float>(std::round(255 * std::clamp(static_cast<double>(gray.pixels[i]), 0.0, 1.0))) / 255.0F);
  CHECK(encode_png(gray) == encode_png(gray));

  RgbImage rgb = RgbImage::filled(2, 1, {200, 100, 50});
  rgb.set(1, 0, {0, 255, 0});
  const GrayImage luma = decode_image(encode_png(rgb), "x");
  CHECK(luma.at(0, 0) == Approx((0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255));
  CHECK(luma.at(1, 0) == Approx(0.587));

  CHECK_THROWS_AS(encode_png(GrayImage{}), Error);
  CHECK_THROWS_AS(encode_png(GrayImage{2, 2, {0, 0, 0}}), Error);
  CHECK_THROWS_AS(encode_png(GrayImage{1, 1, {std::nanf("")}}), Error);
  CHECK_THROWS_AS(write_png("/no/such/folder/x.png", gray), Error);
}
