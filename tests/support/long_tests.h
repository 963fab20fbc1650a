#pragma once
// How long tests that repeat something at random shall do so.

#include <cstdlib>
#include <string>

namespace daug::test {

/// DAUG_LONG_TESTS is set, and not to 0.
inline bool long_tests() {
  const char* variable = std::getenv("DAUG_LONG_TESTS");
  return variable && *variable && std::string(variable) != "0";
}

/// The sanitizers make code several times slower, and need to see every line rather than every value.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace daug::test
