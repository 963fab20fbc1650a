#pragma once
// Texts as the encoders take them: the run's tokenizer, tokens, class prompts.

#include <cstdint>
#include <string>
#include <vector>

#include "daug/encoder/tokenizer.h"
#include "pipeline/run_impl.h"

namespace daug {

/// Writes the vocabulary of the encoders' texts into the run folder: that of encoder.clip, or one learnt from the
/// training's texts and prompts.
void make_tokenizer(const Run::Impl& run, const std::vector<std::string>& texts,
                    const std::vector<std::string>& prompts, const std::string& made_by);

/// The tokenizer that the encoders' texts were cut with, once cleaned as encoder.text_cleaning says.
Tokenizer load_tokenizer(const Run::Impl& run);

/// Token ids as tensors.
TextBatch to_text_batch(const Tokenizer& tokenizer, const std::vector<std::string>& texts, std::int64_t context);

/// The training's prompts: [K] positive ones, or [2K] negative and positive alternating for ClassForm::kPaired.
std::vector<std::string> training_prompts(const std::vector<std::string>& findings, ClassForm form);

}  // namespace daug
