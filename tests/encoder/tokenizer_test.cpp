#include "daug/encoder/tokenizer.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/encoder/bpe_trainer.h"
#include "daug/io/file.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/gzip.h"
#include "support/scratch.h"

namespace {

using daug::BpeVocabulary;
using daug::Tokenizer;
using daug::test::check_refused;
using daug::test::contains_text;
using daug::test::error_text;
using daug::test::mentions;
using daug::test::Scratch;
using Merges = std::vector<std::pair<std::string, std::string>>;

// Ids of CLIP's layout: bytes in printable order, then the same with </w>, then merges.
constexpr std::int64_t kEndOfWord = 256;
std::int64_t byte_id(char c) { return c - '!'; }

Tokenizer bytes_only(daug::TextCleaning cleaning = daug::TextCleaning::kTransformers) {
  return Tokenizer(BpeVocabulary::from_merges({}), {cleaning, daug::TextPadding::kEndOfText});
}

std::vector<std::string> words(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<std::string> out(1);
  for (std::int64_t id : tokenizer.tokenize(text)) {
    const std::string token = tokenizer.vocabulary().tokens[static_cast<std::size_t>(id)];
    const bool last = token.size() > 4 && token.substr(token.size() - 4) == "</w>";
    out.back() += tokenizer.decode({id});
    if (last) out.emplace_back();
  }
  out.pop_back();
  return out;
}

std::string random_bytes(daug::RandomStream& random, std::uint32_t most) {
  std::string text(random.below(most + 1), '\0');
  for (char& c : text) c = static_cast<char>(random.below(256));
  return text;
}

}  // namespace

TEST_CASE("a word is merged by rank, not by position", "[tokenizer]") {
  // "abab": rule 0 joins b+a first although a+b stands to its left.
  const Tokenizer tokenizer(BpeVocabulary::from_merges({{"b", "a"}, {"a", "b"}, {"a", "ba"}, {"aba", "b</w>"}}));
  const std::int64_t first_merge = 512;
  CHECK(tokenizer.size() == 518);
  CHECK(tokenizer.tokenize("abab") == std::vector<std::int64_t>{first_merge + 3});
  CHECK(tokenizer.tokenize("ababa") ==
        std::vector<std::int64_t>{first_merge + 2, byte_id('b'), kEndOfWord + byte_id('a')});
  CHECK(tokenizer.tokenize("ab") == std::vector<std::int64_t>{byte_id('a'), kEndOfWord + byte_id('b')});
}

TEST_CASE("a pair that is listed twice has its last rank", "[tokenizer]") {
  BpeVocabulary vocabulary = BpeVocabulary::from_merges({{"a", "b"}, {"b", "c"}});
  const std::int64_t ab = 512, bc = 513, d_end = kEndOfWord + byte_id('d');
  CHECK(Tokenizer(vocabulary).tokenize("abcd") == std::vector<std::int64_t>{ab, byte_id('c'), d_end});
  vocabulary.merges.emplace_back("a", "b");  // Python's dict(zip(merges, ranks)) keeps this one
  CHECK(Tokenizer(vocabulary).tokenize("abcd") == std::vector<std::int64_t>{byte_id('a'), bc, d_end});
}

TEST_CASE("equal pairs that overlap merge from the left", "[tokenizer]") {
  const Tokenizer tokenizer(BpeVocabulary::from_merges({{"x", "x"}, {"xx", "xx"}}));
  const std::int64_t xx = 512, xxxx = 513, x = byte_id('x'), x_end = kEndOfWord + x;
  CHECK(tokenizer.tokenize("xxxx") == std::vector<std::int64_t>{xx, x, x_end});
  CHECK(tokenizer.tokenize("xxxxxx") == std::vector<std::int64_t>{xxxx, x, x_end});
  CHECK(tokenizer.tokenize("xxxxxxxx") == std::vector<std::int64_t>{xxxx, xx, x, x_end});
}

TEST_CASE("merging agrees with the textbook loop", "[tokenizer]") {
  daug::BpeTrainer trainer({900, 1, daug::TextCleaning::kTransformers});
  for (const char* text : {"abracadabra abracad bra", "aaaa abab baba cdcd dcba", "rabarbar barbara aabbccdd"})
    for (int i = 0; i < 3; ++i) trainer.add(text);
  const Tokenizer tokenizer(trainer.train());
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (const auto& merge : tokenizer.vocabulary().merges) ranks.emplace(merge, ranks.size());
  const auto textbook = [&](const std::string& word) {
    std::vector<std::string> symbols;
    for (char c : word) symbols.emplace_back(1, c);
    symbols.back() += "</w>";
    for (;;) {
      auto best = ranks.end();
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto rule = ranks.find({symbols[i], symbols[i + 1]});
        if (rule != ranks.end() && (best == ranks.end() || rule->second < best->second)) best = rule;
      }
      if (best == ranks.end()) return symbols;
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        if (symbols[i] != best->first.first || symbols[i + 1] != best->first.second) continue;
        symbols[i] += symbols[i + 1];
        symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      }
    }
  };
  daug::RandomStream random(7, 0, "words");
  for (int trial = 0; trial < 300; ++trial) {
    std::string word(1 + random.below(14), 'a');
    for (char& c : word) c = "abcdr"[random.below(5)];
    std::vector<std::string> actual;
    for (std::int64_t id : tokenizer.tokenize(word))
      actual.push_back(tokenizer.vocabulary().tokens[static_cast<std::size_t>(id)]);
    INFO(word);
    REQUIRE(actual == textbook(word));
  }
}

TEST_CASE("text is split as CLIP splits it", "[tokenizer]") {
  using Words = std::vector<std::string>;
  const Tokenizer tokenizer = bytes_only();
  CHECK(words(tokenizer, "The heart, 5.2cm!?") == Words{"the", "heart", ",", "5", ".", "2", "cm", "!?"});
  CHECK(words(tokenizer, "Patient's DON'T we'll it''s") ==
        Words{"patient", "'s", "don", "'t", "we", "'ll", "it", "''", "s"});
  CHECK(words(tokenizer, " tab\tand\r\nline\f\v\u00A0\u3000end ") == Words{"tab", "and", "line", "end"});
  CHECK(words(tokenizer, "ÉPANCHEMENT Лёгкие½") == Words{"épanchement", "лёгкие", "½"});
  CHECK(words(tokenizer, "e\u0301tude") == Words{"étude"});                            // composed
  CHECK(words(tokenizer, "\u110B\u1166\u11A8\u1109\u1173") == Words{"\uC5D1\uC2A4"});  // Hangul by arithmetic
  // Compatibility forms, also beyond 16 bits, which form C takes apart; a code point that is no character.
  CHECK(words(tokenizer, "\uF9D8\U0002F800 \uFB2A") == Words{"\u5F8B\u4E3D", "\u05E9", "\u05C1"});
  CHECK(words(tokenizer, "\U0001D15E") == Words{"\U0001D157\U0001D165"});
  CHECK(words(tokenizer, "a\u0378b") == Words{"a", "\u0378", "b"});
}

TEST_CASE("the two cleanings differ where their originals do", "[tokenizer]") {
  const Tokenizer plain = bytes_only(daug::TextCleaning::kTransformers);
  const Tokenizer repaired = bytes_only(daug::TextCleaning::kOpenClip);
  CHECK(plain.clean("A &amp; B") == "a &amp; b");
  CHECK(repaired.clean("A &amp; B") == "a & b");
  CHECK(repaired.clean("&amp;lt;b&amp;gt; &#xE9;&eacute;&#128; &notanentity; &note &nope") ==
        "<b> éé€ ¬anentity; ¬e &nope");
  CHECK(repaired.clean("don’t “ﬁt” Ａ１") == "don't \"fit\" a1");
  CHECK(repaired.clean(std::string("\uFEFFx\0y\x1B", 7)) == "xy");
  // A special token in the text is the token itself, each in its own spelling.
  CHECK(plain.tokenize("a<|endoftext|>b") ==
        std::vector<std::int64_t>{kEndOfWord + byte_id('a'), plain.end_id(), kEndOfWord + byte_id('b')});
  CHECK(repaired.tokenize("<start_of_text>") == std::vector<std::int64_t>{repaired.start_id()});
  CHECK(repaired.tokenize("<|endoftext|>").size() == 13);
}

TEST_CASE("ftfy's repairs of characters are made", "[tokenizer]") {
  const Tokenizer repaired = bytes_only(daug::TextCleaning::kOpenClip);
  // References escaped several times are unescaped as often, but not from a line with an angle bracket on, where ftfy
  // leaves them to the two rounds of open_clip.
  CHECK(repaired.clean("5 &amp;amp;amp;amp;lt; 6") == "5 < 6");
  CHECK(repaired.clean("<b> 5 &amp;amp;amp;amp; 6") == "<b> 5 &amp;amp; 6");
  CHECK(repaired.clean("‘a’ ‛b‛ “c” ‟d‟ «e»") == "'a' 'b' \"c\" \"d\" «e»");
  CHECK(repaired.clean("ﬀ ﬁ ﬂ ﬃ ﬄ ﬆ Ĳ ŉ") == "ff fi fl ffi ffl st ij 'n");
  CHECK(repaired.clean("ǅ ǆ Ǉ ǌ Ǳ") == "dž dž lj nj dz");
  CHECK(repaired.clean("æ œ ß") == "æ œ ß");  // letters, which ftfy leaves too
  CHECK(repaired.clean("ＣＴ　１２３！") == "ct 123!");
  // Windows-1252 read as Latin-1, which needs no guessing.
  CHECK(repaired.clean("5\xC2\x96"
                       "6 \xC2\x93"
                       "x\xC2\x94 \xC2\x85") == "5–6 \"x\" …");
}

TEST_CASE("a vocabulary that nests without end is refused", "[tokenizer]") {
  const Scratch folder;
  const std::string deep = std::string(300'000, '[') + std::string(300'000, ']');
  for (const std::string& text : {"{\"a\": " + deep + "}", "{\"model\": {\"type\": " + deep + "}}"}) {
    daug::write_file_atomically(folder.path("tokenizer.json"), text);
    daug::write_file_atomically(folder.path("vocab.json"), text);
    daug::write_file_atomically(folder.path("merges.txt"), "");
    for (const bool single : {false, true}) {
      try {
        if (single)
          BpeVocabulary::load_tokenizer_json(folder.path("tokenizer.json"));
        else
          BpeVocabulary::load(folder.folder());
        FAIL_CHECK("accepted");
      } catch (const daug::Error& error) {
        CHECK(error.code() == daug::ErrorCode::kFormat);
        CHECK(std::string(error.what()).find("levels") != std::string::npos);
      }
    }
  }
}

TEST_CASE("tokenizer options that are none are refused by name", "[tokenizer]") {
  using daug::TextCleaning;
  using daug::TextPadding;
  const auto made = [](TextCleaning cleaning, TextPadding padding) {
    return [=] { Tokenizer(BpeVocabulary::from_merges({}), {cleaning, padding}); };
  };
  for (const auto cleaning : {TextCleaning::kTransformers, TextCleaning::kOpenClip})
    for (const auto padding : {TextPadding::kEndOfText, TextPadding::kZero}) CHECK_NOTHROW(made(cleaning, padding)());
  const auto invalid = daug::ErrorCode::kInvalidArgument;
  check_refused(invalid, "TokenizerOptions: cleaning", made(static_cast<TextCleaning>(2), TextPadding::kEndOfText));
  check_refused(invalid, "TokenizerOptions: padding", made(TextCleaning::kTransformers, static_cast<TextPadding>(-1)));
}

TEST_CASE("encode pads, and truncation keeps the end token", "[tokenizer]") {
  const Tokenizer tokenizer = bytes_only();
  const auto [start, end, a] = std::tuple(tokenizer.start_id(), tokenizer.end_id(), kEndOfWord + byte_id('a'));
  const auto empty = tokenizer.encode("", 4);
  CHECK(empty.ids == std::vector<std::int64_t>{start, end, end, end});
  CHECK(empty.length == 2);
  const auto exact = tokenizer.encode("a a", 4);
  CHECK(exact.ids == std::vector<std::int64_t>{start, a, a, end});
  CHECK(exact.length == 4);
  const auto cut = tokenizer.encode("a a a a", 4);
  CHECK(cut.ids == exact.ids);
  CHECK(cut.length == 4);
  CHECK(tokenizer.encode("a", 2).ids == std::vector<std::int64_t>{start, end});

  const Tokenizer zero(BpeVocabulary::from_merges({}), {daug::TextCleaning::kTransformers, daug::TextPadding::kZero});
  CHECK(zero.encode("a", 5).ids == std::vector<std::int64_t>{start, a, end, 0, 0});

  const auto batch = tokenizer.encode_batch({"a", "", "a a a a a a"}, 5);
  CHECK(batch.ids ==
        std::vector<std::int64_t>{start, a, end, end, end, start, end, end, end, end, start, a, a, a, end});
  CHECK(batch.lengths == std::vector<std::int64_t>{3, 2, 5});
  const auto longest = tokenizer.encode_batch_longest({"a", ""}, 5);
  CHECK(longest.context_length == 3);
  CHECK(longest.ids == std::vector<std::int64_t>{start, a, end, start, end, end});

  REQUIRE_THROWS_AS(tokenizer.encode("a", 1), daug::Error);
  REQUIRE_THROWS_AS(tokenizer.decode({tokenizer.size()}), daug::Error);
  REQUIRE_THROWS_AS(tokenizer.decode({-1}), daug::Error);
}

TEST_CASE("decode undoes encode on ASCII, up to case and spacing", "[tokenizer]") {
  daug::BpeTrainer trainer;
  for (int i = 0; i < 3; ++i)
    trainer.add("Heart size is normal. No focal consolidation, pleural effusion, or pneumothorax.");
  const Tokenizer tokenizer(trainer.train());
  CHECK(tokenizer.decode(tokenizer.encode("Heart size is NORMAL", 32).ids) == "heart size is normal");
  CHECK(tokenizer.decode(tokenizer.encode("5.2 cm", 32).ids) == "5 . 2 cm");
  const auto squeezed = [](std::string text) {
    text.erase(std::remove_if(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c); }), text.end());
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
  };
  daug::RandomStream random(3, 0, "ascii");
  for (int trial = 0; trial < 200; ++trial) {
    std::string text(random.below(60), ' ');
    for (char& c : text) c = static_cast<char>(random.below(127) + 1);
    const auto ids = tokenizer.tokenize(text);
    INFO(text);
    REQUIRE(squeezed(tokenizer.decode(ids)) == squeezed(text));
    REQUIRE(tokenizer.tokenize(tokenizer.decode(ids)) == ids);
  }
}

TEST_CASE("any bytes give valid ids, and decoding them is stable", "[tokenizer]") {
  daug::RandomStream random(5, 0, "bytes");
  for (auto cleaning : {daug::TextCleaning::kTransformers, daug::TextCleaning::kOpenClip}) {
    const Tokenizer tokenizer = bytes_only(cleaning);
    for (int trial = 0; trial < 300; ++trial) {
      const std::string text = random_bytes(random, 80);
      const auto encoded = tokenizer.encode(text, 40);
      REQUIRE(encoded.ids.size() == 40);
      REQUIRE(encoded.length >= 2);
      REQUIRE(encoded.length <= 40);
      REQUIRE(encoded.ids[0] == tokenizer.start_id());
      REQUIRE(encoded.ids[static_cast<std::size_t>(encoded.length) - 1] == tokenizer.end_id());
      for (std::int64_t id : encoded.ids) REQUIRE((id >= 0 && id < tokenizer.size()));
      const auto ids = tokenizer.tokenize(text);
      // The repairs of open_clip guess: they may find more to repair once words stand apart and in lower case.
      if (cleaning == daug::TextCleaning::kTransformers) REQUIRE(tokenizer.tokenize(tokenizer.decode(ids)) == ids);
      // Truncation is a prefix.
      const auto kept = std::min<std::size_t>(ids.size(), 38);
      REQUIRE(std::equal(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(kept), encoded.ids.begin() + 1));
    }
  }
  const Tokenizer tokenizer = bytes_only();
  CHECK(tokenizer.clean("a\xFFz") == "a�z");
  CHECK(tokenizer.clean("\xED\xA0\x80") == "���");                  // a surrogate
  CHECK(tokenizer.clean("\xC0\xAF\xF4\x90\x80\x80").size() == 18);  // overlong, and beyond U+10FFFF
  CHECK(tokenizer.tokenize(std::string(3, '\0')).size() == 3);
}

TEST_CASE("plain ASCII, which takes a short cut, has the ids of the long way", "[tokenizer]") {
  // One character beyond ASCII at the end sends a text the long way.
  daug::BpeTrainer trainer({700, 1, daug::TextCleaning::kTransformers});
  for (int i = 0; i < 3; ++i)
    trainer.add("the patient's heart isn't they'll we've I'm you're he'd normal, 5.2 cm!? --");
  const BpeVocabulary vocabulary = trainer.train();
  daug::RandomStream random(11, 0, "plain");
  const std::string alphabet = "'''' sStTrRvVeEmMlLdD 019 .,-!?>;#\t\n\r azAZ`[]{}~";
  for (auto cleaning : {daug::TextCleaning::kTransformers, daug::TextCleaning::kOpenClip}) {
    const Tokenizer tokenizer(vocabulary, {cleaning, daug::TextPadding::kEndOfText});
    const auto last = tokenizer.tokenize("é");
    for (int trial = 0; trial < 400; ++trial) {
      std::string text(random.below(50), ' ');
      for (char& c : text) c = alphabet[random.below(static_cast<std::uint32_t>(alphabet.size()))];
      INFO(text);
      auto expected = tokenizer.tokenize(text);
      expected.insert(expected.end(), last.begin(), last.end());
      REQUIRE(tokenizer.tokenize(text + " é") == expected);
    }
  }
}

TEST_CASE("words that were met before keep their ids", "[tokenizer]") {
  daug::BpeTrainer trainer;
  for (int i = 0; i < 2; ++i) trainer.add("effusion effusions fusion confusion");
  const BpeVocabulary vocabulary = trainer.train();
  const Tokenizer tokenizer(vocabulary);
  std::string text;
  std::vector<std::int64_t> expected;
  const std::string words[] = {"effusion", "fusions", "confusion", std::string(100, 'f'), "é", "Effusion"};
  daug::RandomStream random(2, 0, "words");
  for (int i = 0; i < 200; ++i) {
    const std::string& word = words[random.below(6)];
    text += word + " ";
    for (std::int64_t id : Tokenizer(vocabulary).tokenize(word)) expected.push_back(id);  // which has met none
  }
  CHECK(tokenizer.tokenize(text) == expected);
  const Tokenizer copy = tokenizer;
  CHECK(copy.tokenize(text) == expected);
  std::vector<std::future<bool>> calls;
  for (int thread = 0; thread < 4; ++thread)
    calls.push_back(std::async(std::launch::async, [&, &one = thread % 2 ? copy : tokenizer] {
      for (int i = 0; i < 50; ++i)
        if (one.tokenize(text) != expected) return false;
      return true;
    }));
  for (auto& call : calls) CHECK(call.get());
  const auto batch = tokenizer.encode_batch({text, "effusion", text}, 50);
  for (std::size_t row : {std::size_t{0}, std::size_t{2}}) {
    const auto begin = batch.ids.begin() + static_cast<std::ptrdiff_t>(row * 50);
    CHECK(std::vector<std::int64_t>(begin, begin + 50) == tokenizer.encode(text, 50).ids);
  }
}

TEST_CASE("long texts are linear work", "[tokenizer]") {
  const Tokenizer tokenizer(BpeVocabulary::from_merges({{"x", "x"}, {"xx", "xx"}, {"xxxx", "xxxx"}}));
  const std::size_t size = 10'000'000;
  CHECK(tokenizer.encode(std::string(size, ' ') + "x", 8).length == 3);
  std::string text;
  while (text.size() < size) text += "no effusion. &amp;<|startoftext|>";
  CHECK(tokenizer.encode(text, 154).length == 154);
  CHECK(tokenizer.tokenize(std::string(1 << 20, 'x')).size() == (1 << 20) / 8 - 1 + 4);  // ... xxxx xx x x</w>
  const Tokenizer repaired = bytes_only(daug::TextCleaning::kOpenClip);
  std::string nested = "&";
  while (nested.size() < 1'000'000) nested += "amp;";
  CHECK(repaired.encode(nested, 16).length == 16);
}

TEST_CASE("vocabularies survive the disk", "[tokenizer]") {
  const Scratch scratch;
  daug::BpeTrainer trainer;
  for (int i = 0; i < 2; ++i) trainer.add("café \"quoted\\\" effusion effusion 🫁");
  const BpeVocabulary vocabulary = trainer.train();
  vocabulary.save(scratch.folder());
  const BpeVocabulary loaded = BpeVocabulary::load(scratch.folder());
  CHECK(loaded.tokens == vocabulary.tokens);
  CHECK(loaded.merges == vocabulary.merges);
  CHECK(Tokenizer(loaded).fingerprint() == Tokenizer(vocabulary).fingerprint());
  CHECK(Tokenizer(loaded).fingerprint() != bytes_only().fingerprint());

  daug::write_file_atomically(scratch.path("simple.txt"), "\"name#version: 0.2\ni n\nt h\na n\n");
  CHECK(BpeVocabulary::load_merges(scratch.path("simple.txt"), 2).merges == Merges{{"i", "n"}, {"t", "h"}});
  REQUIRE_THROWS_AS(BpeVocabulary::load_merges(scratch.path("simple.txt"), 4), daug::Error);
}

TEST_CASE("tokenizer.json gives the vocabulary of vocab.json and merges.txt", "[tokenizer]") {
  const Scratch scratch;
  daug::BpeTrainer trainer;
  for (int i = 0; i < 2; ++i) trainer.add("café \"quoted\\\" effusion effusion");
  const BpeVocabulary vocabulary = trainer.train();
  // The special tokens stand among the added ones alone, as in files that were converted.
  nlohmann::json vocab = nlohmann::json::object(), added = nlohmann::json::array();
  for (std::size_t id = 0; id + 2 < vocabulary.tokens.size(); ++id) vocab[vocabulary.tokens[id]] = id;
  for (std::size_t id = vocabulary.tokens.size() - 2; id < vocabulary.tokens.size(); ++id)
    added.push_back({{"id", id}, {"content", vocabulary.tokens[id]}, {"special", true}});
  nlohmann::json model = {
      {"type", "BPE"}, {"end_of_word_suffix", "</w>"}, {"continuing_subword_prefix", ""}, {"vocab", vocab}};
  const auto write = [&] {
    const nlohmann::json file = {{"version", "1.0"}, {"added_tokens", added}, {"model", model}};
    daug::write_file_atomically(scratch.path("tokenizer.json"), file.dump());
  };
  for (const bool pairs : {false, true}) {
    model["merges"] = nlohmann::json::array();
    for (const auto& [left, right] : vocabulary.merges)
      model["merges"].push_back(pairs ? nlohmann::json::array({left, right}) : nlohmann::json(left + " " + right));
    write();
    const BpeVocabulary loaded = BpeVocabulary::load(scratch.folder());
    CHECK(loaded.tokens == vocabulary.tokens);
    CHECK(loaded.merges == vocabulary.merges);
    CHECK(Tokenizer(loaded).fingerprint() == Tokenizer(vocabulary).fingerprint());
  }
  const auto refused = [&](const char* named, daug::ErrorCode code, const std::function<void()>& spoil) {
    const nlohmann::json model_before = model, added_before = added;
    spoil();
    write();
    model = model_before;
    added = added_before;
    CHECK_THAT(error_text(code, [&] { BpeVocabulary::load(scratch.folder()); }), contains_text(named));
  };
  using daug::ErrorCode;
  refused("model", ErrorCode::kFormat, [&] { model = 3; });
  refused("model.type", ErrorCode::kUnsupported, [&] { model["type"] = "WordPiece"; });
  refused("end_of_word_suffix", ErrorCode::kUnsupported, [&] { model.erase("end_of_word_suffix"); });
  refused("continuing_subword_prefix", ErrorCode::kUnsupported, [&] { model["continuing_subword_prefix"] = "##"; });
  refused("vocab", ErrorCode::kFormat, [&] { model.erase("vocab"); });
  refused("merges", ErrorCode::kFormat, [&] { model["merges"] = 1; });
  refused("merge 1", ErrorCode::kFormat, [&] { model["merges"][1] = nlohmann::json::array({"a", "b", "c"}); });
  refused("merge 0", ErrorCode::kFormat, [&] { model["merges"][0] = "ab"; });
  refused("added_tokens", ErrorCode::kFormat, [&] { added = "x"; });
  refused("added_tokens", ErrorCode::kFormat, [&] { added[0] = "x"; });
  refused("content", ErrorCode::kFormat, [&] { added[0].erase("content"); });
  refused("id", ErrorCode::kFormat, [&] { added[0]["id"] = -1; });
  refused("an id of its own", ErrorCode::kFormat, [&] { added[0]["id"] = 3; });
  refused("token 'a'", ErrorCode::kFormat, [&] { added.push_back({{"id", 3}, {"content", "a"}}); });
}

TEST_CASE("the published merges are read packed and unpacked", "[tokenizer]") {
  const Scratch scratch;
  const std::string text = "\"bpe_simple_vocab_16e6.txt#version: 0.2\ni n\nt h\na n\n";
  const std::string packed = daug::test::gzip(text);
  daug::write_file_atomically(scratch.path("simple.txt"), text);
  daug::write_file_atomically(scratch.path("simple.txt.gz"), packed);
  for (const std::size_t count : {1U, 3U})
    CHECK(BpeVocabulary::load_merges(scratch.path("simple.txt.gz"), count).merges ==
          BpeVocabulary::load_merges(scratch.path("simple.txt"), count).merges);
  daug::write_file_atomically(scratch.path("simple.txt.gz"), packed.substr(0, packed.size() - 9));
  CHECK_THROWS_WITH(BpeVocabulary::load_merges(scratch.path("simple.txt.gz"), 1), contains_text("simple.txt.gz"));
  daug::write_file_atomically(scratch.path("bomb.gz"), daug::test::gzip(std::string(70 << 20, ' ')));
  CHECK_THROWS_WITH(BpeVocabulary::load_merges(scratch.path("bomb.gz"), 1), contains_text("bomb.gz"));
}

TEST_CASE("damaged vocabularies are refused", "[tokenizer]") {
  const Scratch scratch;
  const std::string merges = scratch.path("merges.txt"), vocab = scratch.path("vocab.json");
  const auto rejects = [&](const std::string& json, const std::string& lines, const std::string& named) {
    daug::write_file_atomically(vocab, json);
    daug::write_file_atomically(merges, lines);
    return mentions(error_text(daug::ErrorCode::kFormat, [&] { Tokenizer::load(scratch.folder()); }), named);
  };
  REQUIRE_THROWS_AS(Tokenizer::load(scratch.folder()), daug::Error);
  CHECK(rejects("[1", "", vocab));
  CHECK(rejects("[1]", "", vocab));
  CHECK(rejects(R"({"a": 0, "b": 0})", "", "token 'b'"));
  CHECK(rejects(R"({"a": 0, "b": 2})", "", "token 'b'"));
  CHECK(rejects(R"({"a": -1})", "", "token 'a'"));
  CHECK(rejects(R"({"a": "0"})", "", "token 'a'"));
  CHECK(rejects(R"({"a": 0})", "", "'Ā' among them"));  // the spelling of byte 0
  BpeVocabulary::from_merges({}).save(scratch.folder());
  const std::string whole = daug::read_text_file(vocab);
  CHECK(rejects(whole, "#version: 0.2\na b\n", "'ab'"));
  CHECK(rejects(whole, "a b c\n", merges + ":1"));
  CHECK(rejects(whole, "\na\n", merges + ":2"));
  BpeVocabulary twice = BpeVocabulary::from_merges({{"a", "b"}});
  twice.tokens.push_back("ab");
  REQUIRE_THROWS_AS(Tokenizer(twice), daug::Error);
}
