#pragma once
// Which items a search may find, by block.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "compiled_filter.h"
#include "scan_kernel.h"
#include "snapshot.h"

namespace daug::detail {

/// Blocks of one part, one after another.
struct Span {
  std::uint32_t part;
  std::size_t first;
  std::size_t count;
};

/// A filter made ready for every part of a snapshot.
using SnapshotFilter = std::vector<CompiledFilter>;

/// Share of some of the rows, evenly spread, that a filter lets through: what tells a filter that nearly all items pass
/// from a rare one without asking about every item. The snapshot has items.
inline double sampled_share(const Snapshot& snapshot, const SnapshotFilter& filter) {
  constexpr std::size_t kSample = 256;
  if (filter[0].everything()) return 1;
  std::size_t seen = 0;
  std::size_t matching = 0;
  for (std::uint32_t at = 0; at < snapshot.parts().size(); ++at) {
    const std::size_t rows = snapshot.parts()[at].chunk->rows();
    const std::size_t share = 1 + kSample * snapshot.parts()[at].size / snapshot.size();
    for (std::size_t i = 0; i < share; ++i, ++seen) matching += filter[at].matches(i * rows / share);
  }
  return static_cast<double>(matching) / static_cast<double>(seen);
}

/// A filter of which more than this share of a sample passes is asked about single items on the way.
constexpr double kCommonShare = 0.25;

/// Items that may be found: all that are there, or those of a filter.
class RowSet {
 public:
  explicit RowSet(const Snapshot& snapshot) : snapshot_(snapshot) {}
  RowSet(const Snapshot& snapshot, const SnapshotFilter& filter) : snapshot_(snapshot) {
    constexpr std::size_t kChunk = 4096;
    if (filter.empty() || filter[0].everything()) return;
    members_.resize(filter.size());
    for (std::size_t i = 0; i < filter.size(); ++i) {
      const Part& part = snapshot.parts()[i];
      auto& member = members_[i];
      member.resize(part.chunk->rows());
      for (std::size_t first = 0; first < member.size(); first += kChunk)
        filter[i].evaluate(first, std::min(kChunk, member.size() - first), member.data() + first);
      if (part.removed)
        for (std::size_t row = 0; row < member.size(); ++row) member[row] &= part.has(row) ? 1 : 0;
    }
  }

  bool has(Place place) const {
    return members_.empty() ? snapshot_.parts()[place.part].has(place.row) : members_[place.part][place.row] != 0;
  }

  std::size_t size() const {
    if (members_.empty()) return snapshot_.size();
    std::size_t count = 0;
    for (const auto& member : members_) count += static_cast<std::size_t>(std::count(member.begin(), member.end(), 1));
    return count;
  }

  /// All blocks in which an item is, in pieces of at most `longest`.
  std::vector<Span> spans(std::size_t longest) const {
    std::vector<Span> spans;
    for (std::uint32_t part = 0; part < snapshot_.parts().size(); ++part) {
      const std::size_t rows = snapshot_.parts()[part].chunk->rows();
      for (std::size_t block = 0; block * kBlockRows < rows; ++block) {
        if (!members_.empty() && !block_has_any(part, block)) continue;
        if (spans.empty() || spans.back().part != part || spans.back().first + spans.back().count != block ||
            spans.back().count == longest)
          spans.push_back({part, block, 0});
        ++spans.back().count;
      }
    }
    return spans;
  }

 private:
  bool block_has_any(std::uint32_t part, std::size_t block) const {
    const auto& member = members_[part];
    const auto first = member.begin() + static_cast<std::ptrdiff_t>(block * kBlockRows);
    const auto last = member.begin() + static_cast<std::ptrdiff_t>(std::min(member.size(), (block + 1) * kBlockRows));
    return std::find(first, last, 1) != last;
  }

  const Snapshot& snapshot_;
  std::vector<std::vector<std::uint8_t>> members_;  ///< by part; empty when nothing is asked
};

}  // namespace daug::detail
