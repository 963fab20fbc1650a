#pragma once
// Text that was read in a wrong encoding.

#include <string>

namespace daug::text {

/// Undoes the reading of UTF-8 as a single-byte encoding ("schÃ¶n", "itâ€™s"), of the whole text or of pieces of it,
/// and of Windows-1252 as Latin-1, as ftfy.fix_encoding (version 6.3.1) does: Latin-1, Windows-1252, -1251, -1250,
/// -1253, -1254, -1257, ISO 8859-2, Mac Roman and code page 437 are tried in this order. Text that does not look
/// suspicious comes back as it is. Linear time; text that was misread more than eight times is repaired in part.
std::u32string fix_encoding(std::u32string text);

}  // namespace daug::text
