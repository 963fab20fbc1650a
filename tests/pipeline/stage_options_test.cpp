// How settings become the options of the library's parts.

#include "pipeline/stage_options.h"

#include <torch/nn/module.h>

#include <cstdint>

#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "daug/pipeline/run_config.h"
#include "support/catch.h"

using namespace daug;

namespace {

std::int64_t parameter_count(const torch::nn::Module& network) {
  std::int64_t count = 0;
  for (const auto& parameter : network.parameters()) count += parameter.numel();
  return count;
}

}  // namespace

TEST_CASE("the reference preset has the towers of CLIP ViT-B/32", "[pipeline]") {
  RunConfig config;
  apply_preset(config, "reference");
  config.size = 224;  // as published
  config.encoder.vocabulary = 49408;
  config.encoder.context = 77;
  ImageEncoderOptions image = image_tower(config);
  image.in_channels = 3;
  const ImageEncoder image_network(image, LoadedLater{});
  const TextEncoder text_network(text_tower(config), LoadedLater{});
  // The published model has 151,277,313 parameters, one of which is the temperature.
  CHECK(parameter_count(*image_network) + parameter_count(*text_network) == 151277312);
  config.encoder.kind = "conv";
  CHECK(text_tower(config).depth == 1);
}
