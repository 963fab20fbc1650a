#pragma once
// Catch2 2.13 (one header) and 3.x (many) behind one include.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
namespace daug::test {
inline auto contains_text(const std::string& text) { return Catch::Matchers::ContainsSubstring(text); }
}  // namespace daug::test
#else
#include <catch2/catch.hpp>
namespace daug::test {
inline auto contains_text(const std::string& text) { return Catch::Matchers::Contains(text); }
}  // namespace daug::test
#endif
