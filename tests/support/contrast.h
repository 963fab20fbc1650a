#pragma once
// Contrast of two colours, by WCAG 2.1.

#include <algorithm>
#include <cmath>
#include <string>

namespace daug::test {

/// Relative luminance of "#rrggbb", in [0, 1].
inline double luminance(const std::string& colour) {
  const auto channel = [&](std::size_t at) {
    const double c = std::stoi(colour.substr(at, 2), nullptr, 16) / 255.0;
    return c <= 0.04045 ? c / 12.92 : std::pow((c + 0.055) / 1.055, 2.4);
  };
  return 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
}

/// Contrast ratio of two of them, in [1, 21].
inline double contrast(const std::string& a, const std::string& b) {
  const double x = luminance(a), y = luminance(b);
  return (std::max(x, y) + 0.05) / (std::min(x, y) + 0.05);
}

}  // namespace daug::test
