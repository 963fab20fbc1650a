#pragma once
/// @file
/// Content hashes that tell what made a derived file.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace daug {

/// Order-sensitive 128-bit hash of named fields (XXH3; not cryptographic).
///
/// Each field is hashed with its kind, its name and both lengths, so ("ab","c") and ("a","bc") differ, and so do the
/// text "1" and the number 1. Deterministic on all little-endian machines.
class Fingerprint {
 public:
  /// Adds a text, any bytes.
  Fingerprint& add(std::string_view name, std::string_view value);
  /// Adds a number by its bits; 0 and -0 are the same.
  Fingerprint& add(std::string_view name, double value);
  /// Adds raw memory. Not the same field as a text of these bytes.
  Fingerprint& add_bytes(std::string_view name, const void* data, std::size_t size);

  /// Any integer type or bool; equal values of different types are the same field (values beyond int64 wrap).
  template <class Integer, std::enable_if_t<std::is_integral<Integer>::value, int> = 0>
  Fingerprint& add(std::string_view name, Integer value) {
    return add_integer(name, static_cast<std::int64_t>(value));
  }

  /// 32 lower-case hexadecimal digits of everything added so far.
  std::string hex() const;

 private:
  Fingerprint& add_integer(std::string_view name, std::int64_t value);
  Fingerprint& add_field(char kind, std::string_view name, const void* data, std::size_t size);

  std::string fields_;
};

/// 64-bit XXH3 checksum of a byte range; what the library's own file formats store.
std::uint64_t checksum64(const void* data, std::size_t size);

/// Fingerprint of a file's bytes (XXH3-128, 32 hexadecimal digits). Throws kNotFound or kIo.
std::string fingerprint_file(const std::string& path);

}  // namespace daug
