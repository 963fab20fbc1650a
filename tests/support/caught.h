#pragma once
// Errors that calls throw, and what they say.

#include <string>

#include "daug/core/error.h"
#include "support/catch.h"

namespace daug::test {

/// The daug::Error that `action` throws; fails the test when it throws none.
template <class Action>
Error caught(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  FAIL("nothing was thrown");
  return Error(ErrorCode::kIo, "");
}

/// Its message; fails the test when it is not of this code.
template <class Action>
std::string error_text(ErrorCode code, Action&& action) {
  const Error error = caught(action);
  INFO(error.what());
  CHECK(error.code() == code);
  return error.what();
}

/// Whether a text contains every one of `parts`.
template <class... Parts>
bool mentions(const std::string& text, const Parts&... parts) {
  return ((text.find(parts) != std::string::npos) && ...);
}
template <class... Parts>
bool mentions(const Error& error, const Parts&... parts) {
  return mentions(std::string(error.what()), parts...);
}

/// Checks that a text has a part.
inline void contains(const std::string& text, const std::string& part) { CHECK_THAT(text, contains_text(part)); }

/// Checks that `action` throws an error of this code whose message has `part`, such as "function: argument".
template <class Action>
void check_refused(ErrorCode code, const std::string& part, Action&& action) {
  contains(error_text(code, action), part);
}

}  // namespace daug::test
