#pragma once
/// @file
/// Parts of pages, for programs that write pages of their own.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace daug::report {

/// Text for element contents and quoted attributes: & < > " ' escaped, control characters that HTML forbids and bytes
/// that are not UTF-8 replaced by U+FFFD.
std::string escape(std::string_view text);

/// RFC 4648 with padding, one line.
std::string base64(const std::vector<std::uint8_t>& bytes);

/// Lower-case ASCII letters and digits of a title with single hyphens between, "section" when there are none.
std::string slug(std::string_view title);

/// Contents of the report's style element: colours for light, dark and print, and the classes of its pieces.
extern const std::string_view kStyle;

}  // namespace daug::report
