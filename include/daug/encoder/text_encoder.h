#pragma once
/// @file
/// The text tower: CLIP's causal transformer over token ids.

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>

#include "daug/encoder/initial_weights.h"
#include "daug/encoder/text_encoder_options.h"

namespace torch::nn {
class LinearImpl;
}

namespace daug {

class Tokenizer;

namespace detail {
class TextTower;
}

/// Maps token ids to embeddings, ids [B, L] int64 -> [B, D], not normalised.
///
/// The embedding is read at the end-of-text token. Attention is causal, so what follows that token (padding) changes
/// nothing and needs no mask. Weights depend on (options, seed) only, not on LibTorch's global generator; no dropout.
/// Parameters are named and shaped as in Hugging Face's CLIP (`text_model.*`, `text_projection.weight`).
class TextEncoderImpl : public torch::nn::Module {
 public:
  /// Draws weights from `seed`, float32 on the CPU. Throws what TextEncoderOptions::validate throws.
  explicit TextEncoderImpl(const TextEncoderOptions& options, std::uint64_t seed = 0);
  /// The same without drawing them.
  TextEncoderImpl(const TextEncoderOptions& options, LoadedLater);

  /// ids [B, L] int64 with 1 <= L <= context_length; end [B] int64: index of the end-of-text token of each row, in
  /// [0, L), or undefined to find the first one by options().end_of_text_id. They are looked at where they are, so from
  /// the CPU no device is waited for, and go to the tower's device. Throws kMismatch for shapes and dtypes,
  /// kInvalidArgument for ids and ends out of range and for a row without end-of-text.
  at::Tensor forward(const at::Tensor& ids, const at::Tensor& end = {});

  /// The settings it was built with.
  const TextEncoderOptions& options() const noexcept { return options_; }

 private:
  TextEncoderOptions options_;
  std::shared_ptr<detail::TextTower> tower_;
  std::shared_ptr<torch::nn::LinearImpl> projection_;
};
TORCH_MODULE(TextEncoder);

/// Throws kMismatch naming both sizes and the function that asks, unless the text tower's table has a row for each of
/// `tokens` ids, such as a Tokenizer's size().
void require_vocabulary(const TextEncoder& text, std::int64_t tokens, const char* function);

/// The same of a tokenizer's tokens. The tokenizer's end-of-text has to be the tower's, or texts would be read
/// elsewhere than the tower was trained to: else kMismatch naming both ids. The tower's is what its options name; where
/// they say the largest id, it is the last row of the table, so that another tower's vocabulary is told by its size. A
/// table with rows to spare behind its end-of-text needs options that name it.
void require_vocabulary(const TextEncoder& text, const Tokenizer& tokenizer, const char* function);

}  // namespace daug
