#pragma once
/// @file
/// Putting together and taking apart the bytes of the library's own file formats (numbers as they lie in the memory of
/// a little-endian machine).

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "daug/core/error.h"

namespace daug {
namespace detail {

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Length (u64), then the bytes.
inline void put_text(std::string& bytes, std::string_view text) {
  put<std::uint64_t>(bytes, text.size());
  bytes += text;
}

/// Takes values off the front of a part of a file, never past its end. Errors are kFormat and read
/// `function: file: part: expected ..., got ...`.
class ByteReader {
 public:
  /// `file` must outlive the reader.
  ByteReader(std::string_view bytes, const char* function, const std::string& file, const char* part)
      : rest_(bytes), function_(function), file_(file), part_(part) {}

  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) fail_format(concat(count, " more bytes"), concat("the last ", rest_.size()));
    const auto taken = rest_.substr(0, static_cast<std::size_t>(count));
    rest_.remove_prefix(taken.size());
    return taken;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string text() { return std::string(take(number<std::uint64_t>())); }

  /// `count` numbers; a count that does not fit is refused before memory is set aside.
  template <class T>
  std::vector<T> numbers(std::uint64_t count) {
    if (count > rest_.size() / sizeof(T))
      fail_format(concat(count, " more values of ", sizeof(T), " bytes"), concat("the last ", rest_.size(), " bytes"));
    const auto bytes = take(count * sizeof(T));
    std::vector<T> values(static_cast<std::size_t>(count));
    if (count) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  /// Exactly `count` numbers and then the end.
  template <class T>
  std::vector<T> all_numbers(std::uint64_t count) {
    if (rest_.size() % sizeof(T) != 0 || rest_.size() / sizeof(T) != count)
      fail_format(concat(count, " values of ", sizeof(T), " bytes"), concat(rest_.size(), " bytes"));
    return numbers<T>(count);
  }

  std::size_t remaining() const { return rest_.size(); }
  void expect_end() const {
    if (!rest_.empty()) fail_format("nothing after the last value", concat(rest_.size(), " bytes"));
  }

  template <class Expected, class Actual>
  [[noreturn]] void fail_format(const Expected& expected, const Actual& actual) const {
    fail(ErrorCode::kFormat, function_, file_ + ": " + part_, expected, actual);
  }

 private:
  std::string_view rest_;
  const char* function_;
  const std::string& file_;
  const char* part_;
};

}  // namespace detail
}  // namespace daug
