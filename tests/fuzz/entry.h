#pragma once
// What targets check with.

#include <cstdio>
#include <cstdlib>

#include "daug/core/error.h"

namespace daug::fuzz {

/// Ends the program, as a crash would.
[[noreturn]] inline void broken(const char* what) {
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

inline void expect(bool condition, const char* what) {
  if (!condition) broken(what);
}

/// Calls `read`; daug::Error of the codes that files can cause is fine, all else is not.
template <class Read>
void read_or_refuse(const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kFormat && error.code() != ErrorCode::kUnsupported) broken(error.what());
  } catch (const std::exception& error) {
    broken(error.what());
  }
}

}  // namespace daug::fuzz
