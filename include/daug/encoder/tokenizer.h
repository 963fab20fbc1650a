#pragma once
/// @file
/// Byte-level byte-pair tokenizer in the manner of CLIP (Radford et al., arXiv 2103.00020; Sennrich et al.,
/// 1508.07909).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace daug {

/// Tokens and merge rules in CLIP's spelling: each byte is one printable character (a space is `Ġ`, as in GPT-2's
/// byte-to-unicode table), and `</w>` marks the end of a word.
///
/// Every one of the 256 bytes is a token, once with and once without `</w>`, so no text is ever out of vocabulary.
struct BpeVocabulary {
  std::vector<std::string> tokens;                          ///< token of each id
  std::vector<std::pair<std::string, std::string>> merges;  ///< by decreasing priority

  /// The layout CLIP uses: 256 bytes, 256 bytes with `</w>`, one token a merge, `<|startoftext|>`, `<|endoftext|>`.
  static BpeVocabulary from_merges(std::vector<std::pair<std::string, std::string>> merges);

  /// Reads `vocab.json` (token to id, ids 0..N-1) and `merges.txt` (two tokens a line, an optional `#version` line
  /// first) of a folder: the layout of Hugging Face CLIP checkpoints. A folder without `vocab.json` may have a
  /// `tokenizer.json` instead. Throws kNotFound, kIo, or kFormat naming the file and the line or token.
  static BpeVocabulary load(const std::string& folder);

  /// Reads vocabulary and merges of a `tokenizer.json` (Hugging Face tokenizers), added tokens included; merges as
  /// "a b" or ["a", "b"]. Text cleaning is not read from it: TokenizerOptions says it. Throws as load() does, and
  /// kUnsupported for a model other than byte-pair encoding with the ending `</w>`.
  static BpeVocabulary load_tokenizer_json(const std::string& path);

  /// Reads the merges of OpenAI's `bpe_simple_vocab_16e6.txt`, as it is published (`.txt.gz`) or unpacked.
  /// `merge_count` is how many of them the model uses, CLIP's 48,894 by default; the file holds more. Throws as load()
  /// does.
  static BpeVocabulary load_merges(const std::string& path, std::size_t merge_count = 48894);

  /// Writes `vocab.json` and `merges.txt` into an existing folder, each atomically. Throws kIo.
  void save(const std::string& folder) const;
};

/// How text is cleaned before it is split into words. Both end in lower case.
enum class TextCleaning {
  /// As Hugging Face transformers (the reference method's tokenizer): normalisation form C; no unescaping;
  /// `<|startoftext|>` and `<|endoftext|>` inside a text are the special tokens.
  kTransformers,
  /// As open_clip: what ftfy.fix_text (version 6.3.1) repairs (UTF-8 read in another encoding, "Ã¶"; HTML entities;
  /// curly quotes, ligatures, widths, control characters, terminal escapes; form C), then HTML entities twice;
  /// a capital sigma that ends a word becomes the final one; `<start_of_text>` and `<end_of_text>` are the special
  /// tokens. docs/text.md has examples.
  kOpenClip,
};

/// What fills the ids behind the end of a text.
enum class TextPadding {
  kEndOfText,  ///< the end token, as transformers does for CLIP
  kZero,       ///< id 0, as open_clip does
};

/// Settings of Tokenizer; part of its fingerprint.
struct TokenizerOptions {
  TextCleaning cleaning = TextCleaning::kTransformers;  ///< text cleaning before splitting
  TextPadding padding = TextPadding::kEndOfText;        ///< fill behind the end token

  /// Throws kInvalidArgument naming the option that has none of its values.
  void validate() const;
};

/// One text as ids.
struct TokenIds {
  std::vector<std::int64_t> ids;  ///< context_length ids: start, text, end, padding
  std::int64_t length = 0;        ///< ids before the padding; the end token stands at length - 1
};

/// Several texts as one row-major matrix.
struct TokenBatch {
  std::vector<std::int64_t> ids;      ///< [texts, context_length]
  std::vector<std::int64_t> lengths;  ///< [texts], as TokenIds::length
  std::int64_t context_length = 0;    ///< ids a row
};

/// Text to ids and back.
///
/// Splitting after cleaning: the contractions 's 't 're 've 'm 'll 'd, runs of letters, single digits (any number
/// character), runs of anything else but white space; letters and numbers by Unicode category. Within a word, the
/// adjacent pair of the highest priority is merged until no pair has a rule; O(n log n) in the word's bytes.
///
/// Bytes that are not UTF-8 become U+FFFD; NUL is a character like others (kOpenClip removes control characters).
/// Deterministic; const methods may be called from several threads. A tokenizer and its copies remember the ids of
/// words between calls, at most 2^16 words of up to 64 bytes for each call that was ever under way at the same time.
class Tokenizer {
 public:
  /// Throws kFormat when a byte, a special token, a merge's part or its result is missing among the tokens, or a token
  /// occurs twice, and what TokenizerOptions::validate throws.
  explicit Tokenizer(BpeVocabulary vocabulary, const TokenizerOptions& options = {});

  /// BpeVocabulary::load and a tokenizer on it.
  static Tokenizer load(const std::string& folder, const TokenizerOptions& options = {});

  /// Ids of a text between start and end token, cut or padded to `context_length` (at least 2: kInvalidArgument). A cut
  /// text keeps its first context_length - 1 ids and then the end token. Reads no further into a long text than it
  /// needs, once cleaned.
  TokenIds encode(std::string_view text, std::int64_t context_length) const;

  /// The same for several texts.
  TokenBatch encode_batch(const std::vector<std::string>& texts, std::int64_t context_length) const;

  /// The same, with rows as long as the longest text (at most `max_context_length`): less padding to compute on.
  TokenBatch encode_batch_longest(const std::vector<std::string>& texts, std::int64_t max_context_length) const;

  /// All ids of a text, without start and end token, at most `max_ids` of them.
  std::vector<std::int64_t> tokenize(std::string_view text, std::size_t max_ids = static_cast<std::size_t>(-1)) const;

  /// The cleaned text that ids stand for, one space behind each word, none at the end. Stops at the end token; leaves
  /// the start token out. Throws kInvalidArgument for an id outside [0, size()).
  std::string decode(const std::vector<std::int64_t>& ids) const;

  /// Cleaned, lower-cased text as it is split into words (UTF-8).
  std::string clean(std::string_view text) const;

  std::int64_t size() const { return static_cast<std::int64_t>(vocabulary_.tokens.size()); }  ///< number of ids
  std::int64_t start_id() const { return start_id_; }                                         ///< `<|startoftext|>`
  std::int64_t end_id() const { return end_id_; }                                             ///< `<|endoftext|>`
  /// What fills the ids behind the end token.
  std::int64_t pad_id() const { return options_.padding == TextPadding::kZero ? 0 : end_id_; }
  /// Tokens by id, and merges.
  const BpeVocabulary& vocabulary() const { return vocabulary_; }

  /// 32 hexadecimal digits that change with tokens, merges and options; for derived files.
  std::string fingerprint() const;

 private:
  struct Merge {
    std::int32_t rank;    // position in the merge list
    std::int32_t result;  // id of the joined token
  };

  class WordCache;
  class WordCaches;
  class Lease;

  void append_word(std::string_view word, std::vector<std::int64_t>& ids) const;
  std::vector<std::int64_t> tokenize(std::string_view text, std::size_t max_ids, WordCache& cache) const;
  TokenIds encode(std::string_view text, std::int64_t context_length, WordCache& cache) const;

  BpeVocabulary vocabulary_;
  TokenizerOptions options_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // key: left id, right id
  std::vector<std::int32_t> byte_ids_;               // 256 inside a word, 256 at its end
  std::int64_t start_id_ = 0;
  std::int64_t end_id_ = 0;
  std::shared_ptr<WordCaches> caches_;  // copies share it, as their ids are the same
};

}  // namespace daug
