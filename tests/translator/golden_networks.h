#pragma once
// Networks built from the golden sets unet_* and classifier_*.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <string>

#include "daug/io/weights.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"
#include "support/golden.h"

namespace daug::test {

/// The options both networks share, from upstream's own names.
inline void read_options(const nlohmann::json& model, UNetOptions& options) {
  if (model.value("dims", 2) != 2) throw Skip{"dims other than 2"};
  options.image_size = model.at("image_size");
  options.in_channels = model.at("in_channels");
  options.out_channels = model.at("out_channels");
  options.model_channels = model.at("model_channels");
  options.num_res_blocks = model.at("num_res_blocks");
  options.channel_mult = model.at("channel_mult").get<std::vector<double>>();
  options.attention_downsample = model.at("attention_resolutions").get<std::vector<std::int64_t>>();
  options.num_heads = model.value("num_heads", 1);
  options.num_head_channels = model.value("num_head_channels", -1);
  options.use_scale_shift_norm = model.value("use_scale_shift_norm", false);
  options.resblock_updown = model.value("resblock_updown", false);
  options.conv_resample = model.value("conv_resample", true);
  options.use_new_attention_order = model.value("use_new_attention_order", false);
}

/// Loads the set's tensors `model.<key>`; float16 weights are widened on the way.
inline void load_golden_weights(torch::nn::Module& module, const GoldenSet& set) {
  const std::string prefix = "model.";
  SafetensorsFile weights;
  for (const auto& [name, array] : set.file.tensors)
    if (name.rfind(prefix, 0) == 0) weights.tensors.emplace(name.substr(prefix.size()), array);
  load_weights(module, weights, set.name);
}

inline DenoiserUNet golden_unet(const GoldenSet& set, at::ScalarType type = at::kFloat) {
  const auto& model = set.settings.at("config").at("model");
  DenoiserUNetOptions options;
  read_options(model, options);
  if (model.contains("num_classes") && !model["num_classes"].is_null()) options.num_classes = model["num_classes"];
  DenoiserUNet network(options);
  load_golden_weights(*network, set);
  network->to(type);
  return network;
}

inline NoiseAwareClassifier golden_classifier(const GoldenSet& set, at::ScalarType type = at::kFloat) {
  const auto& model = set.settings.at("config").at("model");
  NoiseAwareClassifierOptions options;
  read_options(model, options);
  options.pool = classifier_pool(model.value("pool", "adaptive"));
  NoiseAwareClassifier network(options);
  load_golden_weights(*network, set);
  network->to(type);
  return network;
}

}  // namespace daug::test
