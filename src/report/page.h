#pragma once
// The fixed parts of a page: style sheet and script.

#include <string_view>

namespace daug::report {

extern const std::string_view kStyle;   ///< contents of the style element
extern const std::string_view kScript;  ///< contents of the script element

}  // namespace daug::report
