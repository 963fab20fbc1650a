#include "daug/encoder/bpe_trainer.h"

#include "daug/core/error.h"
#include "support/catch.h"

using daug::BpeTrainer;
using Merges = std::vector<std::pair<std::string, std::string>>;

TEST_CASE("the most frequent pair is merged first", "[bpe]") {
  // The worked example of Sennrich et al. (arXiv 1508.07909, section 3.2), with </w> on the last letter.
  BpeTrainer trainer({520, 1, daug::TextCleaning::kTransformers});
  const auto repeat = [&](const std::string& word, int count) {
    for (int i = 0; i < count; ++i) trainer.add(word);
  };
  repeat("low", 5);
  repeat("lower", 2);
  repeat("newest", 6);
  repeat("widest", 3);
  // e+s 9, es+t</w> 9; then l+o 7; then the pairs of "newest" (6), smallest spelling first.
  CHECK(trainer.train().merges ==
        Merges{{"e", "s"}, {"es", "t</w>"}, {"l", "o"}, {"e", "w"}, {"ew", "est</w>"}, {"n", "ewest</w>"}});
}

TEST_CASE("ties go to the lexicographically smallest pair", "[bpe]") {
  BpeTrainer trainer({516, 1, daug::TextCleaning::kTransformers});
  trainer.add("zy yx ba");
  CHECK(trainer.train().merges == Merges{{"b", "a</w>"}, {"y", "x</w>"}});
}

TEST_CASE("training stops when nothing repeats", "[bpe]") {
  BpeTrainer trainer;
  trainer.add("ab ab cd");
  const auto vocabulary = trainer.train();
  CHECK(vocabulary.merges == Merges{{"a", "b</w>"}});
  CHECK(vocabulary.tokens.size() == 515);
  CHECK(BpeTrainer().train().tokens.size() == 514);
}

TEST_CASE("neither order nor grouping of texts matters", "[bpe]") {
  const std::vector<std::string> texts = {"There is a small pleural effusion.", "No pneumothorax or effusion is seen.",
                                          "The heart is enlarged; small nodule.", "No nodule. The lungs are clear."};
  BpeTrainer forward({560, 1, daug::TextCleaning::kTransformers}),
      backward({560, 1, daug::TextCleaning::kTransformers});
  for (const auto& text : texts) forward.add(text);
  std::string all;
  for (auto text = texts.rbegin(); text != texts.rend(); ++text) all += *text + "\n";
  backward.add(all);
  const auto vocabulary = forward.train();
  CHECK(vocabulary.merges == backward.train().merges);
  CHECK(vocabulary.tokens.size() == 560);
  const daug::Tokenizer tokenizer(vocabulary);  // checks that tokens are distinct and merges lead to tokens
  CHECK(tokenizer.tokenize("effusion").size() < 4);
}

TEST_CASE("a repeated symbol is counted and merged without overlap", "[bpe]") {
  BpeTrainer trainer({515, 1, daug::TextCleaning::kTransformers});
  trainer.add("aaaaa bc bc");
  CHECK(trainer.train().merges == Merges{{"a", "a"}});
  daug::BpeTrainerOptions all{1024, 1, daug::TextCleaning::kTransformers};
  BpeTrainer whole(all);
  whole.add("aaaaaaaa");
  const daug::Tokenizer tokenizer(whole.train());
  CHECK(tokenizer.tokenize("aaaaaaaa").size() == 1);
}

TEST_CASE("options out of range are refused", "[bpe]") {
  REQUIRE_THROWS_AS(BpeTrainer({513, 2, daug::TextCleaning::kTransformers}), daug::Error);
  REQUIRE_THROWS_AS(BpeTrainer({514, 0, daug::TextCleaning::kTransformers}), daug::Error);
  REQUIRE_THROWS_AS(BpeTrainer({514, 2, static_cast<daug::TextCleaning>(2)}), daug::Error);
}
