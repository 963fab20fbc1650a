#pragma once
// What targets check with.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <string>

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

/// What became of the calls of read_or_refuse since this was set to its default.
struct Reads {
  int accepted = 0;
  std::string refusal;  ///< of the last one that was refused
};
inline Reads& reads() {
  static Reads counts;
  return counts;
}

/// Calls `read`; daug::Error of the codes that all readers may throw (kFormat, kUnsupported) and of those that this one
/// documents is fine, all else is not: another library's exception, memory that is not to be had.
template <class Read>
void read_or_refuse(const Read& read, std::initializer_list<ErrorCode> documented = {}) {
  try {
    read();
    ++reads().accepted;
  } catch (const Error& error) {
    const bool known = error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kUnsupported ||
                       std::find(documented.begin(), documented.end(), error.code()) != documented.end();
    if (!known) broken(error.what());
    reads().refusal = error.what();
  } catch (const std::exception& error) {
    broken(error.what());
  }
}

}  // namespace daug::fuzz
