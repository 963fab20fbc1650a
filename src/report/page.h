#pragma once
// The fixed parts of a report beside its style sheet.

#include <string_view>

namespace daug::report {

extern const std::string_view kScript;    ///< contents of the script element
extern const std::string_view kSvgStyle;  ///< of charts in files of their own

}  // namespace daug::report
