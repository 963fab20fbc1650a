#include "vit_tower.h"

#include <ATen/ATen.h>

#include <cmath>

namespace daug::detail {

VitTower::VitTower(const ImageEncoderOptions& options) : width_(options.vit.width), depth_(options.vit.depth) {
  const auto& vit = options.vit;
  const auto side = options.image_size / vit.patch_size;
  const auto embeddings = register_module("embeddings", Group());
  input = embeddings->add("patch_embedding", InputConv(options.in_channels, options.extra_channels, width_,
                                                       vit.patch_size, vit.patch_size, 0, vit.patch_bias));
  class_embedding_ = embeddings->register_parameter("class_embedding", at::zeros({width_}));
  positions_ = embeddings->add("position_embedding", torch::nn::Embedding(side * side + 1, width_));
  before_ = register_module("pre_layrnorm", layer_norm(width_, vit.norm_epsilon));  // spelt so in published weights
  transformer_ = register_module("encoder", Transformer(TransformerOptions{width_, depth_, vit.heads, vit.mlp_width,
                                                                           vit.activation, vit.norm_epsilon, false}));
  after_ = register_module("post_layernorm", layer_norm(width_, vit.norm_epsilon));
}

at::Tensor VitTower::embed(const at::Tensor& x) {
  const at::Tensor patches = input(x).flatten(2).transpose(1, 2);
  const at::Tensor first = class_embedding_.expand({x.size(0), 1, width_});
  return before_(at::cat({first, patches}, 1) + positions_->weight);
}

at::Tensor VitTower::pool(const at::Tensor& tokens) { return after_(tokens.select(1, 0)); }

at::Tensor VitTower::forward(const at::Tensor& x) { return pool(transformer_(embed(x))); }

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
