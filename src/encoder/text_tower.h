#pragma once
// CLIP's text transformer.

#include <torch/nn/modules/embedding.h>

#include "daug/encoder/text_encoder.h"
#include "transformer.h"

namespace daug::detail {

/// From ids [B, L] and positions of end-of-text [B] to features [B, width].
class TextTower : public torch::nn::Module {
 public:
  explicit TextTower(const TextEncoderOptions& options);

  /// Tokens [B, L, width] as the first layer gets them: positions added.
  at::Tensor embed(const at::Tensor& ids);
  /// The norm behind the last layer.
  at::Tensor norm(const at::Tensor& tokens) { return norm_(tokens); }
  const Transformer& transformer() const { return transformer_; }

  at::Tensor forward(const at::Tensor& ids, const at::Tensor& end);

 private:
  Transformer transformer_;
  torch::nn::LayerNorm norm_;
  torch::nn::Embedding tokens_{nullptr}, positions_{nullptr};
};

}  // namespace daug::detail
