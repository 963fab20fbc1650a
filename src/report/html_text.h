#pragma once
// Text and bytes as they may stand in a page.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace daug::report {

/// Text for element contents and quoted attributes: & < > " ' escaped, control characters that HTML forbids replaced by
/// U+FFFD.
std::string escape(std::string_view text);

/// RFC 4648 with padding, one line.
std::string base64(const std::vector<std::uint8_t>& bytes);

/// Lower-case ASCII letters and digits of a title with single hyphens between, "section" when there are none.
std::string slug(std::string_view title);

}  // namespace daug::report
