// Ten thousand reports to ids, on one thread, with CLIP's vocabulary.
//
//     DAUG_VOCABULARY=bpe_simple_vocab_16e6.txt.gz DAUG_PEER_FILES=/tmp/peers bench_tokenizer
//
// Without DAUG_VOCABULARY a vocabulary is trained on the reports themselves. With DAUG_PEER_FILES the reports, a line
// each, and their ids are written for peers/bench_tokenizer_peers.py.

#include <cstdlib>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/encoder/bpe_trainer.h"
#include "daug/encoder/tokenizer.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "support/context.h"
#include "support/peer_files.h"

namespace {

constexpr std::size_t kReports = 10000;

/// Reports of four to eleven sentences with measurements and dates, about 500 bytes each, as varied as templates get.
std::vector<std::string> make_reports() {
  const char* kFindings[] = {
      "pleural effusion",  "consolidation", "pneumothorax",          "cardiomegaly",   "atelectasis",
      "pulmonary edema",   "a nodule",      "interstitial markings", "hyperinflation", "hilar enlargement",
      "mediastinal shift", "rib fractures", "calcification",         "scarring",       "bronchial thickening",
      "an opacity"};
  const char* kPlaces[] = {
      "in the right lower lobe", "at the left base", "in the lingula",          "bilaterally",
      "in the right upper zone", "behind the heart", "along the minor fissure", "at the costophrenic angle"};
  const char* kDegrees[] = {"mild", "moderate", "severe", "stable", "new", "resolving", "small", "patchy", "subtle"};
  std::vector<std::string> reports;
  for (std::size_t i = 0; i < kReports; ++i) {
    daug::RandomStream random(0, i, "reports");
    const auto pick = [&](const auto& words) { return std::string(words[random.below(std::size(words))]); };
    std::string text = random.below(2) ? "FINDINGS: " : "Findings: ";
    for (std::uint32_t sentence = 4 + random.below(8); sentence > 0; --sentence) {
      switch (random.below(4)) {
        case 0:
          text += "There is " + pick(kDegrees) + " " + pick(kFindings) + " " + pick(kPlaces) + ". ";
          break;
        case 1:
          text += "No evidence of " + pick(kFindings) + " or " + pick(kFindings) + "; the patient's lungs are clear. ";
          break;
        case 2:
          text += "Compared with 2019-0" + std::to_string(1 + random.below(9)) + ", the " + pick(kDegrees) + " " +
                  pick(kFindings) + " measures " + std::to_string(random.below(90)) + "." +
                  std::to_string(random.below(10)) + " mm (previously " + std::to_string(random.below(90)) + " mm). ";
          break;
        default:
          text += "IMPRESSION: " + pick(kDegrees) + " " + pick(kFindings) + ", " + pick(kDegrees) + " " +
                  pick(kFindings) + " " + pick(kPlaces) + ". ";
      }
    }
    reports.push_back(text);
  }
  return reports;
}

const std::vector<std::string>& reports() {
  static const auto made = make_reports();
  return made;
}

daug::Tokenizer tokenizer(daug::TextCleaning cleaning) {
  const daug::TokenizerOptions options{cleaning, daug::TextPadding::kZero};
  if (const char* path = std::getenv("DAUG_VOCABULARY"))
    return daug::Tokenizer(daug::BpeVocabulary::load_merges(path), options);
  daug::BpeTrainer trainer;
  for (const auto& text : reports()) trainer.add(text);
  return daug::Tokenizer(trainer.train(), options);
}

/// reports.txt, and reports.io.safetensors: rows of 77 ids, and all ids of all reports one after another.
void write_for_peers() {
  static bool written = false;
  if (written || daug::bench::peer_file("").empty()) return;
  written = true;
  std::string lines;
  for (const auto& text : reports()) lines += text + "\n";
  daug::write_file_atomically(daug::bench::peer_file("reports.txt"), lines);
  const auto used = tokenizer(daug::TextCleaning::kOpenClip);
  std::vector<std::int64_t> all;
  for (const auto& text : reports())
    for (const std::int64_t id : used.tokenize(text)) all.push_back(id);
  daug::SafetensorsFile file;
  file.tensors["ids_77"] =
      daug::Array::from(used.encode_batch(reports(), 77).ids, {static_cast<std::int64_t>(kReports), 77});
  file.tensors["ids"] = daug::Array::from(all, {static_cast<std::int64_t>(all.size())});
  daug::write_safetensors(daug::bench::peer_file("reports.io.safetensors"), file);
}

void count(benchmark::State& state, const std::vector<std::string>& texts) {
  std::int64_t bytes = 0;
  for (const auto& text : texts) bytes += static_cast<std::int64_t>(text.size());
  state.SetBytesProcessed(state.iterations() * bytes);
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(texts.size()));
}

/// What a trainer does: rows of 77 ids, whatever is longer cut.
void encode_77(benchmark::State& state) {
  write_for_peers();
  const auto used = tokenizer(static_cast<daug::TextCleaning>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(used.encode_batch(reports(), 77));
  count(state, reports());
}
BENCHMARK(encode_77)->ArgName("open_clip")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

/// Every id of every report, one text at a time.
void tokenize_each(benchmark::State& state) {
  const auto used = tokenizer(static_cast<daug::TextCleaning>(state.range(0)));
  for (auto _ : state)
    for (const auto& text : reports()) benchmark::DoNotOptimize(used.tokenize(text));
  count(state, reports());
}
BENCHMARK(tokenize_each)->ArgName("open_clip")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

/// The same with a letter beyond ASCII in every report, which takes Unicode's way through cleaning and splitting.
void tokenize_beyond_ascii(benchmark::State& state) {
  const auto used = tokenizer(static_cast<daug::TextCleaning>(state.range(0)));
  std::vector<std::string> texts = reports();
  for (auto& text : texts) text += " 38 °C";
  for (auto _ : state)
    for (const auto& text : texts) benchmark::DoNotOptimize(used.tokenize(text));
  count(state, texts);
}
BENCHMARK(tokenize_beyond_ascii)->ArgName("open_clip")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

/// The same with other bytes for every apostrophe and comma and at the end: what open_clip's cleaning has to repair.
void tokenize_broken(benchmark::State& state, const char* apostrophe, const char* comma, const char* end) {
  const auto used = tokenizer(static_cast<daug::TextCleaning>(state.range(0)));
  std::vector<std::string> texts;
  for (const auto& report : reports()) {
    std::string text;
    for (const char c : report) {
      if (c == '\'') {
        text += apostrophe;
      } else if (c == ',') {
        text += comma;
      } else {
        text += c;
      }
    }
    texts.push_back(text + end);
  }
  for (auto _ : state)
    for (const auto& text : texts) benchmark::DoNotOptimize(used.tokenize(text));
  count(state, texts);
}
void either_cleaning(benchmark::internal::Benchmark* bench) {
  bench->ArgName("open_clip")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(tokenize_broken, typographic, "’", " –", " 38 °C")->Apply(either_cleaning);
BENCHMARK_CAPTURE(tokenize_broken, mojibake, "â€™", " â€“", " 38 Â°C")->Apply(either_cleaning);
// Beside a character that no encoding has, so that it is repaired piece by piece.
BENCHMARK_CAPTURE(tokenize_broken, mojibake_pieces, "â€™", " →", " 38 Â°C")->Apply(either_cleaning);
BENCHMARK_CAPTURE(tokenize_broken, invalid_utf8, "\x92", " \xE2\x80", " 38 \xB0")->Apply(either_cleaning);

}  // namespace

DAUG_BENCHMARK_MAIN()
