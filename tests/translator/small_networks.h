#pragma once
// A denoiser and a guide of three findings with every kind of layer, small enough to walk with, and LibTorch's threads.

#include <ATen/Parallel.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/threads.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/guidance.h"
#include "daug/translator/noise_aware_classifier.h"
#include "daug/translator/noise_predictor.h"
#include "translator/toys.h"

namespace daug::test {

/// What the three columns of small networks' states are called.
inline const std::vector<std::string> kSmallFindings = {"Edema", "Nodule", "Device"};

/// A network for images of 16 pixels (it takes others) whose parameters are all drawn.
inline std::shared_ptr<const NoisePredictor> small_network(const NoiseSchedule& schedule, bool updown,
                                                           at::ScalarType type = at::kFloat) {
  DenoiserUNetOptions options;
  options.image_size = 16, options.model_channels = 16, options.channel_mult = {1, 2}, options.num_res_blocks = 1;
  options.attention_downsample = {2}, options.num_heads = 2, options.norm_groups = 4, options.num_findings = 3;
  options.use_scale_shift_norm = options.resblock_updown = updown, options.patch = updown ? 2 : 1;
  DenoiserUNet network(options);
  randomise(*network, 71, 0.1);
  network->to(type);
  return make_noise_predictor(network, schedule, Prediction::kV);
}

/// Likewise a guide, for images of `side` pixels.
inline std::shared_ptr<const GuidanceClassifier> small_guide(const NoiseSchedule& schedule, at::ScalarType type,
                                                             std::int64_t side = 16) {
  NoiseAwareClassifierOptions options;
  options.image_size = side, options.model_channels = 16, options.channel_mult = {1, 2}, options.num_res_blocks = 1;
  options.attention_downsample = {2}, options.num_head_channels = 16, options.norm_groups = 4, options.out_channels = 3;
  options.use_scale_shift_norm = options.resblock_updown = true;
  NoiseAwareClassifier network(options);
  randomise(*network, 72, 0.1);
  network->to(type);
  return make_guidance_classifier(network, schedule);
}

/// Sets LibTorch's threads while it lives.
class Threads {
 public:
  explicit Threads(int count) { at::set_num_threads(count); }

 private:
  backend::CallersThreads kept_;
};

}  // namespace daug::test
