#pragma once
// The networks whose speed is compared across versions, with what is asked of them.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daug/translator/denoiser_unet.h"
#include "daug/translator/guidance.h"
#include "daug/translator/noise_predictor.h"
#include "support/flops.h"
#include "support/rates.h"

namespace daug::bench {

/// The quickstart's: 32 x 32 pixels.
inline DenoiserUNetOptions tiny_unet(std::int64_t findings) {
  DenoiserUNetOptions options;
  options.image_size = 32;
  options.model_channels = 32;
  options.channel_mult = {1, 2};
  options.num_res_blocks = 1;
  options.patch = 2;
  options.norm_groups = 4;
  options.num_heads = 2;
  options.use_scale_shift_norm = true;
  options.num_findings = findings;
  return options;
}

/// U-64, U-128 and U-256: 64 base channels (U-256: 128), two residual blocks, attention at 16 x 16 and 8 x 8, four
/// heads, learned sigma, 15 classes.
inline DenoiserUNetOptions fixed_unet(std::int64_t size) {
  DenoiserUNetOptions options;
  options.image_size = size;
  options.model_channels = size == 256 ? 128 : 64;
  options.channel_mult = {1, 2, 2, 4};
  if (size == 128) options.channel_mult = {1, 1, 2, 3, 4};
  if (size == 256) options.channel_mult = {1, 1, 2, 2, 4, 4};
  options.attention_downsample = {size / 16, size / 8};
  options.num_heads = 4;
  options.out_channels = 2;
  options.num_classes = 15;
  return options;
}

/// The network of `size` pixels with a condition on findings in place of classes: tiny_unet for 32, else fixed_unet.
inline DenoiserUNetOptions unet_with_findings(std::int64_t size, std::int64_t findings) {
  if (size == 32) return tiny_unet(findings);
  DenoiserUNetOptions options = fixed_unet(size);
  options.num_classes = 0;
  options.num_findings = findings;
  return options;
}

/// The same network from LibTorch's operators in their default layout.
inline DenoiserUNetOptions plain(DenoiserUNetOptions options) {
  options.execution = Execution::kReference;
  return options;
}

/// Draws what a module starts with at zero: last layers, biases and the weights of map channels. Otherwise outputs
/// would be zero, whatever is compared.
inline void fill_zeros(torch::nn::Module& module) {
  at::NoGradGuard no_grad;
  for (at::Tensor& parameter : module.parameters())
    if (!parameter.any().item<bool>()) parameter.normal_(0, 0.02);
}

/// The same weights for the same architecture, none of them zero.
inline DenoiserUNet make_unet(const DenoiserUNetOptions& options) {
  at::manual_seed(0);
  DenoiserUNet network(options);
  fill_zeros(*network);
  return network;
}

/// What a network takes.
struct UNetInputs {
  at::Tensor x, timesteps, condition;

  UNetInputs(const DenoiserUNetOptions& options, std::int64_t batch) {
    at::manual_seed(1);
    x = at::randn({batch, options.in_channels, options.image_size, options.image_size});
    timesteps = at::arange(batch, at::kLong) * 97 + 100;
    condition = options.num_classes > 0 ? at::arange(batch, at::kLong) % options.num_classes
                                        : at::zeros({batch, options.num_findings});
  }
};

/// Multiplications and additions of a forward pass on one image by the definitions of its layers, whichever kernels
/// take fewer. Counted on a device, once a process.
inline double forward_flops(const DenoiserUNetOptions& options, const at::Device& on = at::kCPU) {
  const std::string conditions = std::to_string(options.num_classes) + "/" + std::to_string(options.num_findings);
  return once("flops/" + std::to_string(options.image_size) + "/" + conditions, [&] {
    DenoiserUNet network = make_unet(plain(options));  // of operators, which are seen
    if (!on.is_cpu()) network->to(on);
    const UNetInputs in(options, 1);
    const at::Tensor x = in.x.to(on), condition = in.condition.to(on);
    const c10::InferenceMode inference;
    return count_flops([&] { network->forward(x, in.timesteps, condition); });
  });
}

/// A diffusion model that predicts v.
inline std::shared_ptr<const NoisePredictor> make_predictor(const DenoiserUNetOptions& options,
                                                            const NoiseSchedule& schedule) {
  return make_noise_predictor(make_unet(options), schedule, Prediction::kV);
}

/// K findings named by number.
inline std::vector<std::string> finding_names(std::int64_t count) {
  std::vector<std::string> names;
  for (std::int64_t k = 0; k < count; ++k) names.push_back("finding " + std::to_string(k));
  return names;
}

/// A target a finding.
inline std::vector<Target> away_from_each(const std::vector<std::string>& findings) {
  std::vector<Target> targets;
  for (const auto& finding : findings) targets.push_back(away_from(finding));
  return targets;
}

}  // namespace daug::bench
