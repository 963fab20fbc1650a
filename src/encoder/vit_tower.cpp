#include "vit_tower.h"

#include <ATen/ATen.h>

#include <cmath>

namespace daug::detail {

VitTower::VitTower(const ImageEncoderOptions& options)
    : width_(options.vit.width),
      depth_(options.vit.depth),
      drop_path_(options.drop_path),
      pooling_(options.vit.pooling) {
  const auto& vit = options.vit;
  const auto side = options.image_size / vit.patch_size;
  const auto embeddings = register_module("embeddings", Group());
  input =
      embeddings->add("patch_embedding", InputConv(options, width_, vit.patch_size, vit.patch_size, 0, vit.patch_bias));
  class_embedding_ = embeddings->register_parameter("class_embedding", at::zeros({width_}));
  positions_ = embeddings->add("position_embedding", torch::nn::Embedding(side * side + 1, width_));
  before_ = register_module("pre_layrnorm", layer_norm(width_, vit.norm_epsilon));  // spelt so in published weights
  transformer_ = register_module(
      "encoder", Transformer(TransformerOptions{width_, depth_, vit.heads, vit.mlp_width, vit.activation,
                                                vit.norm_epsilon, false, options.use_checkpoint}));
  after_ = register_module("post_layernorm", layer_norm(width_, vit.norm_epsilon));
  if (pooling_ == VitPooling::kAttention)
    head_ = register_module("head", ProbePool(width_, vit.heads, vit.mlp_width, vit.activation, vit.norm_epsilon));
}

at::Tensor VitTower::embed(const at::Tensor& x) {
  const at::Tensor patches = input(x).flatten(2).transpose(1, 2);
  const at::Tensor first = class_embedding_.expand({x.size(0), 1, width_});
  return before_(at::cat({first, patches}, 1) + positions_->weight);
}

at::Tensor VitTower::pool(const at::Tensor& tokens) {
  if (pooling_ == VitPooling::kClassToken) return after_(tokens.select(1, 0));
  const at::Tensor patches = after_(tokens.narrow(1, 1, tokens.size(1) - 1));
  return head_ ? head_(patches) : patches.mean(1);
}

at::Tensor VitTower::forward(const at::Tensor& x, const ItemNoise* noise) {
  const at::Tensor tokens = embed(x);
  return pool(transformer_(tokens, noise ? path_factors(drop_path_, depth_, 2, *noise, tokens) : at::Tensor()));
}

double VitTower::deviation(const std::string& name, const at::Tensor& parameter) const {
  const double known = transformer_deviation(name, width_, depth_);
  if (known >= 0) return known;
  const bool patch = name.ends_with("patch_embedding.weight");
  return 1 / std::sqrt(static_cast<double>(patch ? parameter[0].numel() : width_));
}

std::shared_ptr<ImageTower> make_vit_tower(const ImageEncoderOptions& options) {
  return std::make_shared<VitTower>(options);
}

}  // namespace daug::detail
