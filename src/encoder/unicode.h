#pragma once
// The little Unicode a byte-pair tokenizer needs. Tables: unicode_tables.inc (see make_unicode_tables.py).

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>

namespace daug::text {

/// The range {first, last, ...} that holds `code`, or null. Ranges are sorted and disjoint.
template <class Range, std::size_t kCount>
const Range* find_range(const Range (&ranges)[kCount], char32_t code) {
  const Range* range = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                        [](char32_t value, const Range& candidate) { return value < candidate.first; });
  return range != std::begin(ranges) && code <= range[-1].last ? range - 1 : nullptr;
}

/// UTF-8 to code points. Every byte that is not part of a well-formed sequence becomes U+FFFD.
std::u32string decode_utf8(std::string_view bytes);
void append_utf8(std::string& bytes, char32_t code);
std::string encode_utf8(std::u32string_view codes);

bool is_ascii(std::u32string_view text);
bool is_letter(char32_t code);  ///< general category L
bool is_number(char32_t code);  ///< general category N
bool is_space(char32_t code);   ///< property White_Space

/// Simple lower-casing, code point by code point (U+0130 becomes two). With `final_sigma` as Python's str.lower, where
/// a capital sigma that ends a word becomes U+03C2.
std::u32string to_lower(std::u32string_view text, bool final_sigma);

/// Normalisation form C.
std::u32string normalize_nfc(std::u32string text);

/// One pass of HTML unescaping as in Python's html.unescape: numeric references with the Windows-1252 repair, and the
/// names of HTML 5. With `require_semicolon` as ftfy.fixes.unescape_html (6.3.1): "&amp" stays, and names in capitals,
/// "&EACUTE;", stand for the upper case of what they mean in lower case.
std::u32string html_unescape(std::u32string_view text, bool require_semicolon);

/// The usual form of full-width and half-width characters (U+FF01..U+FFEE, but for U+FFE3, which is two) and of the
/// ideographic space; other code points are returned as they are.
char32_t standard_width(char32_t code);

/// What a C1 control character (U+0080..U+009F) means in Windows-1252; other code points are returned as they are.
char32_t windows_1252(char32_t code);

}  // namespace daug::text
