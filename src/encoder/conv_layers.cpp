#include "conv_layers.h"

#include <ATen/ATen.h>

#include <cmath>
#include <optional>

#include "backend/fused_ops.h"
#include "backend/recomputed.h"
#include "daug/core/error.h"

namespace daug::detail {

torch::nn::Conv2d conv(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride) {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

double MapTower::deviation(const std::string& name, const at::Tensor& parameter) const {
  if (name.find(".pool.") != std::string::npos) return 1 / std::sqrt(static_cast<double>(parameter.size(1)));
  const double fan_in = static_cast<double>(parameter.numel() / parameter.size(0));
  return std::sqrt(2 / fan_in);  // He et al., arXiv 1502.01852
}

bool norms_in_layout(const c10::Device& device, at::ScalarType type) {
  return device.is_cuda() && at::isReducedFloatingType(type);
}

at::Tensor normed_silu(torch::nn::GroupNorm& norm, const at::Tensor& x) {
  if (!norms_in_layout(x.device(), x.scalar_type())) return at::silu(norm(x));
  return backend::group_norm_silu(x, norm->options.num_groups(), norm->weight, norm->bias, norm->options.eps());
}

BatchNormImpl::BatchNormImpl(std::int64_t channels)
    : weight_(register_parameter("weight", at::ones({channels}))),
      bias_(register_parameter("bias", at::zeros({channels}))),
      running_mean_(register_buffer("running_mean", at::zeros({channels}))),
      running_var_(register_buffer("running_var", at::ones({channels}))),
      num_batches_tracked_(register_buffer("num_batches_tracked", at::zeros({}, at::kLong))) {}

at::Tensor BatchNormImpl::forward(const at::Tensor& x) {
  constexpr double kMomentum = 0.1, kEpsilon = 1e-5;
  const bool training = is_training() && !is_frozen();
  if (training && x.numel() == x.size(1))
    fail(ErrorCode::kInvalidArgument, "ImageEncoder", "x",
         "more than one value a channel for batch statistics (after eval() the running ones are used)", x.sizes());
  // A batch counts once, however often its pass is computed.
  const bool counts = training && !backend::is_repetition();
  if (counts) num_batches_tracked_.add_(1);
  std::optional<at::Tensor> mean, variance;
  if (counts || !training) mean = running_mean_, variance = running_var_;
  return at::batch_norm(x, weight_, bias_, mean, variance, training, kMomentum, kEpsilon,
                        at::globalContext().userEnabledCuDNN());
}

MapPool::MapPool(torch::nn::Module& owner, ImagePooling kind, std::int64_t width, std::int64_t side, std::int64_t heads)
    : kind_(kind), features_(kind == ImagePooling::kFlatten ? width * side * side : width) {
  if (kind == ImagePooling::kAttention)
    attention_ = owner.register_module("pool", AttentionPool(width, side * side, heads));
}

at::Tensor MapPool::operator()(const at::Tensor& map) {
  if (attention_) return attention_(map);
  // contiguous: features are ordered channel, row, column whatever the memory layout.
  return kind_ == ImagePooling::kFlatten ? map.contiguous().flatten(1) : map.mean({2, 3});
}

}  // namespace daug::detail
