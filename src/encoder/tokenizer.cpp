#include "daug/encoder/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <mutex>
#include <queue>
#include <tuple>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/io/gzip.h"
#include "io/json.h"
#include "unicode.h"
#include "words.h"

namespace daug {
namespace {

using TokenMap = std::unordered_map<std::string, std::int32_t>;
using Merges = std::vector<std::pair<std::string, std::string>>;

constexpr std::uint64_t kMaxVocabularyBytes = std::uint64_t{64} << 20;
constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();

std::uint64_t pair_key(std::int64_t left, std::int64_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
}

// Two tokens with one space between; false for anything else.
bool split_merge(const std::string& line, Merges& merges) {
  const std::size_t space = line.find(' ');
  if (space == 0 || space == std::string::npos || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string::npos)
    return false;
  merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  return true;
}

// "left right" a line. A first line that holds "#version" is a comment.
Merges read_merges(const std::string& path, std::size_t count) {
  std::string text = read_text_file(path, kMaxVocabularyBytes);
  if (is_gzip(text)) text = gunzip(text, kMaxVocabularyBytes, path);
  Merges merges;
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size() && merges.size() < count;) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || (line_number == 1 && line.find("#version") != std::string::npos)) continue;
    if (!split_merge(line, merges))
      fail(ErrorCode::kFormat, "BpeVocabulary", detail::concat(path, ":", line_number),
           "two tokens with a space between", "'" + line + "'");
  }
  return merges;
}

nlohmann::json read_json_object(const std::string& path, const char* expected) {
  auto json = detail::parse_json(read_text_file(path, kMaxVocabularyBytes), "BpeVocabulary", path);
  if (!json.is_object()) fail(ErrorCode::kFormat, "BpeVocabulary", path, expected, json.type_name());
  return json;
}

// An object of token to id; `path` is what errors name.
std::vector<std::string> tokens_of(const nlohmann::json& json, const std::string& path) {
  std::vector<std::string> tokens(json.size());
  std::vector<bool> seen(json.size(), false);
  for (const auto& [token, id] : json.items()) {
    const bool valid =
        id.is_number_unsigned() && id.get<std::uint64_t>() < tokens.size() && !seen[id.get<std::size_t>()];
    if (!valid)
      fail(ErrorCode::kFormat, "BpeVocabulary", path + ": token '" + token + "'",
           detail::concat("an id of its own in [0, ", tokens.size(), ")"), id.dump());
    seen[id.get<std::size_t>()] = true;
    tokens[id.get<std::size_t>()] = token;
  }
  return tokens;
}

// A member that has to be there and of its kind.
const nlohmann::json& member(const nlohmann::json& object, const char* key, bool (nlohmann::json::*is)() const noexcept,
                             const char* kind, const std::string& path) {
  const auto found = object.find(key);
  if (found == object.end() || !((*found).*is)())
    fail(ErrorCode::kFormat, "BpeVocabulary", path + ": " + key, kind,
         found == object.end() ? "none" : found->type_name());
  return *found;
}

}  // namespace

BpeVocabulary BpeVocabulary::from_merges(Merges merges) {
  BpeVocabulary vocabulary;
  for (std::string_view ending : {std::string_view(), text::kEndOfWord})
    for (unsigned char byte : text::byte_order())
      vocabulary.tokens.push_back(text::byte_spellings()[byte] + std::string(ending));
  for (const auto& [left, right] : merges) vocabulary.tokens.push_back(left + right);
  vocabulary.tokens.emplace_back(text::kStartToken);
  vocabulary.tokens.emplace_back(text::kEndToken);
  vocabulary.merges = std::move(merges);
  return vocabulary;
}

BpeVocabulary BpeVocabulary::load(const std::string& folder) {
  const std::string vocab = folder + "/vocab.json", single = folder + "/tokenizer.json";
  if (!std::filesystem::exists(vocab) && std::filesystem::exists(single)) return load_tokenizer_json(single);
  BpeVocabulary vocabulary;
  vocabulary.tokens = tokens_of(read_json_object(vocab, "a JSON object of token to id"), vocab);
  vocabulary.merges = read_merges(folder + "/merges.txt", kAll);
  return vocabulary;
}

BpeVocabulary BpeVocabulary::load_tokenizer_json(const std::string& path) {
  using Json = nlohmann::json;
  const Json json = read_json_object(path, "a JSON object with a model");
  const Json& model = member(json, "model", &Json::is_object, "an object", path);
  const auto require_text = [&](const char* key, const std::string& expected) {
    const auto found = model.find(key);
    const bool absent = found == model.end() || found->is_null();
    if (absent ? !expected.empty() : *found != expected)
      fail(ErrorCode::kUnsupported, "BpeVocabulary", path + ": model." + key, "'" + expected + "'",
           absent ? "none" : found->dump());
  };
  if (model.contains("type")) require_text("type", "BPE");  // old files do not say it
  require_text("end_of_word_suffix", std::string(text::kEndOfWord));
  require_text("continuing_subword_prefix", "");
  Json vocab = member(model, "vocab", &Json::is_object, "an object of token to id", path);
  if (const auto added = json.find("added_tokens"); added != json.end() && !added->is_null()) {
    member(json, "added_tokens", &Json::is_array, "an array", path);
    for (const Json& token : *added) {
      if (!token.is_object())
        fail(ErrorCode::kFormat, "BpeVocabulary", path + ": added_tokens", "objects", token.type_name());
      const auto& content = member(token, "content", &Json::is_string, "a text", path).get_ref<const std::string&>();
      const Json& id = member(token, "id", &Json::is_number_unsigned, "an id", path);
      const auto [entry, is_new] = vocab.emplace(content, id);
      if (!is_new && *entry != id)
        fail(ErrorCode::kFormat, "BpeVocabulary", path + ": token '" + content + "'", "one id", "two");
    }
  }
  BpeVocabulary vocabulary;
  vocabulary.tokens = tokens_of(vocab, path);
  const Json& merges = member(model, "merges", &Json::is_array, "an array", path);
  for (const Json& merge : merges) {
    const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (pair)
      vocabulary.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    else if (!merge.is_string() || !split_merge(merge.get_ref<const std::string&>(), vocabulary.merges))
      fail(ErrorCode::kFormat, "BpeVocabulary", detail::concat(path, ": merge ", vocabulary.merges.size()),
           "two tokens", merge.type_name());
  }
  return vocabulary;
}

BpeVocabulary BpeVocabulary::load_merges(const std::string& path, std::size_t merge_count) {
  Merges merges = read_merges(path, merge_count);
  if (merges.size() < merge_count)
    fail(ErrorCode::kFormat, "BpeVocabulary::load_merges", path, detail::concat("at least ", merge_count, " merges"),
         merges.size());
  return from_merges(std::move(merges));
}

void BpeVocabulary::save(const std::string& folder) const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (std::size_t id = 0; id < tokens.size(); ++id) json[tokens[id]] = id;
  std::string lines = "#version: 0.2\n";
  for (const auto& [left, right] : merges) lines += left + " " + right + "\n";
  write_file_atomically(folder + "/merges.txt", lines);
  write_file_atomically(folder + "/vocab.json", json.dump());
}

void TokenizerOptions::validate() const {
  constexpr const char* kName = "TokenizerOptions";
  require_range(static_cast<int>(cleaning), 0, static_cast<int>(TextCleaning::kOpenClip), kName, "cleaning");
  require_range(static_cast<int>(padding), 0, static_cast<int>(TextPadding::kZero), kName, "padding");
}

Tokenizer::Tokenizer(BpeVocabulary vocabulary, const TokenizerOptions& options)
    : vocabulary_(std::move(vocabulary)), options_(options), byte_ids_(512), caches_(std::make_shared<WordCaches>()) {
  options_.validate();
  TokenMap ids;
  require(vocabulary_.tokens.size() <= std::numeric_limits<std::int32_t>::max(), "Tokenizer", "vocabulary",
          "at most 2^31 - 1 tokens", vocabulary_.tokens.size());
  for (const std::string& token : vocabulary_.tokens)
    if (!ids.emplace(token, static_cast<std::int32_t>(ids.size())).second)
      fail(ErrorCode::kFormat, "Tokenizer", "tokens", "distinct tokens", "'" + token + "' twice");
  const auto id_of = [&](const std::string& token) {
    const auto found = ids.find(token);
    if (found == ids.end()) fail(ErrorCode::kFormat, "Tokenizer", "tokens", "'" + token + "' among them", "none");
    return found->second;
  };
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = id_of(text::byte_spellings()[byte]);
    byte_ids_[256 + byte] = id_of(text::byte_spellings()[byte] + std::string(text::kEndOfWord));
  }
  start_id_ = id_of(std::string(text::kStartToken));
  end_id_ = id_of(std::string(text::kEndToken));
  std::int32_t rank = 0;  // of a pair that is listed twice the last one counts, as upstream
  for (const auto& [left, right] : vocabulary_.merges)
    merges_.insert_or_assign(pair_key(id_of(left), id_of(right)), Merge{rank++, id_of(left + right)});
}

Tokenizer Tokenizer::load(const std::string& folder, const TokenizerOptions& options) {
  return Tokenizer(BpeVocabulary::load(folder), options);
}

// Ids of words met before. Texts repeat their words: looking one up is several times faster than merging it again.
class Tokenizer::WordCache {
 public:
  void append(const Tokenizer& tokenizer, std::string_view word, std::vector<std::int64_t>& ids) {
    constexpr std::size_t kMostWords = 1 << 16, kLongest = 64;  // bounds the memory, whatever the text
    if (const auto found = words_.find(word); found != words_.end()) {
      const auto begin = ids_.begin() + static_cast<std::ptrdiff_t>(found->second.first);
      ids.insert(ids.end(), begin, begin + static_cast<std::ptrdiff_t>(found->second.second));
      return;
    }
    const std::size_t before = ids.size();
    tokenizer.append_word(word, ids);
    if (word.size() > kLongest || words_.size() >= kMostWords) return;
    const std::size_t first = ids_.size();
    ids_.insert(ids_.end(), ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
    words_.emplace(word, std::pair(first, ids_.size() - first));
  }

  std::unique_ptr<WordCache> next;  ///< idle as well

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };

  std::unordered_map<std::string, std::pair<std::size_t, std::size_t>, Hash, std::equal_to<>> words_;  // first, count
  std::vector<std::int64_t> ids_;
};

// The caches that no call uses. Each has one user at a time: calls wait for each other only to take and to return one.
class Tokenizer::WordCaches {
 public:
  std::unique_ptr<WordCache> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_) return std::make_unique<WordCache>();
    std::unique_ptr<WordCache> cache = std::move(idle_);
    idle_ = std::move(cache->next);
    return cache;
  }
  void put_back(std::unique_ptr<WordCache> cache) {
    const std::lock_guard<std::mutex> lock(mutex_);
    cache->next = std::move(idle_);
    idle_ = std::move(cache);
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<WordCache> idle_;
};

// The cache of a call while it lasts.
class Tokenizer::Lease {
 public:
  explicit Lease(WordCaches& caches) : caches_(caches), cache_(caches.take()) {}
  ~Lease() { caches_.put_back(std::move(cache_)); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  WordCache& operator*() { return *cache_; }

 private:
  WordCaches& caches_;
  std::unique_ptr<WordCache> cache_;
};

// The symbols of a word form a doubly linked list; a queue holds the pairs that have a rule. A pair whose ends were
// merged meanwhile is recognised by the ids it was queued with.
void Tokenizer::append_word(std::string_view word, std::vector<std::int64_t>& ids) const {
  struct Symbol {
    std::int32_t id;
    std::size_t previous, next;
  };
  struct Candidate {
    std::int32_t rank;
    std::size_t left;
    std::int32_t left_id, right_id, result;
    bool operator>(const Candidate& other) const { return std::tie(rank, left) > std::tie(other.rank, other.left); }
  };
  constexpr std::int32_t kMerged = -1;
  const std::size_t none = word.size();
  std::vector<Symbol> symbols(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    symbols[i] = {byte_ids_[byte + (i + 1 == word.size() ? 256u : 0u)], i == 0 ? none : i - 1, i + 1};
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::size_t left) {
    if (left == none || symbols[left].next == none) return;
    const std::int32_t left_id = symbols[left].id;
    const std::int32_t right_id = symbols[symbols[left].next].id;
    const auto rule = merges_.find(pair_key(left_id, right_id));
    if (rule != merges_.end()) queue.push({rule->second.rank, left, left_id, right_id, rule->second.result});
  };
  for (std::size_t i = 0; i < word.size(); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    if (left.id != best.left_id || left.next == none || symbols[left.next].id != best.right_id) continue;
    Symbol& right = symbols[left.next];
    left.id = best.result;
    right.id = kMerged;
    left.next = right.next;
    if (left.next != none) symbols[left.next].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (const Symbol& symbol : symbols)
    if (symbol.id != kMerged) ids.push_back(symbol.id);
}

std::vector<std::int64_t> Tokenizer::tokenize(std::string_view text, std::size_t max_ids) const {
  Lease cache(*caches_);
  return tokenize(text, max_ids, *cache);
}

std::vector<std::int64_t> Tokenizer::tokenize(std::string_view text, std::size_t max_ids, WordCache& cache) const {
  std::vector<std::int64_t> ids;
  if (max_ids == 0) return ids;
  text::split_words(text, options_.cleaning, [&](text::PieceKind kind, std::string_view word) {
    if (kind == text::PieceKind::kWord) {
      cache.append(*this, word, ids);
    } else {
      ids.push_back(kind == text::PieceKind::kStart ? start_id_ : end_id_);
    }
    return ids.size() < max_ids;
  });
  if (ids.size() > max_ids) ids.resize(max_ids);
  return ids;
}

TokenIds Tokenizer::encode(std::string_view text, std::int64_t context_length) const {
  Lease cache(*caches_);
  return encode(text, context_length, *cache);
}

TokenIds Tokenizer::encode(std::string_view text, std::int64_t context_length, WordCache& cache) const {
  require(context_length >= 2, "Tokenizer::encode", "context_length", "at least 2 (start and end token)",
          context_length);
  TokenIds out;
  out.ids = tokenize(text, static_cast<std::size_t>(context_length - 2), cache);
  out.ids.insert(out.ids.begin(), start_id_);
  out.ids.push_back(end_id_);
  out.length = static_cast<std::int64_t>(out.ids.size());
  out.ids.resize(static_cast<std::size_t>(context_length), pad_id());
  return out;
}

TokenBatch Tokenizer::encode_batch(const std::vector<std::string>& texts, std::int64_t context_length) const {
  TokenBatch batch;
  batch.context_length = context_length;
  Lease cache(*caches_);
  for (const std::string& text : texts) {
    const TokenIds row = encode(text, context_length, *cache);
    batch.ids.insert(batch.ids.end(), row.ids.begin(), row.ids.end());
    batch.lengths.push_back(row.length);
  }
  return batch;
}

TokenBatch Tokenizer::encode_batch_longest(const std::vector<std::string>& texts,
                                           std::int64_t max_context_length) const {
  const TokenBatch full = encode_batch(texts, max_context_length);
  TokenBatch batch;
  batch.lengths = full.lengths;
  for (std::int64_t length : full.lengths) batch.context_length = std::max(batch.context_length, length);
  for (std::size_t row = 0; row < texts.size(); ++row) {
    const auto begin = full.ids.begin() + static_cast<std::ptrdiff_t>(row) * max_context_length;
    batch.ids.insert(batch.ids.end(), begin, begin + batch.context_length);
  }
  return batch;
}

std::string Tokenizer::decode(const std::vector<std::int64_t>& ids) const {
  static const auto bytes = [] {
    std::unordered_map<char32_t, char> map;
    for (std::size_t byte = 0; byte < 256; ++byte)
      map[text::decode_utf8(text::byte_spellings()[byte])[0]] = static_cast<char>(byte);
    return map;
  }();
  std::string out;
  for (std::int64_t id : ids) {
    require(id >= 0 && id < size(), "Tokenizer::decode", "ids", detail::concat("ids in [0, ", size(), ")"), id);
    if (id == end_id_) break;
    if (id == start_id_) continue;
    std::string_view token = vocabulary_.tokens[static_cast<std::size_t>(id)];
    const std::size_t spelling = token.size() - std::min(token.size(), text::kEndOfWord.size());
    const bool ends_word = token.size() > text::kEndOfWord.size() && token.substr(spelling) == text::kEndOfWord;
    if (ends_word) token = token.substr(0, spelling);
    for (char32_t code : text::decode_utf8(token)) {
      const auto byte = bytes.find(code);
      if (byte != bytes.end()) out += byte->second;
    }
    if (ends_word) out += ' ';
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

std::string Tokenizer::clean(std::string_view text) const {
  return text::encode_utf8(text::clean_text(text, options_.cleaning));
}

std::string Tokenizer::fingerprint() const {
  Fingerprint fingerprint;
  for (const std::string& token : vocabulary_.tokens) fingerprint.add("token", token);
  for (const auto& [left, right] : vocabulary_.merges) fingerprint.add("merge", left + " " + right);
  fingerprint.add("cleaning", static_cast<std::int64_t>(options_.cleaning));
  fingerprint.add("padding", static_cast<std::int64_t>(options_.padding));
  return fingerprint.hex();
}

}  // namespace daug
