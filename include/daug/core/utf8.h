#pragma once
/// @file
/// Whether bytes are UTF-8, for texts that end up in JSON and pages.

#include <cstddef>
#include <string>
#include <string_view>

namespace daug {

namespace detail {

/// Bytes of the well-formed sequence that begins at `at`, 1 to 4; 0 when none does.
inline std::size_t utf8_sequence(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t offset) { return static_cast<unsigned char>(text[at + offset]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (length == 0 || length > text.size() - at) return 0;
  for (std::size_t k = 1; k < length; ++k)
    if (byte(k) >> 6 != 2) return 0;
  // Forms that a shorter one could say, surrogates, and code points above U+10FFFF.
  const unsigned second = byte(1);
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) || (first == 0xF0 && second < 0x90) ||
      (first == 0xF4 && second > 0x8F))
    return 0;
  return length;
}

}  // namespace detail

/// Position of the first byte that is not part of well-formed UTF-8 (RFC 3629); `std::string_view::npos` when all are.
inline std::size_t utf8_error(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = detail::utf8_sequence(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

/// The text with U+FFFD in place of every byte that is not part of well-formed UTF-8; any bytes are allowed.
inline std::string as_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = detail::utf8_sequence(text, at);
    if (length == 0)
      result += "\xEF\xBF\xBD";
    else
      result += text.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  return result;
}

}  // namespace daug
