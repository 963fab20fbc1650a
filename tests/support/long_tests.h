#pragma once
// Whether tests that repeat something at random shall do so for long.

#include <cstdlib>
#include <string>

namespace daug::test {

/// DAUG_LONG_TESTS is set, and not to 0.
inline bool long_tests() {
  const char* variable = std::getenv("DAUG_LONG_TESTS");
  return variable && *variable && std::string(variable) != "0";
}

}  // namespace daug::test
