#pragma once
/// @file
/// The text tower: CLIP's causal transformer over token ids.

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>

#include "daug/encoder/activation.h"
#include "daug/encoder/initial_weights.h"

namespace torch::nn {
class LinearImpl;
}

namespace daug {

/// Settings of TextEncoder.
struct TextEncoderOptions {
  std::int64_t vocab_size = 512;                   ///< ids are in [0, vocab_size), >= 1
  std::int64_t context_length = 64;                ///< longest sequence in tokens, >= 1
  std::int64_t width = 64;                         ///< size of a token, >= 1
  std::int64_t depth = 2;                          ///< transformer layers, >= 1
  std::int64_t heads = 4;                          ///< attention heads, divides width
  std::int64_t mlp_width = 256;                    ///< hidden size of the MLPs, >= 1; CLIP has 4 width
  Activation activation = Activation::kQuickGelu;  ///< of the MLPs
  std::int64_t embed_dim = 128;                    ///< D, size of the embedding, >= 1
  /// Id of the end-of-text token, in [0, vocab_size); -1: the largest id of each row ends it, as in the first CLIP.
  std::int64_t end_of_text_id = -1;
  double norm_epsilon = 1e-5;  ///< added to the variance in every layer norm, in (0, 1]
  /// The backward pass computes the inner activations of every layer again, for the memory of one layer.
  bool use_checkpoint = false;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

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
  /// [0, L), or undefined to find the first one by options().end_of_text_id. Throws kMismatch for shapes and dtypes,
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

}  // namespace daug
