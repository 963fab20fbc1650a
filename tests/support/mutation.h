#pragma once
// Damage at random, for readers of files.

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <string>

#include "daug/core/random.h"

namespace daug::test {

/// Changes bytes in one to three places: flips, overwrites, copies, swaps, fills, inserts, removes, puts a number that
/// means trouble where a length may stand (in binary or in digits), cuts, repeats a piece thousands of times. May leave
/// them as they were.
inline std::string mutated(std::string bytes, RandomStream& random) {
  const auto below = [&](std::size_t count) {
    return static_cast<std::size_t>(random.below(static_cast<std::uint32_t>(count)));
  };
  for (auto count = 1 + random.below(3); count > 0; --count) {
    const std::size_t size = bytes.size();
    if (size == 0) break;
    const auto at = [&] { return random.below(3) ? below(size) : below(std::min<std::size_t>(size, 700)); };
    const std::size_t from = at(), to = at();
    const std::size_t length = std::min({1 + below(64), size - from, size - to});
    switch (random.below(10)) {
      case 0:
        bytes[from] = static_cast<char>(bytes[from] ^ (1U << random.below(8)));
        break;
      case 1:
        bytes[from] = static_cast<char>(random.below(256));
        break;
      case 2:
        bytes.replace(to, length, bytes.substr(from, length));
        break;
      case 3:
        for (std::size_t i = 0; i < length; ++i) std::swap(bytes[from + i], bytes[to + i]);
        break;
      case 4:
        bytes.replace(from, length, length, static_cast<char>(random.below(2) ? 0 : 0xff));
        break;
      case 5:
        for (std::size_t i = 0; i < std::min<std::size_t>(length, 8); ++i)
          bytes[from + i] = static_cast<char>(random.below(256));
        break;
      case 6:
        bytes.insert(to, bytes.substr(from, length));
        break;
      case 7:
        bytes.erase(from, length);
        break;
      case 8: {
        const std::uint64_t numbers[] = {0,          1,          ~0ULL,      size,       size + 1,
                                         0x7fffffff, 0x80000000, 0xffffffff, 1ULL << 32, 1ULL << 63};
        std::uint64_t number = numbers[random.below(10)];
        const std::size_t width = std::min<std::size_t>(std::size_t{1} << random.below(4), size - from);
        const bool big_endian = random.below(2) != 0;
        for (std::size_t i = 0; i < width; ++i, number >>= 8)
          bytes[from + (big_endian ? width - 1 - i : i)] = static_cast<char>(number & 0xff);
        break;
      }
      default: {
        const auto digit = [&](std::size_t i) { return std::isdigit(static_cast<unsigned char>(bytes[i])) != 0; };
        std::size_t first = from;
        while (first < size && !digit(first)) ++first;
        std::size_t last = first;
        while (last < size && digit(last)) ++last;
        const char* numbers[] = {"0",
                                 "1",
                                 "-1",
                                 "2147483648",
                                 "4294967296",
                                 "9223372036854775807",
                                 "1e999",
                                 "1152921504606846976",
                                 "18446744073709551616"};
        bytes.replace(first, last - first, numbers[random.below(9)]);
      }
    }
  }
  if (random.below(20) == 0) bytes.resize(below(bytes.size() + 1));
  if (random.below(20) == 0) bytes += bytes.substr(0, 1 + random.below(200));
  if (random.below(50) == 0 && !bytes.empty()) {  // brackets in brackets, or anything else far too often
    const std::string piece = bytes.substr(below(bytes.size()), 1 + below(5));
    std::string many;
    for (auto count = random.below(20000); count > 0; --count) many += piece;
    bytes.insert(below(bytes.size()), many);
  }
  return bytes;
}

}  // namespace daug::test
