#include "daug/translator/unet_checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden.h"
#include "translator/golden_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

SafetensorsFile weights_of(const torch::nn::Module& module) {
  SafetensorsFile file;
  for (const auto& item : module.named_parameters()) file.tensors.emplace(item.key(), array_from(item.value()));
  return file;
}

/// Channels of each level.
std::vector<std::int64_t> widths_of(const UNetOptions& options) {
  std::vector<std::int64_t> widths;
  for (const double mult : options.channel_mult)
    widths.push_back(static_cast<std::int64_t>(mult * static_cast<double>(options.model_channels)));
  return widths;
}

/// The levels that attend, by their downsample factors: options may list others, and in any order.
std::vector<std::int64_t> attending_levels(const UNetOptions& options) {
  const auto& listed = options.attention_downsample;
  std::vector<std::int64_t> factors;
  for (std::size_t level = 0; level < options.channel_mult.size(); ++level) {
    const std::int64_t factor = std::int64_t{1} << level;
    if (std::find(listed.begin(), listed.end(), factor) != listed.end()) factors.push_back(factor);
  }
  return factors;
}

/// Everything a shape can tell.
void check_same(const UNetOptions& found, const UNetOptions& truth) {
  CHECK(found.in_channels == truth.in_channels);
  CHECK(found.out_channels == truth.out_channels);
  CHECK(found.model_channels == truth.model_channels);
  CHECK(found.num_res_blocks == truth.num_res_blocks);
  CHECK(widths_of(found) == widths_of(truth));
  CHECK(found.attention_downsample == attending_levels(truth));
  CHECK(found.use_scale_shift_norm == truth.use_scale_shift_norm);
  if (truth.channel_mult.size() == 1) return;  // nothing is resampled
  CHECK(found.resblock_updown == truth.resblock_updown);
  if (!truth.resblock_updown) CHECK(found.conv_resample == truth.conv_resample);
}

DenoiserUNetOptions random_options(RandomStream& random) {
  DenoiserUNetOptions options;
  options.model_channels = 8;
  options.norm_groups = 4;
  options.num_res_blocks = 1 + random.below(3);
  options.channel_mult.clear();
  const std::uint32_t levels = 1 + random.below(3);
  for (std::uint32_t level = 0; level < levels; ++level) {
    options.channel_mult.push_back(1 + random.below(3));
    if (random.below(2)) options.attention_downsample.push_back(std::int64_t{1} << level);
  }
  options.in_channels = 1 + random.below(3);
  options.out_channels = options.in_channels * (1 + random.below(2));
  options.use_scale_shift_norm = random.below(2) == 1;
  options.resblock_updown = random.below(2) == 1;
  options.conv_resample = random.below(2) == 1;
  options.num_classes = random.below(2) ? 5 : 0;
  options.num_findings = options.num_classes == 0 && random.below(2) ? 3 : 0;
  return options;
}

}  // namespace

TEST_CASE("a denoiser's options are read off its weights", "[unet_checkpoint]") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    RandomStream random(seed, 0, "options");
    const auto truth = random_options(random);
    INFO("seed " << seed);
    const auto found = inspect_unet(weights_of(*DenoiserUNet(truth)));
    CHECK_FALSE(found.is_classifier);
    check_same(found.denoiser, truth);
    CHECK(found.denoiser.num_classes == truth.num_classes);
    CHECK(found.denoiser.num_findings == truth.num_findings);
    CHECK(found.report.ok());
  }
  // 1.37 of 22 channels are 30, and as floating-point numbers 30 / 22 * 22 is less than that.
  DenoiserUNetOptions between;
  between.model_channels = 22, between.norm_groups = 2, between.num_res_blocks = 1, between.channel_mult = {1, 1.37};
  const auto found = inspect_unet(weights_of(*DenoiserUNet(between)));
  REQUIRE(found.denoiser.channel_mult.size() == 2);
  CHECK(found.denoiser.channel_mult[1] * 22 >= 30);
  CHECK(found.report.ok());
}

TEST_CASE("a classifier's pooling, size and options are read off its weights", "[unet_checkpoint]") {
  for (const char* pool : {"adaptive", "attention", "spatial", "spatial_v2"})
    for (const bool updown : {false, true}) {
      INFO(pool << (updown ? ", residual resampling" : ""));
      NoiseAwareClassifierOptions truth;
      truth.image_size = 16;
      truth.model_channels = 8;
      truth.norm_groups = 4;
      truth.num_res_blocks = 2;
      truth.channel_mult = {1, 2, 2};
      truth.attention_downsample = {2, 4};
      truth.num_head_channels = 8;
      truth.out_channels = 7;
      truth.resblock_updown = updown;
      truth.pool = classifier_pool(pool);
      const auto found = inspect_unet(weights_of(*NoiseAwareClassifier(truth)));
      CHECK(found.is_classifier);
      check_same(found.classifier, truth);
      CHECK(found.classifier.pool == truth.pool);
      if (truth.pool == ClassifierPool::kAttention) CHECK(found.classifier.image_size == 16);
      CHECK(found.report.ok());
    }
}

TEST_CASE("what does not fit is named", "[unet_checkpoint]") {
  DenoiserUNetOptions options;
  options.model_channels = 8;
  options.norm_groups = 4;
  options.channel_mult = {1, 2};
  const auto whole = weights_of(*DenoiserUNet(options));
  auto file = whole;
  file.tensors.erase("output_blocks.0.0.skip_connection.weight");
  file.tensors.emplace("ema.decay", Array::from(std::vector<float>{1}, {1}));
  file.tensors["out.0.bias"] = Array::from(std::vector<float>{1, 2}, {2});
  const auto found = inspect_unet(file);
  CHECK(found.report.missing == std::vector<std::string>{"output_blocks.0.0.skip_connection.weight"});
  CHECK(found.report.unexpected == std::vector<std::string>{"ema.decay"});
  REQUIRE(found.report.mismatched.size() == 1);
  CHECK(found.report.mismatched[0].rfind("out.0.bias", 0) == 0);

  // Every single tensor may be absent or have no rank: a report or a typed error, never a crash.
  for (const auto& [name, array] : whole.tensors)
    for (const bool scalar : {false, true}) {
      auto damaged = whole;
      if (scalar)
        damaged.tensors[name] = Array::from(std::vector<float>{1}, {});
      else
        damaged.tensors.erase(name);
      INFO(name);
      bool refused = false;
      try {
        refused = !inspect_unet(damaged).report.ok();
      } catch (const Error& error) {
        INFO(error.what());
        CHECK(error.code() == ErrorCode::kMismatch);
        refused = true;
      }
      CHECK(refused);
    }
  CHECK(caught([] { inspect_unet({}); }).code() == ErrorCode::kMismatch);
  // So it is with shapes that no array has, in tensors that are read and in those that are only compared.
  for (const char* name : {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.norm.bias"})
    for (const std::int64_t size : {std::int64_t{-1}, std::int64_t{1} << 40}) {
      auto damaged = whole;
      damaged.tensors.at(name).shape.assign(2, size);
      INFO(name << " of " << size << " x " << size);
      CHECK(caught([&] { inspect_unet(damaged); }).code() == ErrorCode::kMismatch);
    }
}

TEST_CASE("options of reference networks are read off their weights", "[unet_checkpoint][golden]") {
  if (!shared_data()) return;  // the sets' own tests say so
  for (const char* prefix : {"unet_", "classifier_"})
    for (const auto& name : golden_sets(prefix)) {
      INFO(name);
      const GoldenSet set = load_golden(name);
      SafetensorsFile file;
      for (const auto& [key, array] : set.file.tensors)
        if (key.rfind("model.", 0) == 0) file.tensors.emplace(key.substr(6), array);
      const auto found = inspect_unet(file);
      CHECK(found.report.ok());
      UNetOptions truth;
      read_options(set.settings.at("config").at("model"), truth);
      check_same(found.options(), truth);
    }
}
