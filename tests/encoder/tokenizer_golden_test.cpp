#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "daug/encoder/tokenizer.h"
#include "daug/io/file.h"
#include "support/catch.h"
#include "support/golden.h"
#include "support/scratch.h"

namespace {

using daug::TextCleaning;
using daug::TextPadding;
using daug::Tokenizer;
using Ids = std::vector<std::int64_t>;

Ids slice(const Ids& ids, std::size_t begin, std::size_t end) {
  return Ids(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end));
}

// The reference's untruncated ids of each text: flat[offsets[n] : offsets[n + 1]].
struct Flat {
  Ids ids, offsets;
  Flat(const daug::test::GoldenSet& set, const std::string& prefix)
      : ids(set.at(prefix + "_flat_ids").to_int64()), offsets(set.at(prefix + "_offsets").to_int64()) {}
  Ids of(std::size_t n) const {
    return slice(ids, static_cast<std::size_t>(offsets.at(n)), static_cast<std::size_t>(offsets.at(n + 1)));
  }
};

// A tokenizer.json as Hugging Face tokenizers writes it, of a folder's vocab.json and merges.txt.
std::string tokenizer_json(const std::string& folder) {
  const auto vocab = nlohmann::json::parse(daug::read_text_file(folder + "/vocab.json"));
  nlohmann::json added = nlohmann::json::array(), merges = nlohmann::json::array();
  for (const char* token : {"<|startoftext|>", "<|endoftext|>"})
    added.push_back({{"id", vocab.at(token)}, {"content", token}, {"special", true}, {"normalized", false}});
  std::istringstream lines(daug::read_text_file(folder + "/merges.txt"));
  std::string line;
  std::getline(lines, line);
  REQUIRE(line.rfind("#version", 0) == 0);
  while (std::getline(lines, line))
    if (!line.empty()) merges.push_back(line);
  const nlohmann::json model = {{"type", "BPE"},
                                {"dropout", nullptr},
                                {"end_of_word_suffix", "</w>"},
                                {"vocab", vocab},
                                {"merges", merges},
                                {"continuing_subword_prefix", ""},
                                {"fuse_unk", false},
                                {"unk_token", "<|endoftext|>"}};
  const nlohmann::json file = {{"version", "1.0"}, {"added_tokens", added}, {"model", model}};
  return file.dump();
}

}  // namespace

TEST_CASE("ids equal those of open_clip and transformers", "[golden]") {
  daug::test::for_each_golden("tokenizer_", [](const daug::test::GoldenSet& set) -> double {
    if (!set.settings.contains("texts")) throw daug::test::Skip{"no texts"};
    const auto vocabulary = daug::BpeVocabulary::load(set.folder + "/tokenizer_hf");
    // The file open_clip reads, still packed.
    const auto packed = daug::BpeVocabulary::load_merges(set.folder + "/tokenizer_bpe_simple_vocab_16e6.txt.gz");
    CHECK(packed.tokens == vocabulary.tokens);
    CHECK(packed.merges == vocabulary.merges);
    const auto texts = set.settings.at("texts").get<std::vector<std::string>>();
    const auto& config = set.settings.at("config");

    // The reference method's tokenizer: every text, exactly.
    const Tokenizer transformers(vocabulary, {TextCleaning::kTransformers, TextPadding::kEndOfText});
    CHECK(transformers.start_id() == config.at("sot").get<std::int64_t>());
    CHECK(transformers.end_id() == config.at("eot").get<std::int64_t>());
    CHECK(transformers.size() == config.at("vocab_size").get<std::int64_t>());
    const Flat flat(set, "hf");
    for (std::size_t n = 0; n < texts.size(); ++n) {
      INFO("transformers, text " << n << ": " << texts[n]);
      CHECK(transformers.tokenize(texts[n]) == flat.of(n));
    }

    // The same from one file.
    const daug::test::Scratch scratch;
    const auto single = daug::BpeVocabulary::load_tokenizer_json(
        scratch.put("tokenizer.json", tokenizer_json(set.folder + "/tokenizer_hf")));
    CHECK(single.tokens == vocabulary.tokens);
    CHECK(single.merges == vocabulary.merges);
    const Tokenizer from_single(single, {TextCleaning::kTransformers, TextPadding::kEndOfText});
    for (std::size_t n = 0; n < texts.size(); ++n) {
      INFO("tokenizer.json, text " << n << ": " << texts[n]);
      CHECK(from_single.tokenize(texts[n]) == flat.of(n));
    }

    // open_clip's, whose text ftfy repairs.
    const Tokenizer open_clip(vocabulary, {TextCleaning::kOpenClip, TextPadding::kZero});
    const Flat open_flat(set, "openclip");
    const Ids full_length = set.at("openclip_full_length").to_int64(), differs = set.at("differs").to_int64();
    const auto cleaned = set.settings.at("cleaned_openclip").get<std::vector<std::string>>();
    for (std::size_t n = 0; n < texts.size(); ++n) {
      INFO("open_clip, text " << n << ": " << texts[n]);
      CHECK(open_clip.clean(texts[n]) == cleaned.at(n));
      const Ids ids = open_clip.tokenize(texts[n]);
      CHECK(ids == open_flat.of(n));
      CHECK((ids != transformers.tokenize(texts[n])) == (differs.at(n) == 1));
      CHECK(static_cast<std::int64_t>(open_flat.of(n).size()) + 2 == full_length.at(n));
    }

    for (const auto& context : config.at("context_lengths")) {
      const auto length = context.get<std::int64_t>();
      const auto width = static_cast<std::size_t>(length);
      const Ids open_ids = set.at(fmt::format("openclip_ids_{}", length)).to_int64();
      const Ids ids = set.at(fmt::format("hf_ids_{}", length)).to_int64();
      const Ids mask = set.at(fmt::format("hf_mask_{}", length)).to_int64();
      const auto batch = transformers.encode_batch(texts, length);
      CHECK(batch.ids == ids);
      for (std::size_t n = 0; n < texts.size(); ++n) {
        INFO("text " << n << " at " << length << ": " << texts[n]);
        const Ids row = slice(mask, n * width, (n + 1) * width);
        CHECK(batch.lengths[n] == std::count(row.begin(), row.end(), 1));
        CHECK(open_clip.encode(texts[n], length).ids == slice(open_ids, n * width, (n + 1) * width));
      }
    }

    // The authors pad to the longest of a batch; the JSON says "texts A..B".
    if (set.file.contains("hf_longest_ids")) {
      const std::string meaning = set.settings.at("tensors").at("hf_longest_ids").at("meaning");
      std::size_t first = 0, last = 0;
      REQUIRE(std::sscanf(meaning.c_str(), "texts %zu..%zu", &first, &last) == 2);
      REQUIRE(last < texts.size());
      const auto begin = texts.begin() + static_cast<std::ptrdiff_t>(first);
      const std::vector<std::string> some(begin, begin + static_cast<std::ptrdiff_t>(last - first + 1));
      // No longer than the least of the lengths that the longest row fits into, which may be none.
      const std::int64_t longest = set.at("hf_longest_ids").shape.at(1);
      std::int64_t most = 0;
      for (const auto& context : config.at("context_lengths")) {
        const auto length = context.get<std::int64_t>();
        if (length >= longest && (most == 0 || length < most)) most = length;
      }
      if (most == 0) most = longest;
      const auto batch = transformers.encode_batch_longest(some, most);
      CHECK(batch.ids == set.at("hf_longest_ids").to_int64());
      const Ids mask = set.at("hf_longest_mask").to_int64();
      const std::size_t width = mask.size() / some.size();
      for (std::size_t n = 0; n < some.size(); ++n) {
        const Ids row = slice(mask, n * width, (n + 1) * width);
        CHECK(batch.lengths[n] == std::count(row.begin(), row.end(), 1));
      }
    }
    daug::test::check_outputs_read(set, {{"needs_*", "what the repairs of a text come to is compared"}},
                                   {"openclip_*", "hf_*", "differs", "needs_*"});
    fmt::print("  {}: {} texts of transformers and of open_clip\n", set.name, texts.size());
    return 0;
  });
}
