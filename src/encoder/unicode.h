#pragma once
// The little Unicode a byte-pair tokenizer needs. Tables: unicode_tables.inc (see make_unicode_tables.py).

#include <string>
#include <string_view>

namespace daug::text {

/// UTF-8 to code points. Every byte that is not part of a well-formed sequence becomes U+FFFD.
std::u32string decode_utf8(std::string_view bytes);
void append_utf8(std::string& bytes, char32_t code);
std::string encode_utf8(std::u32string_view codes);

bool is_letter(char32_t code);  ///< general category L
bool is_number(char32_t code);  ///< general category N
bool is_space(char32_t code);   ///< property White_Space

/// Simple lower-casing, code point by code point (U+0130 becomes two); no final-sigma rule.
std::u32string to_lower(std::u32string_view text);

/// Normalisation form C. CJK compatibility ideographs (U+F900 and above) are left as they are.
std::u32string normalize_nfc(std::u32string text);

/// One pass of HTML unescaping as in Python's html.unescape: numeric references with the Windows-1252 repair, and the
/// names of HTML 4 and of HTML 5's ASCII characters. `require_semicolon` leaves "&amp" alone.
std::u32string html_unescape(std::u32string_view text, bool require_semicolon);

/// What a C1 control character (U+0080..U+009F) means in Windows-1252; other code points are returned as they are.
char32_t windows_1252(char32_t code);

}  // namespace daug::text
