#pragma once
// Gray values to bytes. Not installed.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "daug/core/error.h"

namespace daug::detail {

/// Nearest of 256 levels of a value in [0, 1], clamped. Throws kNumeric, in the name of `function`, for not-a-number.
inline std::uint8_t to_level(double value, const char* function) {
  if (std::isnan(value)) fail(ErrorCode::kNumeric, function, "value", "a number", value);
  return static_cast<std::uint8_t>(std::lround(255 * std::clamp(value, 0.0, 1.0)));
}

}  // namespace daug::detail
