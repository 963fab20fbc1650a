#include "daug/encoder/bpe_trainer.h"

#include <cstddef>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "words.h"

namespace daug {
namespace {

constexpr std::int64_t kFixedTokens = 514;  // 2 x 256 bytes, start, end

struct Word {
  std::vector<std::int32_t> symbols;
  std::int64_t count;
};

using Pair = std::pair<std::int32_t, std::int32_t>;

}  // namespace

void BpeTrainerOptions::validate() const {
  require_range(vocabulary_size, kFixedTokens, std::int64_t{1} << 20, "BpeTrainerOptions", "vocabulary_size");
  require(min_count >= 1, "BpeTrainerOptions", "min_count", "at least 1", min_count);
  require_range(static_cast<int>(cleaning), 0, static_cast<int>(TextCleaning::kOpenClip), "BpeTrainerOptions",
                "cleaning");
}

BpeTrainer::BpeTrainer(const BpeTrainerOptions& options) : options_(options) { options_.validate(); }

void BpeTrainer::add(std::string_view text) {
  text::split_words(text, options_.cleaning, [&](text::PieceKind kind, std::string_view word) {
    if (kind == text::PieceKind::kWord) ++word_counts_[std::string(word)];
    return true;
  });
}

BpeVocabulary BpeTrainer::train() const {
  std::vector<std::string> spellings;  // of each symbol
  for (std::string_view ending : {std::string_view(), text::kEndOfWord})
    for (const std::string& byte : text::byte_spellings()) spellings.push_back(byte + std::string(ending));
  std::set<std::string> tokens(spellings.begin(), spellings.end());

  std::vector<Word> words;
  std::map<Pair, std::int64_t> counts;
  std::map<Pair, std::set<std::size_t>> where;  // words that hold, or once held, a pair
  const auto count_pairs = [&](std::size_t index, std::int64_t sign) {
    const Word& word = words[index];
    for (std::size_t i = 0; i + 1 < word.symbols.size(); ++i) {
      const Pair pair{word.symbols[i], word.symbols[i + 1]};
      counts[pair] += sign * word.count;
      if (sign > 0) where[pair].insert(index);
    }
  };
  for (const auto& [text, count] : word_counts_) {
    Word word{{}, count};
    for (char byte : text) word.symbols.push_back(static_cast<unsigned char>(byte));
    word.symbols.back() += 256;
    words.push_back(std::move(word));
    count_pairs(words.size() - 1, 1);
  }

  std::vector<std::pair<std::string, std::string>> merges;
  while (static_cast<std::int64_t>(merges.size()) < options_.vocabulary_size - kFixedTokens) {
    const auto spelled = [&](const Pair& pair) { return std::tie(spellings[pair.first], spellings[pair.second]); };
    const Pair* best = nullptr;
    std::int64_t best_count = options_.min_count - 1;
    for (const auto& [pair, count] : counts) {
      if (count < best_count || (count == best_count && (!best || spelled(pair) >= spelled(*best)))) continue;
      // Two ways to spell one token would give it two ids; the first way keeps it.
      if (tokens.count(spellings[pair.first] + spellings[pair.second])) continue;
      best = &pair;
      best_count = count;
    }
    if (!best) break;
    const Pair merged = *best;
    const auto symbol = static_cast<std::int32_t>(spellings.size());
    merges.emplace_back(spellings[merged.first], spellings[merged.second]);
    spellings.push_back(merges.back().first + merges.back().second);
    tokens.insert(spellings.back());
    for (std::size_t index : std::set<std::size_t>(where[merged])) {
      count_pairs(index, -1);
      std::vector<std::int32_t>& symbols = words[index].symbols;
      std::size_t kept = 0;
      for (std::size_t i = 0; i < symbols.size(); ++i) {
        const bool joins = i + 1 < symbols.size() && Pair{symbols[i], symbols[i + 1]} == merged;
        symbols[kept++] = joins ? symbol : symbols[i];
        i += joins;
      }
      symbols.resize(kept);
      count_pairs(index, 1);
    }
    where.erase(merged);
    counts.erase(merged);
  }
  return BpeVocabulary::from_merges(std::move(merges));
}

}  // namespace daug
