#pragma once
// Networks built from the golden sets unet_* and classifier_*.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "daug/io/weights.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"
#include "daug/translator/noise_schedule.h"
#include "support/catch.h"
#include "support/golden.h"
#include "support/tensor.h"

namespace daug::test {

/// The options both networks share, from upstream's own names.
inline void read_options(const nlohmann::json& model, UNetOptions& options) {
  if (model.value("dims", 2) != 2) throw Skip{"dims other than 2"};
  if (model.value("use_fp16", false)) throw Skip{"use_fp16: computed in half precision"};
  options.image_size = model.at("image_size");
  options.in_channels = model.at("in_channels");
  options.out_channels = model.at("out_channels");
  options.model_channels = model.at("model_channels");
  options.num_res_blocks = model.at("num_res_blocks");
  options.channel_mult = model.at("channel_mult").get<std::vector<double>>();
  options.attention_downsample = model.at("attention_resolutions").get<std::vector<std::int64_t>>();
  options.num_heads = model.value("num_heads", 1);
  options.num_heads_upsample = model.value("num_heads_upsample", -1);
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

/// The section string of a respacing, which upstream also takes as a list of counts.
inline std::string golden_sections(const nlohmann::json& respacing) {
  if (respacing.is_string()) return respacing.get<std::string>();
  const std::string text = respacing.dump();
  return respacing.is_array() ? text.substr(1, text.size() - 2) : text;
}

/// The schedule a set's config describes.
inline NoiseSchedule golden_schedule(const nlohmann::json& config) {
  const std::int64_t steps = config.at("steps");
  const auto schedule = NoiseSchedule::named(config.at("schedule").get<std::string>(), steps);
  const auto respacing = config.find("respacing");
  if (respacing == config.end() || respacing->is_null()) return schedule;
  const std::string sections = golden_sections(*respacing);
  return sections.empty() ? schedule : schedule.respaced(space_timesteps(steps, sections));  // "": upstream's default
}

/// The factor by which a set's networks see its timesteps (UNetOptions::timestep_scale).
inline double golden_timestep_scale(const nlohmann::json& config) {
  return config.value("rescale_timesteps", false) ? 1000 / config.at("steps").get<double>() : 1.0;
}

/// Upstream takes any factor of a classifier's gradient.
inline void require_known_scale(double classifier_scale) {
  if (classifier_scale < 0 || classifier_scale > 10000) throw Skip{"a scale of guidance outside of [0, 10000]"};
}

/// What networks see at levels: a timestep each, scaled in float32.
inline std::vector<double> seen_timesteps(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                                          double timestep_scale) {
  std::vector<double> seen;
  for (const std::int64_t level : levels)
    seen.push_back(
        static_cast<double>(static_cast<float>(schedule.timestep(level)) * static_cast<float>(timestep_scale)));
  return seen;
}

/// The classes of a set's network; 0: it has none.
inline std::int64_t golden_classes(const GoldenSet& unet) {
  const auto& model = unet.settings.at("config").at("model");
  const auto found = model.find("num_classes");
  return found == model.end() || found->is_null() ? 0 : found->get<std::int64_t>();
}

/// The class of each item of a set, which upstream tells the network in every call; undefined for one without classes.
inline at::Tensor golden_class_labels(const GoldenSet& set, const GoldenSet& unet) {
  if (golden_classes(unet) == 0) return {};
  if (!set.file.contains("y")) throw Skip{"a class-conditional network, and no classes"};
  return tensor_from(set.at("y"));
}

inline DenoiserUNet golden_unet(const GoldenSet& set, at::ScalarType type = at::kFloat,
                                Execution execution = Execution::kAuto, double timestep_scale = 1) {
  DenoiserUNetOptions options;
  read_options(set.settings.at("config").at("model"), options);
  options.num_classes = golden_classes(set);
  options.timestep_scale = timestep_scale;
  options.execution = execution;
  DenoiserUNet network(options);
  load_golden_weights(*network, set);
  network->to(type);
  return network;
}

inline NoiseAwareClassifier golden_classifier(const GoldenSet& set, at::ScalarType type = at::kFloat,
                                              double timestep_scale = 1) {
  const auto& model = set.settings.at("config").at("model");
  NoiseAwareClassifierOptions options;
  read_options(model, options);
  options.timestep_scale = timestep_scale;
  options.pool = classifier_pool(model.value("pool", "adaptive"));
  NoiseAwareClassifier network(options);
  load_golden_weights(*network, set);
  network->to(type);
  return network;
}

/// The same network, now there.
template <class Network>
Network moved(Network network, const at::Device& device) {
  network->to(device);
  return network;
}

inline std::map<std::string, at::Tensor> parameters_of(torch::nn::Module& module) {
  std::map<std::string, at::Tensor> parameters;
  for (const auto& item : module.named_parameters()) parameters.emplace(item.key(), item.value());
  return parameters;
}

/// Of networks in float64. Their own rounding is far less; the rest is room for the one part that upstream has in
/// float32, the frequencies of the timestep embedding, whose last digits differ where exp does.
inline constexpr double kFloat64Tolerance = 1e-6;

/// max|a-b| / max|b|, asserted.
inline double check_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                          const std::string& what) {
  INFO(what);
  REQUIRE(actual.sizes() == expected.sizes());
  const double error = relative_error(to_doubles(actual), to_doubles(expected));
  CHECK(error <= tolerance);
  return error;
}
inline double check_close(const at::Tensor& actual, const Array& expected, double tolerance, const std::string& what) {
  return check_close(actual, tensor_from(expected), tolerance, what);
}

/// Gradient norms of every parameter of a network in float64 against a tensor of the set, each within
/// kFloat64Tolerance of itself. Where a gradient cancels only rounding is left: up to 1e-13 of the largest norm.
inline double check_gradient_norms(torch::nn::Module& module, const GoldenSet& set,
                                   const std::string& tensor = "param_grad_norm") {
  const auto names = set.settings.at("param_names").get<std::vector<std::string>>();
  const auto expected = set.at(tensor).to_double();
  const double largest = *std::max_element(expected.begin(), expected.end());
  const auto parameters = parameters_of(module);
  REQUIRE(names.size() == expected.size());
  REQUIRE(parameters.size() == names.size());
  double worst = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    INFO(names[i]);
    REQUIRE(parameters.count(names[i]) == 1);
    const at::Tensor gradient = parameters.at(names[i]).grad();
    REQUIRE(gradient.scalar_type() == at::kDouble);
    const double error = std::abs(gradient.norm().item<double>() - expected[i]);
    // No gradient at all is what a softmax of one logit has.
    const double relative = error == 0 ? 0 : error / (expected[i] + 1e-13 / kFloat64Tolerance * largest);
    CHECK(relative <= kFloat64Tolerance);
    worst = std::max(worst, relative);
  }
  return worst;
}

}  // namespace daug::test
