// JPEG reading. stb_image fills what is missing with gray; these tests make sure that such files never reach it.
#include <algorithm>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/image/decode.h"
#include "fixtures.h"
#include "support/catch.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;

namespace {

std::vector<Bytes> fixtures() {
  return {baseline_gray_jpeg(), progressive_gray_jpeg(), baseline_colour_jpeg(), progressive_colour_jpeg()};
}

bool decodes(const Bytes& bytes) {
  try {
    decode_image(bytes, "x.jpg");
    return true;
  } catch (const Error& error) {
    const bool documented = error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kUnsupported;
    CHECK(documented);
    return false;
  }
}

ErrorCode code_of(const Bytes& bytes) { return caught([&] { decode_image(bytes, "x.jpg"); }).code(); }

/// Position of the last occurrence of a marker; the fixtures hold no such pair elsewhere.
std::size_t find_marker(const Bytes& bytes, std::uint8_t marker) {
  for (std::size_t i = bytes.size() - 2; i > 0; --i)
    if (bytes[i] == 0xff && bytes[i + 1] == marker) return i;
  FAIL("no marker " << int(marker));
  return 0;
}

Bytes inserted(Bytes bytes, std::size_t at, const Bytes& what) {
  bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), what.begin(), what.end());
  return bytes;
}

Bytes prefix(const Bytes& bytes, std::size_t size) {
  return Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
}

Bytes app1(const Bytes& tiff) {
  Bytes segment = {0xff, 0xe1, 0, static_cast<std::uint8_t>(8 + tiff.size()), 'E', 'x', 'i', 'f', 0, 0};
  append(segment, tiff);
  return segment;
}

}  // namespace

TEST_CASE("JPEG files decode to what was encoded", "[image]") {
  const GrayImage original = jpeg_original();
  for (const Bytes& file : fixtures()) {
    const GrayImage image = decode_image(file, "x.jpg");
    REQUIRE(image.width == original.width);
    REQUIRE(image.height == original.height);
    float error = 0;
    for (std::size_t i = 0; i < image.pixels.size(); ++i)
      error = std::max(error, std::abs(image.pixels[i] - original.pixels[i]));
    CHECK(error <= 3.01F / 255);  // quality 97: quantisation steps of 1 to 6
  }
  CHECK(inspect_image(baseline_gray_jpeg(), "x").channels == 1);
  CHECK(inspect_image(progressive_colour_jpeg(), "x").channels == 3);
}

TEST_CASE("a JPEG that is cut anywhere is refused", "[image]") {
  for (const Bytes& file : fixtures())
    for (std::size_t size = 0; size < file.size(); ++size) {
      INFO(size << " of " << file.size());
      CHECK_FALSE(decodes(prefix(file, size)));
    }
}

TEST_CASE("a JPEG that is cut and closed again is refused", "[image]") {
  for (const Bytes& file : {baseline_gray_jpeg(), baseline_colour_jpeg()})
    for (std::size_t size = 2; size < find_marker(file, 0xd9); ++size) {
      Bytes closed = prefix(file, size);
      append(closed, {0xff, 0xd9});
      INFO(size << " of " << file.size());
      CHECK_FALSE(decodes(closed));
    }
}

TEST_CASE("a progressive JPEG needs its first scan, not its last", "[image]") {
  const Bytes file = progressive_gray_jpeg();
  const std::size_t last_scan = find_marker(file, 0xda);
  Bytes shorter = prefix(file, find_marker(prefix(file, last_scan), 0xc4));
  append(shorter, {0xff, 0xd9});
  CHECK(decodes(shorter));  // coarser, and complete as far as it goes

  Bytes repeated = prefix(file, find_marker(file, 0xd9));
  append(repeated, Bytes(file.begin() + static_cast<std::ptrdiff_t>(last_scan), file.end()));
  CHECK_FALSE(decodes(repeated));  // refines bits that are final
}

TEST_CASE("coded data must end where the picture ends", "[image]") {
  for (const Bytes& file : fixtures()) {
    const std::size_t end = find_marker(file, 0xd9);
    CHECK(decodes(inserted(file, end, {0xff})));  // fill byte before a marker
    CHECK(decodes(inserted(file, file.size(), {1, 2, 3})));
    CHECK_FALSE(decodes(inserted(file, end, {0x12, 0x34})));
  }
}

TEST_CASE("restart markers must come in turn", "[image]") {
  const Bytes file = baseline_gray_jpeg();
  const std::size_t restart = find_marker(file, 0xd0);
  Bytes changed = file;
  changed[restart + 1] = 0xd1;
  CHECK(code_of(changed) == ErrorCode::kFormat);
  changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(restart),
                changed.begin() + static_cast<std::ptrdiff_t>(restart + 2));
  CHECK(code_of(changed) == ErrorCode::kFormat);
}

TEST_CASE("JPEG processes that are not read are named as such", "[image]") {
  const Bytes file = baseline_gray_jpeg();
  const std::size_t frame = find_marker(file, 0xc0);
  for (const int process : {0xc3, 0xc5, 0xc9, 0xca, 0xcf}) {
    Bytes changed = file;
    changed[frame + 1] = static_cast<std::uint8_t>(process);
    CHECK(code_of(changed) == ErrorCode::kUnsupported);
  }
  Bytes deep = file;
  deep[frame + 4] = 12;
  CHECK(code_of(deep) == ErrorCode::kUnsupported);
  Bytes no_height = file;
  no_height[frame + 5] = no_height[frame + 6] = 0;
  CHECK(code_of(no_height) == ErrorCode::kUnsupported);
  Bytes bomb = file;
  for (std::size_t i = 5; i < 9; ++i) bomb[frame + i] = 0xee;
  CHECK(code_of(bomb) == ErrorCode::kUnsupported);
  DecodeLimits wide;
  wide.max_width = wide.max_height = 65535;
  wide.max_pixels = std::int64_t{1} << 40;
  CHECK_THROWS_WITH(decode_image(bomb, "x", wide), contains_text("enough data"));
}

TEST_CASE("the EXIF orientation of a JPEG is applied", "[image]") {
  const GrayImage plain = decode_image(baseline_gray_jpeg(), "x");
  const Bytes turned_file = inserted(baseline_gray_jpeg(), 2, app1(exif(6, true)));
  const GrayImage turned = decode_image(turned_file, "x");
  REQUIRE(turned.width == plain.height);
  REQUIRE(turned.height == plain.width);
  for (int y = 0; y < turned.height; ++y)
    for (int x = 0; x < turned.width; ++x) REQUIRE(turned.at(x, y) == plain.at(y, plain.height - 1 - x));
  CHECK(inspect_image(turned_file, "x").orientation == 6);
  CHECK(inspect_image(turned_file, "x").width == plain.width);
}

TEST_CASE("damaged JPEG files neither crash nor leave the documented errors", "[image]") {
  int decoded = 0, rounds = 0;
  for (const Bytes& file : fixtures()) {
    RandomStream random(5, rounds, "fuzz");
    for (std::size_t i = 2; i < file.size(); ++i)
      for (int variant = 0; variant < 6; ++variant, ++rounds) {
        Bytes changed = file;
        changed[i] = variant == 0 ? 0xff : variant == 1 ? 0 : static_cast<std::uint8_t>(random.below(256));
        if (variant > 3) changed[2 + random.below(static_cast<std::uint32_t>(file.size() - 2))] ^= 1 << random.below(8);
        decoded += decodes(changed);
      }
  }
  CHECK(decoded > 0);
  CHECK(decoded < rounds / 2);
}
