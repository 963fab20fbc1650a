#pragma once
// Which items a search may find, by block.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "metadata_table.h"
#include "scan_kernel.h"

namespace daug::detail {

/// Blocks one after another.
struct Span {
  std::size_t first;
  std::size_t count;
};

/// Items that may be found: all, or those of a filter.
class RowSet {
 public:
  explicit RowSet(std::size_t rows) : rows_(rows) {}
  RowSet(std::size_t rows, const CompiledFilter& filter) : rows_(rows), restricted_(!filter.everything()) {
    constexpr std::size_t kChunk = 4096;
    if (!restricted_) return;
    member_.resize(rows);
    for (std::size_t first = 0; first < rows; first += kChunk)
      filter.evaluate(first, std::min(kChunk, rows - first), member_.data() + first);
  }

  bool has(std::size_t row) const { return !restricted_ || member_[row] != 0; }

  /// All blocks in which an item is, in pieces of at most `longest`.
  std::vector<Span> spans(std::size_t longest) const {
    std::vector<Span> spans;
    for (std::size_t block = 0; block * kBlockRows < rows_; ++block) {
      if (restricted_ && !block_has_any(block)) continue;
      if (spans.empty() || spans.back().first + spans.back().count != block || spans.back().count == longest)
        spans.push_back({block, 0});
      ++spans.back().count;
    }
    return spans;
  }

 private:
  bool block_has_any(std::size_t block) const {
    const auto first = member_.begin() + static_cast<std::ptrdiff_t>(block * kBlockRows);
    const auto last = member_.begin() + static_cast<std::ptrdiff_t>(std::min(rows_, (block + 1) * kBlockRows));
    return std::find(first, last, 1) != last;
  }

  std::size_t rows_;
  bool restricted_ = false;
  std::vector<std::uint8_t> member_;
};

}  // namespace daug::detail
