#pragma once
// Networks small enough for float64 and finite differences, and tensors written out.

#include <ATen/ATen.h>

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"
#include "translator/toys.h"

namespace daug::test {

/// Two levels of 8 and 16 channels, a block each.
inline void make_tiny(UNetOptions& options, std::int64_t image_size = 8) {
  options.image_size = image_size;
  options.model_channels = 8;
  options.num_res_blocks = 1;
  options.channel_mult = {1, 2};
  options.norm_groups = 4;
}

inline DenoiserUNetOptions tiny_options(std::int64_t findings = 3, Execution execution = Execution::kAuto) {
  DenoiserUNetOptions options;
  make_tiny(options);
  options.execution = execution;
  options.attention_downsample = {2};
  options.num_findings = findings;
  return options;
}

inline DenoiserUNet tiny_unet(const DenoiserUNetOptions& options, std::uint64_t seed = 5) {
  DenoiserUNet network(options);
  randomise(*network, seed);
  network->to(at::kDouble);
  return network;
}

inline NoiseAwareClassifierOptions tiny_classifier_options(ClassifierPool pool,
                                                           Execution execution = Execution::kAuto) {
  NoiseAwareClassifierOptions options;
  make_tiny(options);
  options.execution = execution;
  options.attention_downsample = {2};
  options.num_head_channels = 8;
  options.use_scale_shift_norm = true;
  options.resblock_updown = true;
  options.out_channels = 3;
  options.pool = pool;
  return options;
}

inline at::Tensor longs(std::initializer_list<std::int64_t> values) {
  return at::tensor(std::vector<std::int64_t>(values));
}

inline at::Tensor rows(std::initializer_list<std::initializer_list<double>> values) {
  std::vector<at::Tensor> stacked;
  for (const auto& row : values) stacked.push_back(at::tensor(std::vector<double>(row), at::kDouble));
  return at::stack(stacked);
}

}  // namespace daug::test
