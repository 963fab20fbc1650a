#pragma once
// Checksums put right in damaged files of the library's own formats, so that what stands behind them is reached: files
// that no writer made. Written from the formats' descriptions (src/index/index_file.h, src/index/journal.h,
// src/heatmap/heatmap_file.h); bytes that do not follow them that far stay as they are.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "daug/io/fingerprint.h"

namespace daug::fuzz {

inline std::uint64_t number_at(const std::string& bytes, std::size_t at) {
  std::uint64_t number = 0;
  std::memcpy(&number, bytes.data() + at, sizeof number);
  return number;
}
inline void put_at(std::string& bytes, std::size_t at, std::uint64_t number) {
  std::memcpy(bytes.data() + at, &number, sizeof number);
}
inline std::uint64_t sum_of(const std::string& bytes, std::size_t begin, std::size_t size) {
  return checksum64(bytes.data() + begin, size);
}

/// A head of a record: `numbers` bytes of it, then the checksum of the file's header and those.
inline void seal_head(std::string& bytes, std::size_t at, std::size_t numbers, std::uint64_t header) {
  std::string covered(sizeof header, '\0');
  std::memcpy(covered.data(), &header, sizeof header);
  covered += bytes.substr(at, numbers);
  put_at(bytes, at + numbers, checksum64(covered.data(), covered.size()));
}

/// Both formats' heads: 8 bytes, number, length, body check, head check. `with_head`: whether the length counts it.
inline void seal_records(std::string& bytes, std::size_t begin, std::uint64_t header, bool with_head) {
  constexpr std::size_t kNumbers = 32, kHead = kNumbers + 8;
  while (begin + kHead <= bytes.size()) {
    const std::uint64_t length = number_at(bytes, begin + 16) - (with_head ? kHead : 0);
    if (length > bytes.size() - begin - kHead) return;
    put_at(bytes, begin + 24, sum_of(bytes, begin + kHead, static_cast<std::size_t>(length)));
    seal_head(bytes, begin, kNumbers, header);
    begin += kHead + static_cast<std::size_t>(length);
  }
}

/// A store of maps.
inline std::string sealed_store(std::string bytes) {
  if (bytes.size() < 32) return bytes;
  const std::uint64_t header = number_at(bytes, 16);
  if (header < 32 || header > bytes.size()) return bytes;
  const auto end = static_cast<std::size_t>(header) - 8;
  put_at(bytes, end, sum_of(bytes, 0, end));
  seal_records(bytes, end + 8, number_at(bytes, end), true);
  return bytes;
}

/// An index.
inline std::string sealed_index(std::string bytes) {
  constexpr std::uint64_t kMost = 1 << 20, kBlock = 1 << 16;
  std::size_t at = 16;
  bool fits = true;
  const auto next = [&] {
    fits = fits && at + 8 <= bytes.size();
    const std::uint64_t number = fits ? number_at(bytes, at) : 0;
    at += 8;
    return number;
  };
  const auto skip_text = [&] {
    const std::uint64_t length = next();
    fits = fits && length <= kMost;
    at += fits ? static_cast<std::size_t>(length) : 0;
  };
  const std::uint64_t header = next(), items = next(), dimension = next();
  next();  // the metric
  const std::uint64_t storage = next();
  if (storage > 3 || header < 64 || header > items || items > bytes.size() || dimension > kMost) return bytes;
  skip_text();
  for (auto names = next(); fits && names > 0; --names) skip_text();
  std::string sums;
  auto section = header;
  for (auto chunks = next(); fits && chunks > 0; --chunks) {
    const std::uint64_t rows = next(), metadata = next();
    if (rows > kMost || metadata > kMost) return bytes;
    // Codes of float16, bfloat16 or, in pairs, int8, and three bounds, of whole blocks of 16 rows; none under float32.
    const std::uint64_t coded = storage == 0 ? 0 : (rows + 15) / 16 * 16;
    const std::uint64_t codes = coded * (storage == 3 ? (dimension + 1) / 2 * 2 : 2 * dimension);
    for (const std::uint64_t length :
         {8 * rows, 4 * rows, 8 * rows, 4 * rows * dimension, codes, 12 * coded, metadata}) {
      const std::uint64_t padded = (length + 63) / 64 * 64;
      if (padded > items - section) return bytes;
      for (std::uint64_t done = 0; done < padded; done += kBlock) {
        const auto sum = sum_of(bytes, static_cast<std::size_t>(section + done),
                                static_cast<std::size_t>(std::min(kBlock, padded - done)));
        sums.append(reinterpret_cast<const char*>(&sum), sizeof sum);
      }
      section += padded;
    }
  }
  const auto end = static_cast<std::size_t>(header) - 8;
  if (!fits || at + sums.size() > end) return bytes;
  bytes.replace(at, sums.size(), sums);
  put_at(bytes, end, sum_of(bytes, 0, end));
  const auto commit = static_cast<std::size_t>(items);
  if (bytes.size() - commit < 16) return bytes;
  seal_head(bytes, commit, 8, number_at(bytes, end));
  seal_records(bytes, commit + 16, number_at(bytes, end), false);
  return bytes;
}

}  // namespace daug::fuzz
