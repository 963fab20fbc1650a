// What holds for every format: detection by content, limits, error messages, PGM.
#include "daug/image/decode.h"

#include <string>

#include "daug/core/error.h"
#include "daug/image/png.h"
#include "daug/io/file.h"
#include "fixtures.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

Bytes text(const std::string& characters) { return Bytes(characters.begin(), characters.end()); }

ErrorCode code_of(const Bytes& bytes, const DecodeLimits& limits = {}) {
  const Error error = caught([&] { decode_image(bytes, "some/file", limits); });
  CHECK_THAT(error.what(), contains_text("some/file"));
  return error.code();
}

}  // namespace

TEST_CASE("the format is told from the content", "[image]") {
  CHECK(inspect_image(gray_png(1, 1, {0}), "a.jpg").format == "PNG");
  CHECK(inspect_image(progressive_gray_jpeg(), "a.png").format == "JPEG");
  CHECK(inspect_image(text("P2 1 1 1 0"), "a.png").format == "PGM");
}

TEST_CASE("foreign formats are named, rubbish is refused", "[image]") {
  const std::vector<std::pair<std::string, std::string>> foreign = {
      {"BMP", "BM......"},
      {"GIF", "GIF89a"},
      {"TIFF", std::string("II*\0....", 8)},
      {"TIFF", std::string("MM\0*", 4)},
      {"JPEG 2000", std::string("\0\0\0\x0cjP  \r\n\x87\n", 12)},
      {"ICO", std::string("\0\0\1\0", 4)},
      {"WebP", "RIFF....WEBPVP8 "},
      {"DICOM", std::string(128, '\0') + "DICM"},
      {"PPM", "P6 1 1 255 abc"}};
  for (const auto& [name, content] : foreign) {
    INFO(name);
    CHECK(code_of(text(content)) == ErrorCode::kUnsupported);
    CHECK_THROWS_WITH(decode_image(text(content), "x"), contains_text(name + " data"));
  }
  CHECK(code_of({}) == ErrorCode::kFormat);
  CHECK(code_of(text("hello")) == ErrorCode::kFormat);
  CHECK(code_of({0xff}) == ErrorCode::kFormat);
}

TEST_CASE("limits are checked against the header", "[image]") {
  const Bytes png = gray_png(3, 2, {1, 2, 3, 4, 5, 6});
  const std::vector<Bytes> files = {png, progressive_gray_jpeg(), text("P2 3 2 9 1 2 3 4 5 6")};
  for (const Bytes& file : files) {
    const ImageInfo info = inspect_image(file, "x");
    DecodeLimits limits;
    limits.max_width = info.width;
    limits.max_height = info.height;
    limits.max_pixels = info.width * info.height;
    limits.max_bytes = static_cast<std::int64_t>(file.size());
    CHECK(decode_image(file, "x", limits).width == info.width);
    const auto refused = [&](auto change) {
      DecodeLimits less = limits;
      change(less);
      CHECK(code_of(file, less) == ErrorCode::kUnsupported);
    };
    refused([](DecodeLimits& l) { --l.max_width; });
    refused([](DecodeLimits& l) { --l.max_height; });
    refused([](DecodeLimits& l) { --l.max_pixels; });
    refused([](DecodeLimits& l) { --l.max_bytes; });
  }
  DecodeLimits bad;
  bad.max_pixels = 0;
  CHECK_THROWS_AS(decode_image(png, "x", bad), Error);
}

TEST_CASE("missing and oversized files on disk", "[image]") {
  CHECK_THROWS_WITH(read_image("/no/such/file.png"), contains_text("/no/such/file.png"));
  const Scratch scratch;
  const std::string path = scratch.path("a.png");
  write_png(path, GrayImage::filled(5, 4, 0.2F));
  CHECK(read_image(path).pixels == std::vector<float>(20, 51 / 255.0F));
  // Too large is the same error on disk and in memory, and exactly large enough is none.
  const Bytes bytes = read_file(path);
  DecodeLimits limits;
  limits.max_bytes = static_cast<std::int64_t>(bytes.size());
  CHECK(read_image(path, limits).pixels == decode_image(bytes, path, limits).pixels);
  --limits.max_bytes;
  const Error on_disk = caught([&] { read_image(path, limits); });
  CHECK(on_disk.code() == ErrorCode::kUnsupported);
  CHECK(std::string(on_disk.what()) == caught([&] { decode_image(bytes, path, limits); }).what());
  CHECK(mentions(on_disk, path, "at most " + std::to_string(limits.max_bytes) + " bytes"));
  limits.max_bytes = 0;
  CHECK(caught([&] { read_image(path, limits); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { read_image(scratch.path("none.png")); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { read_image(scratch.folder()); }).code() == ErrorCode::kIo);
}

TEST_CASE("PGM, plain and raw", "[image]") {
  SECTION("plain, with comments") {
    const GrayImage image = decode_image(text("P2# made by hand\n3 # width\n2\n#\n 10\n0 5 10\n1 2 3"), "x");
    CHECK(image.width == 3);
    CHECK(image.height == 2);
    CHECK(image.pixels == std::vector<float>{0, 0.5F, 1, 0.1F, 0.2F, 0.3F});
  }
  SECTION("raw, 8 bits, with bytes after the picture") {
    CHECK(decode_image(text("P5 2 1 200\n\x64\xc8 more"), "x").pixels == std::vector<float>{0.5F, 1});
  }
  SECTION("raw, 16 bits, high byte first") {
    const Bytes file = text(std::string("P5\n2 1\n65535\n\x01\x02\xff\xff", 17));
    CHECK(decode_image(file, "x").pixels == std::vector<float>{258 / 65535.0F, 1});
    CHECK(inspect_image(file, "x").bits == 16);
  }
  SECTION("refused") {
    for (const char* bad : {"P5 2 2 255\nabc", "P2 2 1 9 1", "P2 2 1 9 1 10", "P2 2 1 9 1 x", "P2 0 1 9", "P2 1 1 0 0",
                            "P2 1 1 65536 0", "P2 1 -1 9 0", "P2 99999999999 1 9 0", "P2 1 1", "P2 ", "P5 1 1 255"}) {
      INFO(bad);
      CHECK(code_of(text(bad)) == ErrorCode::kFormat);
    }
    CHECK(code_of(text("P5 60000 60000 255\n")) == ErrorCode::kUnsupported);
  }
}
