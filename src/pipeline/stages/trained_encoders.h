#pragma once
// The encoders that a run has trained, and what they say of images.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "daug/encoder/tokenizer.h"
#include "pipeline/run_impl.h"

namespace daug {

/// The trained towers of an arm; refuses other fingerprints.
EncoderPair load_encoders(Run::Impl& run, const Arm& arm);

/// Image embeddings [rows, D] of an arm, maps included.
at::Tensor embed_rows(Run::Impl& run, const Arm& arm, const EncoderPair& pair, const std::vector<std::size_t>& rows);

/// The findings' prompts [F, D], in the wording of the training or averaged over several.
at::Tensor class_embeddings(Run::Impl& run, const EncoderPair& pair, const Tokenizer& tokenizer);

/// Probabilities [n, F] of images [n, 1, S, S] by the encoder that sees images alone: it had no part in making maps.
/// Throws as load_encoders.
std::function<at::Tensor(const at::Tensor& images)> image_only_classifier(Run::Impl& run);

}  // namespace daug
