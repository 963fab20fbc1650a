#pragma once
/// @file
/// When an item is relevant to a query, both being sets of findings, and how much.

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/view.h"

namespace daug {

/// When a retrieved item is relevant to a query with several labels. A and B are their sets of positive findings.
enum class Relevance {
  kSameFinding,  ///< one column per finding f, over the queries positive for f: `f in B`
  kAnyFinding,   ///< one column, over the queries positive for anything: `A n B` is not empty
  kJaccard,      ///< one column, over the queries positive for anything: gain `|A n B| / |A u B|` in [0, 1]; relevant
                 ///< from RetrievalOptions::jaccard_from on
  kExactSet,     ///< one column, over all queries: `A = B`, so that normal finds normal
};

/// The rows of a label matrix as sets, 64 findings to a word.
class LabelSets {
 public:
  /// `labels` [N, K]. Throws kInvalidArgument, under `argument`, for a label other than 0 and 1.
  LabelSets(const char* function, const char* argument, const MatrixView<std::uint8_t>& labels)
      : rows_(labels.rows()), findings_(labels.columns()), words_((labels.columns() + 63) / 64) {
    bits_.assign(rows_ * words_, 0);
    for (std::size_t row = 0; row < rows_; ++row)
      for (std::size_t f = 0; f < findings_; ++f) {
        require(labels(row, f) <= 1, function, argument, "0 or 1", static_cast<int>(labels(row, f)));
        bits_[row * words_ + f / 64] |= static_cast<std::uint64_t>(labels(row, f)) << (f % 64);
      }
  }

  /// Number of sets.
  std::size_t rows() const { return rows_; }
  /// Number of findings a set may hold.
  std::size_t findings() const { return findings_; }
  /// The words of a set. Unchecked, row < rows().
  ArrayView<std::uint64_t> set(std::size_t row) const { return {bits_.data() + row * words_, words_}; }
  /// Whether a set holds a finding. Unchecked.
  bool holds(std::size_t row, std::size_t finding) const {
    return bits_[row * words_ + finding / 64] >> (finding % 64) & 1;
  }

 private:
  std::size_t rows_, findings_, words_;
  std::vector<std::uint64_t> bits_;  ///< [rows, words]
};

/// How many findings two sets of `LabelSets`, with equally many words, have in common.
inline std::size_t common_findings(ArrayView<std::uint64_t> a, ArrayView<std::uint64_t> b) {
  std::size_t count = 0;
  for (std::size_t w = 0; w < a.size(); ++w) count += std::bitset<64>(a[w] & b[w]).count();
  return count;
}

/// The gain of two sets with `both` findings in common and `either` in their union: `[both = either]` under kExactSet,
/// the Jaccard index `both / either` under kJaccard (0 for two empty sets), else `[both > 0]`. Relevance::kSameFinding
/// has a gain for each finding, not one for a pair: for it this is that of kAnyFinding.
inline double relevance_gain(Relevance relevance, std::size_t both, std::size_t either) {
  if (relevance == Relevance::kExactSet) return both == either ? 1 : 0;
  if (relevance == Relevance::kJaccard)
    return either == 0 ? 0 : static_cast<double>(both) / static_cast<double>(either);
  return both > 0 ? 1 : 0;
}

/// The same of an item with findings `b` for a query with findings `a`.
inline double relevance_gain(Relevance relevance, ArrayView<std::uint64_t> a, ArrayView<std::uint64_t> b) {
  const std::size_t both = common_findings(a, b);
  return relevance_gain(relevance, both, common_findings(a, a) + common_findings(b, b) - both);
}

}  // namespace daug
