#include "encoder_texts.h"

#include <ATen/ATen.h>

#include <filesystem>

#include "daug/encoder/bpe_trainer.h"
#include "daug/encoder/prompts.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"

namespace daug {

namespace {
TextCleaning text_cleaning(const RunConfig& config) {
  return config.encoder.text_cleaning == "open_clip" ? TextCleaning::kOpenClip : TextCleaning::kTransformers;
}
}  // namespace

void make_tokenizer(const Run::Impl& run, const std::vector<std::string>& texts,
                    const std::vector<std::string>& prompts, const std::string& made_by) {
  std::filesystem::create_directories(run.path("tokenizer"));
  if (run.config.encoder.clip.empty()) {
    BpeTrainerOptions bpe;
    bpe.vocabulary_size = run.config.encoder.vocabulary;
    bpe.cleaning = text_cleaning(run.config);
    BpeTrainer trainer(bpe);
    for (const auto& text : texts) trainer.add(text);
    for (const auto& prompt : prompts) trainer.add(prompt);
    trainer.train().save(run.path("tokenizer"));
  } else {
    BpeVocabulary::load(run.config.encoder.clip).save(run.path("tokenizer"));
  }
  write_file_atomically(run.path("tokenizer/") + kMadeBy, made_by);
}

std::string Run::Impl::tokenizer_fingerprint() const {
  Fingerprint fingerprint;
  for (const char* name : {"vocab.json", "merges.txt"})
    fingerprint.add(name, fingerprint_file(path(std::string("tokenizer/") + name)));
  return fingerprint.hex();
}

Tokenizer load_tokenizer(const Run::Impl& run) {
  TokenizerOptions options;
  options.cleaning = text_cleaning(run.config);
  return Tokenizer::load(run.path("tokenizer"), options);
}

TextBatch to_text_batch(const Tokenizer& tokenizer, const std::vector<std::string>& texts, std::int64_t context) {
  const TokenBatch batch = tokenizer.encode_batch_longest(texts, context);
  const auto count = static_cast<std::int64_t>(texts.size());
  const std::int64_t length = count > 0 ? static_cast<std::int64_t>(batch.ids.size()) / count : 0;
  TextBatch result;
  result.ids = at::tensor(batch.ids, at::kLong).view({count, length});
  result.end = at::tensor(batch.lengths, at::kLong) - 1;
  return result;
}

std::vector<std::string> training_prompts(const std::vector<std::string>& findings, ClassForm form) {
  const ClassPrompts prompts = class_prompts(findings);
  return form == ClassForm::kPaired ? prompts.paired() : prompts.positive;
}

}  // namespace daug
