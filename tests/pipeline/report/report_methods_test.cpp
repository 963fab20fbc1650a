// The methods section: what it says of a run's settings, and what it cites.

#include "pipeline/report/report_methods.h"

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "daug/pipeline/run_config.h"
#include "support/catch.h"
#include "support/html.h"

using namespace daug;

TEST_CASE("methods name the options of the encoders' training that are in use, and cite what they are from",
          "[pipeline]") {
  struct Option {
    std::function<void(RunConfig::Encoder&)> use;
    std::vector<std::string> words;  ///< of the clause
    std::string source;              ///< arXiv number of what only it cites; empty: nothing
  };
  using Encoder = RunConfig::Encoder;
  const std::vector<Option> options = {
      {[](Encoder& e) { e.loss = "siglip"; }, {"sigmoid loss of every pair"}, "2303.15343"},
      {[](Encoder& e) { e.negatives = "masked"; }, {"same labels are left out"}, ""},
      {[](Encoder& e) { e.negatives = "positives"; }, {"same labels attract"}, "2204.03610"},
      {[](Encoder& e) { e.negatives = "soft", e.label_softness = 0.25; },
       {"how much their labels agree", "softness 0.25"},
       "2210.10163"},
      {[](Encoder& e) { e.study = "accession"; }, {"with the same accession attract"}, "2004.11362"},
      {[](Encoder& e) { e.class_form = "paired"; }, {"a negative and a positive prompt", "[7]"}, ""},
      {[](Encoder& e) { e.learn_temperature = true, e.logit_scale = 1.5, e.min_logit_scale = 0.5; },
       {"ln tau is learnt from 1.5 on, between 0.5 and 4.6", "[6]"},
       ""},
      {[](Encoder& e) { e.class_bias = true; }, {"a bias of each finding is learnt from"}, ""},
      {[](Encoder& e) { e.class_bias_value = -2.5; }, {"every finding has the bias -2.5"}, ""},
      {[](Encoder& e) { e.positive_weights = 12.5; }, {"negatives / positives", "factor of 12.5"}, ""},
      {[](Encoder& e) { e.uncertain = "masked"; }, {"uncertain labels are left out"}, ""},
      {[](Encoder& e) { e.text_cleaning = "open_clip"; }, {"texts are cleaned as open_clip"}, ""},
      {[](Encoder& e) { e.uncertain = "smoothed", e.uncertain_target = 0.625; },
       {"uncertain labels are targets of 0.625"},
       "1911.06475"},
      {[](Encoder& e) { e.chunk = 8; }, {"embedded 8 images at a time"}, "2101.06983"},
  };
  const RunData data{};
  constexpr std::size_t kParagraphs = 4, kOfTheEncoders = 2, kReferencesOfAll = 15;
  const auto has = [](const std::string& whole, const std::string& part) {
    return whole.find(part) != std::string::npos;
  };

  const RunConfig plain;
  const auto without = methods_text(plain, data);
  REQUIRE(without.size() == kParagraphs + kReferencesOfAll);
  CHECK_FALSE(has(without[kOfTheEncoders], "Options in use"));
  for (const Option& option : options) {
    RunConfig config;
    option.use(config.encoder);
    config.validate();
    INFO(option.words[0]);
    const auto text = methods_text(config, data);
    const std::string& paragraph = text[kOfTheEncoders];
    CHECK(daug::test::count(paragraph, "Options in use: ") == 1);
    CHECK(daug::test::count(paragraph, ";") == daug::test::count(without[kOfTheEncoders], ";"));  // one clause
    for (const auto& word : option.words) {
      CHECK(has(paragraph, word));
      if (word[0] != '[') CHECK_FALSE(has(without[kOfTheEncoders], word));
    }
    // Nothing else changes, but for the one source that joins the references, in words and as BibTeX.
    for (const std::size_t other : {0UL, 1UL, 3UL}) CHECK(text[other] == without[other]);
    const bool cites = !option.source.empty();
    CHECK(text.size() == without.size() + (cites ? 1 : 0));
    CHECK(has(paragraph, "[16]") == cites);
    CHECK(daug::test::count(methods_bibtex(config), "@") == kReferencesOfAll + (cites ? 1 : 0));
    if (!cites) continue;
    CHECK(has(text.back(), "[16] "));
    CHECK(has(text.back(), "arXiv " + option.source));
    CHECK(has(methods_bibtex(config), "eprint = {" + option.source + "}"));
    CHECK_FALSE(has(methods_bibtex(plain), option.source));
  }

  RunConfig halves;
  halves.maps.precision = "bfloat16";
  CHECK(has(methods_text(halves, data)[1], "computed maps in bfloat16"));
  CHECK_FALSE(has(without[1], "computed maps in"));
  RunConfig trained_in_halves;
  trained_in_halves.diffusion.precision = "bfloat16", trained_in_halves.encoder.precision = "auto";
  CHECK(has(methods_text(trained_in_halves, data)[0], ", products and convolutions in bfloat16."));
  CHECK(has(methods_text(trained_in_halves, data)[kOfTheEncoders], "in bfloat16 where the processor multiplies it."));
  for (const std::string& paragraph : without) CHECK_FALSE(has(paragraph, "bfloat16"));
  CHECK(has(without[1], "the absolute change, smoothed."));
  RunConfig published;
  published.maps.normalisation = "reference";
  CHECK(has(methods_text(published, data)[1], "the absolute change, each scaled to [0, 1] and smoothed."));

  // Together: numbers follow each other, and each is cited and stands once with the same source in both lists.
  RunConfig config;
  for (const Option& option : options)
    if (option.source != "2204.03610") option.use(config.encoder);  // positives, which exclude soft pairs and studies
  const auto text = methods_text(config, data);
  REQUIRE(text.size() == kParagraphs + kReferencesOfAll + 5);
  const auto bibtex = daug::test::matches(methods_bibtex(config), "eprint = \\{([0-9.]+)\\}");
  for (std::size_t number = 16; number <= 20; ++number) {
    const std::string mark = "[" + std::to_string(number) + "]";
    const std::string& reference = text[kParagraphs + number - 1];
    INFO(reference);
    CHECK(daug::test::count(text[kOfTheEncoders], mark) == 1);
    CHECK(reference.rfind(mark + " ", 0) == 0);
    CHECK(has(reference, "arXiv " + bibtex.at(bibtex.size() - 21 + number)));
  }
}
