#pragma once
// CLIP's vision transformer.

#include <torch/nn/modules/embedding.h>

#include "image_tower.h"
#include "transformer.h"

namespace daug::detail {

class VitTower : public ImageTower {
 public:
  explicit VitTower(const ImageEncoderOptions& options);

  /// Tokens [B, 1 + patches, width] as the first layer gets them: positions added, normed.
  at::Tensor embed(const at::Tensor& x);
  /// Features of the last layer's tokens.
  at::Tensor pool(const at::Tensor& tokens);
  const Transformer& transformer() const { return transformer_; }

  at::Tensor forward(const at::Tensor& x, const ItemNoise* noise) override;
  std::int64_t features() const override { return width_; }
  double deviation(const std::string& name, const at::Tensor& parameter) const override;

 private:
  std::int64_t width_, depth_;
  double drop_path_;
  VitPooling pooling_;
  at::Tensor class_embedding_;
  torch::nn::Embedding positions_{nullptr};
  torch::nn::LayerNorm before_{nullptr}, after_{nullptr};
  Transformer transformer_{nullptr};
  ProbePool head_{nullptr};
};

}  // namespace daug::detail
