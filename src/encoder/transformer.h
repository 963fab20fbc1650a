#pragma once
// The transformer that CLIP's image and text towers share, and the initialisation of all towers. Parameter names are
// those of Hugging Face's CLIP.

#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "backend/recomputed.h"
#include "daug/encoder/activation.h"

namespace daug::detail {

/// Draws every parameter of `module` anew; the result depends on (seed, name, shape) only, not on the order of
/// construction or on a global generator. Norm gains (one-dimensional `*.weight`) and `*extra_gate` become 1, `*bias`
/// and
/// `*extra_weight` 0, all else N(0, deviation(name, parameter)^2).
void init_parameters(torch::nn::Module& module, std::uint64_t seed,
                     const std::function<double(const std::string& name, const at::Tensor& parameter)>& deviation);

/// CLIP's deviations for the parameters of a Transformer (arXiv 2103.00020, released code), or -1 for other names.
double transformer_deviation(const std::string& name, std::int64_t width, std::int64_t depth);

/// torch::nn::Linear, with the product and the bias in one operator as in PyTorch: LibTorch's own module makes two.
class LinearImpl : public torch::nn::LinearImpl {
 public:
  using torch::nn::LinearImpl::LinearImpl;
  at::Tensor forward(const at::Tensor& x);
};
TORCH_MODULE(Linear);

/// The map from a tower's features to the embedding.
torch::nn::Linear projection(std::int64_t features, std::int64_t embed_dim, bool bias = false);

/// Layer norm over the last dimension.
torch::nn::LayerNorm layer_norm(std::int64_t width, double epsilon);

/// `part(x, more...)`, whose inner activations the backward pass computes again when `again` is set.
template <class Part, class... More>
at::Tensor kept_or_recomputed(bool again, Part part, const at::Tensor& x, const More&... more) {
  if (!again || !at::GradMode::is_enabled()) return part(x, more...);
  const auto forward = [part, more...](const at::Tensor& in, const at::Tensor&) mutable { return part(in, more...); };
  return backend::recomputed(forward, x, x.new_empty({0}), part->parameters());
}

/// Multi-head attention of queries [B, Q, W] over a context [B, L, W].
class AttentionImpl : public torch::nn::Module {
 public:
  AttentionImpl(std::int64_t width, std::int64_t heads, bool causal);
  at::Tensor forward(const at::Tensor& query, const at::Tensor& context);

 private:
  std::int64_t heads_;
  bool causal_;
  Linear q_proj_, k_proj_, v_proj_, out_proj_;
};
TORCH_MODULE(Attention);

/// CLIP's attention pooling of a map [B, W, h, w] to [B, W]: the mean token asks all tokens, each with its position.
class AttentionPoolImpl : public torch::nn::Module {
 public:
  AttentionPoolImpl(std::int64_t width, std::int64_t positions, std::int64_t heads);
  at::Tensor forward(const at::Tensor& x);

 private:
  torch::nn::Embedding positions_;
  Attention attention_;
};
TORCH_MODULE(AttentionPool);

/// SigLIP's attention pooling of tokens [B, L, W] to [B, W] (arXiv 2303.15343; names of transformers' SigLIP): a learnt
/// probe asks all tokens, h, then h + mlp(norm(h)).
class ProbePoolImpl : public torch::nn::Module {
 public:
  ProbePoolImpl(std::int64_t width, std::int64_t heads, std::int64_t mlp_width, Activation activation, double epsilon);
  at::Tensor forward(const at::Tensor& tokens);

 private:
  std::int64_t heads_;
  Activation activation_;
  at::Tensor probe_, in_weight_, in_bias_;
  Linear out_{nullptr}, fc1_{nullptr}, fc2_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};
TORCH_MODULE(ProbePool);

struct TransformerOptions {
  std::int64_t width, depth, heads, mlp_width;
  Activation activation;
  double norm_epsilon;
  bool causal, checkpoint;
};

/// x + attention(norm(x)), then x + mlp(norm(x)); each branch times its row of `paths` [2, B], if defined.
class TransformerLayerImpl : public torch::nn::Module {
 public:
  explicit TransformerLayerImpl(const TransformerOptions& options);
  at::Tensor forward(at::Tensor x, const at::Tensor& paths = {});

 private:
  Activation activation_;
  torch::nn::LayerNorm norm1_, norm2_;
  Attention attention_;
  Linear fc1_{nullptr}, fc2_{nullptr};
};
TORCH_MODULE(TransformerLayer);

/// `depth` layers over x [B, L, W], registered as `layers.N`; `paths` [2 depth, B] are those of drop path.
class TransformerImpl : public torch::nn::Module {
 public:
  explicit TransformerImpl(const TransformerOptions& options);
  at::Tensor forward(at::Tensor x, const at::Tensor& paths = {});
  const std::vector<TransformerLayer>& layers() const { return layers_; }

 private:
  bool checkpoint_;
  std::vector<TransformerLayer> layers_;
};
TORCH_MODULE(Transformer);

/// Registers a child that only groups others under a name, as upstream's containers do.
class GroupImpl : public torch::nn::Module {
 public:
  template <class Holder>
  Holder add(const std::string& name, Holder child) {
    return register_module(name, std::move(child));
  }
};
TORCH_MODULE(Group);

}  // namespace daug::detail
