#include "transformer.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>

#include "daug/core/random.h"
#include "item_noise.h"

namespace daug::detail {

void init_parameters(torch::nn::Module& module, std::uint64_t seed,
                     const std::function<double(const std::string&, const at::Tensor&)>& deviation) {
  const torch::NoGradGuard no_grad;
  for (const auto& item : module.named_parameters()) {
    const std::string& name = item.key();
    at::Tensor parameter = item.value();
    if (name.ends_with("bias") || name.ends_with("extra_weight")) {
      parameter.zero_();
    } else if (parameter.dim() == 1 && (name.ends_with(".weight") || name.ends_with("extra_gate"))) {
      parameter.fill_(1);
    } else {
      RandomStream stream(seed, hash_text(name), "parameter");
      const double scale = deviation(name, parameter);
      const at::Tensor values = at::empty(parameter.sizes(), at::kDouble);
      std::generate_n(values.data_ptr<double>(), values.numel(), [&] { return scale * stream.normal(); });
      parameter.copy_(values);
    }
  }
}

double transformer_deviation(const std::string& name, std::int64_t width, std::int64_t depth) {
  const double attention = 1 / std::sqrt(static_cast<double>(width));
  if (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight") || name.ends_with("v_proj.weight") ||
      name.ends_with("in_proj_weight"))
    return attention;
  // What is added to the residual stream shrinks with the number of additions.
  if (name.ends_with("out_proj.weight") || name.ends_with("fc2.weight"))
    return attention / std::sqrt(2.0 * static_cast<double>(depth));
  if (name.ends_with("fc1.weight")) return attention / std::sqrt(2.0);
  return -1;
}

at::Tensor LinearImpl::forward(const at::Tensor& x) { return at::linear(x, weight, bias); }

torch::nn::Linear projection(std::int64_t features, std::int64_t embed_dim, bool bias) {
  return torch::nn::Linear(torch::nn::LinearOptions(features, embed_dim).bias(bias));
}

torch::nn::LayerNorm layer_norm(std::int64_t width, double epsilon) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({width}).eps(epsilon));
}

namespace {

/// Of queries [B, Q, W], keys and values [B, L, W], to [B, Q, W].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads, bool causal) {
  const auto split = [heads](const at::Tensor& x) { return x.unflatten(2, {heads, -1}).transpose(1, 2); };
  return at::scaled_dot_product_attention(split(q), split(k), split(v), {}, 0.0, causal).transpose(1, 2).flatten(2);
}

at::Tensor activated(const at::Tensor& x, Activation activation) {
  if (activation == Activation::kGelu) return at::gelu(x);
  const at::Tensor scaled = 1.702 * x;
  return at::GradMode::is_enabled() ? x * at::sigmoid(scaled) : scaled.sigmoid_().mul_(x);
}

}  // namespace

AttentionImpl::AttentionImpl(std::int64_t width, std::int64_t heads, bool causal)
    : heads_(heads),
      causal_(causal),
      q_proj_(register_module("q_proj", Linear(width, width))),
      k_proj_(register_module("k_proj", Linear(width, width))),
      v_proj_(register_module("v_proj", Linear(width, width))),
      out_proj_(register_module("out_proj", Linear(width, width))) {}

at::Tensor AttentionImpl::forward(const at::Tensor& query, const at::Tensor& context) {
  return out_proj_(attend(q_proj_(query), k_proj_(context), v_proj_(context), heads_, causal_));
}

AttentionPoolImpl::AttentionPoolImpl(std::int64_t width, std::int64_t positions, std::int64_t heads)
    : positions_(register_module("position_embedding", torch::nn::Embedding(positions + 1, width))),
      attention_(register_module("attention", Attention(width, heads, /*causal=*/false))) {}

at::Tensor AttentionPoolImpl::forward(const at::Tensor& x) {
  const at::Tensor tokens = x.flatten(2).transpose(1, 2);
  const at::Tensor all = at::cat({tokens.mean(1, /*keepdim=*/true), tokens}, 1) + positions_->weight;
  return attention_(all.narrow(1, 0, 1), all).squeeze(1);
}

ProbePoolImpl::ProbePoolImpl(std::int64_t width, std::int64_t heads, std::int64_t mlp_width, Activation activation,
                             double epsilon)
    : heads_(heads), activation_(activation), probe_(register_parameter("probe", at::zeros({1, 1, width}))) {
  const auto attention = register_module("attention", Group()), mlp = register_module("mlp", Group());
  in_weight_ = attention->register_parameter("in_proj_weight", at::zeros({3 * width, width}));
  in_bias_ = attention->register_parameter("in_proj_bias", at::zeros({3 * width}));
  out_ = attention->add("out_proj", Linear(width, width));
  norm_ = register_module("layernorm", layer_norm(width, epsilon));
  fc1_ = mlp->add("fc1", Linear(width, mlp_width));
  fc2_ = mlp->add("fc2", Linear(mlp_width, width));
}

at::Tensor ProbePoolImpl::forward(const at::Tensor& tokens) {
  const auto width = tokens.size(2);
  const auto part = [&](const at::Tensor& x, std::int64_t number) {
    return at::linear(x, in_weight_.narrow(0, number * width, width), in_bias_.narrow(0, number * width, width));
  };
  const at::Tensor probe = part(probe_, 0).expand({tokens.size(0), 1, width});
  const at::Tensor h = out_(attend(probe, part(tokens, 1), part(tokens, 2), heads_, /*causal=*/false)).squeeze(1);
  return h + fc2_(activated(fc1_(norm_(h)), activation_));
}

TransformerLayerImpl::TransformerLayerImpl(const TransformerOptions& options)
    : activation_(options.activation),
      norm1_(register_module("layer_norm1", layer_norm(options.width, options.norm_epsilon))),
      norm2_(register_module("layer_norm2", layer_norm(options.width, options.norm_epsilon))),
      attention_(register_module("self_attn", Attention(options.width, options.heads, options.causal))) {
  const auto mlp = register_module("mlp", Group());
  fc1_ = mlp->add("fc1", Linear(options.width, options.mlp_width));
  fc2_ = mlp->add("fc2", Linear(options.mlp_width, options.width));
}

at::Tensor TransformerLayerImpl::forward(at::Tensor x, const at::Tensor& paths) {
  const at::Tensor normed = norm1_(x);
  x = x + scaled_path(attention_(normed, normed), paths, 0);
  return x + scaled_path(fc2_(activated(fc1_(norm2_(x)), activation_)), paths, 1);
}

TransformerImpl::TransformerImpl(const TransformerOptions& options) : checkpoint_(options.checkpoint) {
  const auto layers = register_module("layers", Group());
  for (std::int64_t i = 0; i < options.depth; ++i)
    layers_.push_back(layers->add(std::to_string(i), TransformerLayer(options)));
}

at::Tensor TransformerImpl::forward(at::Tensor x, const at::Tensor& paths) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const at::Tensor own = paths.defined() ? paths.narrow(0, 2 * static_cast<std::int64_t>(i), 2) : paths;
    x = kept_or_recomputed(checkpoint_, layers_[i], x, own);
  }
  return x;
}

}  // namespace daug::detail
