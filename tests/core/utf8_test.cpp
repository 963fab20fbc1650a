#include "daug/core/utf8.h"

#include <cstdint>
#include <string>
#include <vector>

#include "support/catch.h"

using namespace daug;

namespace {

/// RFC 3629, section 3: the bytes of a code point.
std::string encoded(std::uint32_t code) {
  const auto byte = [](std::uint32_t value) { return std::string(1, static_cast<char>(value)); };
  const auto rest = [&](std::uint32_t value) { return byte(0x80 | (value & 0x3F)); };
  if (code < 0x80) return byte(code);
  if (code < 0x800) return byte(0xC0 | code >> 6) + rest(code);
  if (code < 0x10000) return byte(0xE0 | code >> 12) + rest(code >> 6) + rest(code);
  return byte(0xF0 | code >> 18) + rest(code >> 12) + rest(code >> 6) + rest(code);
}

}  // namespace

TEST_CASE("every code point is UTF-8, and surrogates and what lies beyond are not", "[core]") {
  std::size_t wrong = 0;
  for (std::uint32_t code = 0; code < 0x120000; ++code) {
    const bool valid = code <= 0x10FFFF && !(code >= 0xD800 && code <= 0xDFFF);
    const std::string text = "a" + encoded(code) + "b";
    wrong += (utf8_error(text) == std::string::npos) != valid;
    wrong += (as_utf8(text) == text) != valid;
  }
  CHECK(wrong == 0);
}

TEST_CASE("bytes that are no UTF-8 are found and replaced one by one", "[core]") {
  const std::string mark = "\xEF\xBF\xBD";
  struct Case {
    std::string text;
    std::size_t at;
    std::string replaced;
  };
  for (const Case& one : std::vector<Case>{{"", std::string::npos, ""},
                                           {std::string("a\0b", 3), std::string::npos, std::string("a\0b", 3)},
                                           {"f\xFCr", 1, "f" + mark + "r"},          // Latin-1
                                           {"\xC3\xBC\xC3", 2, "\xC3\xBC" + mark},   // cut short
                                           {"\xE2\x82", 0, mark + mark},             // cut short
                                           {"\xC0\xAF", 0, mark + mark},             // a longer form of '/'
                                           {"\xE0\x80\xAF", 0, mark + mark + mark},  // the same
                                           {"\xF0\x8F\xBF\xBF", 0, mark + mark + mark + mark},
                                           {"x\x80y", 1, "x" + mark + "y"},
                                           {"\xFF\xFE", 0, mark + mark}}) {
    INFO(one.text);
    CHECK(utf8_error(one.text) == one.at);
    CHECK(as_utf8(one.text) == one.replaced);
    CHECK(utf8_error(as_utf8(one.text)) == std::string::npos);
  }
}
