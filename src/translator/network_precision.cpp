#include "daug/translator/network_precision.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "daug/core/error.h"
#include "half_network.h"

namespace daug {

NetworkPrecision network_precision(const std::string& name) {
  if (name == "float32") return NetworkPrecision::kFull;
  if (name == "bfloat16") return NetworkPrecision::kBFloat16;
  if (name == "float16") return NetworkPrecision::kFloat16;
  fail(ErrorCode::kInvalidArgument, "daug::network_precision", "name", "\"float32\", \"bfloat16\" or \"float16\"",
       name);
}

namespace detail {

std::optional<at::ScalarType> half_type(const torch::nn::Module& network) {
  const at::ScalarType type = network.parameters().front().scalar_type();
  if (type == at::kHalf || type == at::kBFloat16) return type;
  return std::nullopt;
}

void copy_rounded(const torch::nn::Module& network, torch::nn::Module& copy, NetworkPrecision precision) {
  at::NoGradGuard no_grad;
  const at::ScalarType type = precision == NetworkPrecision::kFloat16 ? at::kHalf : at::kBFloat16;
  const auto from = network.parameters(), to = copy.parameters();
  for (std::size_t i = 0; i < to.size(); ++i) {
    at::Tensor rounded = from[i].detach().to(type, /*non_blocking=*/false, /*copy=*/true);
    if (rounded.dim() == 4) rounded = rounded.contiguous(at::MemoryFormat::ChannelsLast);
    to[i].set_data(rounded);
    to[i].set_requires_grad(false);
  }
}

}  // namespace detail

}  // namespace daug
