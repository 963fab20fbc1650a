#pragma once
/// @file
/// The one exception type of the library and the checks that raise it.

#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace daug {

/// What kind of thing went wrong; lets a caller react without parsing text.
enum class ErrorCode {
  kInvalidArgument,  ///< an argument or option is out of its documented range
  kNotFound,         ///< a file, column, finding or key does not exist
  kIo,               ///< the operating system refused to read or write
  kFormat,           ///< file contents contradict their format
  kUnsupported,      ///< valid, but not something this build can do
  kMismatch,         ///< two things that must agree do not (shapes, fingerprints)
  kNumeric,          ///< a value became infinite or not-a-number
  kCancelled,        ///< a stop was requested and the work ended early
  kBusy,             ///< somebody else is using it; the same call may succeed later
  kOutOfMemory,      ///< not even the smallest part of the work fits into the memory of its device
  kDevice,           ///< a kernel failed while its device ran it; the device answers this process nothing more
};

/// Thrown at every public boundary. `what()` reads
/// `function: argument: expected X, got Y`.
class Error : public std::runtime_error {
 public:
  /// An error of this kind whose `what()` is `message`.
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  /// What kind of thing went wrong.
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

namespace detail {

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  out.precision(9);
  (void)std::initializer_list<int>{((void)(out << parts), 0)...};
  return out.str();
}

}  // namespace detail

/// Throws Error with the library's message layout.
template <class Expected, class Actual>
[[noreturn]] void fail(ErrorCode code, const char* function, const std::string& argument, const Expected& expected,
                       const Actual& actual) {
  throw Error(code, detail::concat(function, ": ", argument, ": expected ", expected, ", got ", actual));
}

/// Throws kInvalidArgument unless `condition` holds.
template <class Expected, class Actual>
void require(bool condition, const char* function, const char* argument, const Expected& expected,
             const Actual& actual) {
  if (!condition) fail(ErrorCode::kInvalidArgument, function, argument, expected, actual);
}

/// Throws kInvalidArgument unless low <= value <= high. Not-a-number fails.
template <class T, class Low, class High>
void require_range(T value, Low low, High high, const char* function, const char* argument) {
  if (!(value >= static_cast<T>(low) && value <= static_cast<T>(high)))
    fail(ErrorCode::kInvalidArgument, function, argument, detail::concat("a value in [", low, ", ", high, "]"), value);
}

}  // namespace daug
