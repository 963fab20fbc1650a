#pragma once
/// @file
/// Learns a small byte-pair vocabulary from a cohort's own reports.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "daug/encoder/tokenizer.h"

namespace daug {

/// Settings of BpeTrainer.
struct BpeTrainerOptions {
  std::int64_t vocabulary_size = 1024;  ///< most tokens to make, [514, 1048576]; 514 are bytes and special tokens
  std::int64_t min_count = 2;           ///< fewest occurrences of a pair worth a merge, >= 1
  TextCleaning cleaning = TextCleaning::kTransformers;  ///< the tokenizer's cleaning must be the same

  /// Throws kInvalidArgument naming the option.
  void validate() const;
};

/// Byte-pair encoding (Sennrich et al., arXiv 1508.07909): the most frequent adjacent pair of tokens inside words
/// becomes a token, again and again.
///
/// Deterministic: of equally frequent pairs the lexicographically smallest (left, then right spelling, by bytes) comes
/// first, and neither the order of texts nor their number per call matters.
class BpeTrainer {
 public:
  /// Throws what BpeTrainerOptions::validate throws.
  explicit BpeTrainer(const BpeTrainerOptions& options = {});

  /// Counts the words of a text.
  void add(std::string_view text);

  /// The vocabulary of everything added so far. Smaller than `vocabulary_size` when no pair occurs `min_count` times
  /// any more. Time: merges x distinct pairs.
  BpeVocabulary train() const;

 private:
  BpeTrainerOptions options_;
  std::map<std::string, std::int64_t> word_counts_;
};

}  // namespace daug
