// Megabytes of text with bytes that are no text.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/encoder/report_text.h"
#include "daug/encoder/tokenizer.h"
#include "support/catch.h"
#include "support/long_tests.h"

TEST_CASE("megabytes with NUL and bytes that are no UTF-8 have the ids of their lines", "[tokenizer]") {
  // Lines stand apart in either cleaning, so a text of one line again and again has its ids again and again.
  std::string line = "No effusion,\xFF the heart\xC3 is 5.2 cm wide \xED\xA0\x80 & calm \xE2\x82 \xC0\xAF";
  line += " Ã© µ &amp; well";
  line += '\0';
  line += " at the end\n";
  const std::size_t size = daug::test::kSanitized ? 300'000 : 10'000'000;
  for (const auto cleaning : {daug::TextCleaning::kTransformers, daug::TextCleaning::kOpenClip}) {
    INFO("cleaning " << static_cast<int>(cleaning));
    const daug::Tokenizer tokenizer(daug::BpeVocabulary::from_merges({{"t", "h"}, {"th", "e</w>"}}),
                                    {cleaning, daug::TextPadding::kEndOfText});
    const auto once = tokenizer.tokenize(line);
    REQUIRE(once.size() > 40);
    std::string text;
    while (text.size() < size) text += line;
    const auto all = tokenizer.tokenize(text);
    REQUIRE(all.size() == once.size() * (text.size() / line.size()));
    std::size_t others = 0;
    for (std::size_t i = 0; i < all.size(); ++i) others += all[i] != once[i % once.size()] ? 1 : 0;
    CHECK(others == 0);
    const auto row = tokenizer.encode(text, 154);
    CHECK(row.length == 154);
    CHECK(row.ids.back() == tokenizer.end_id());
    CHECK(std::vector<std::int64_t>(row.ids.begin() + 1, row.ids.end() - 1) ==
          std::vector<std::int64_t>(all.begin(), all.begin() + 152));
  }
}

TEST_CASE("megabytes of joined headings are read in time that grows with them", "[text]") {
  const std::size_t size = daug::test::kSanitized ? 300'000 : 10'000'000;
  std::string names;
  while (names.size() < size) names += "FINDING AND ";
  names.pop_back();
  CHECK(daug::split_sections(names).findings == names);
  const auto sections = daug::split_sections("FINDINGS, IMPRESSION & CONCLUSION: Clear.");
  CHECK(sections.findings == "Clear.");
  CHECK(sections.impression == "Clear.");
}
