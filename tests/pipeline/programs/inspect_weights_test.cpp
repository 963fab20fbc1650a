// What the program inspect_weights says of files, and with which status it ends.

#include "daug/pipeline/inspect_weights.h"

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "daug/io/weights.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace {

struct Inspection {
  int status = -1;
  std::string output, errors;  ///< of std::cout and std::cerr
};

Inspection inspection(const std::vector<std::string>& words) {
  std::vector<const char*> arguments = {"inspect_weights"};
  for (const auto& word : words) arguments.push_back(word.c_str());
  std::ostringstream output, errors;
  std::streambuf* const before_output = std::cout.rdbuf(output.rdbuf());
  std::streambuf* const before_errors = std::cerr.rdbuf(errors.rdbuf());
  const int status = daug::inspect_weights_program(static_cast<int>(arguments.size()), arguments.data());
  std::cout.rdbuf(before_output);
  std::cerr.rdbuf(before_errors);
  return {status, output.str(), errors.str()};
}

daug::DenoiserUNetOptions inspected_denoiser() {
  daug::DenoiserUNetOptions options;
  options.model_channels = 8;
  options.norm_groups = 4;
  options.num_res_blocks = 1;
  options.channel_mult = {1, 2};
  options.attention_downsample = {2};
  options.out_channels = 2;
  options.num_findings = 3;
  options.use_scale_shift_norm = true;
  return options;
}

}  // namespace

TEST_CASE("inspect_weights names a denoiser, its options and what shapes do not tell", "[unet_checkpoint]") {
  const daug::test::Scratch scratch;
  const std::string path = scratch.path("denoiser.safetensors");
  daug::save_weights(path, *daug::DenoiserUNet(inspected_denoiser()), {{"made by", "a test"}});
  const Inspection end = inspection({path});
  INFO(end.output);
  CHECK(end.status == 0);
  CHECK(end.errors.empty());
  for (const char* line :
       {"  made by = a test\n", "network: denoiser (guided-diffusion's UNetModel), learned sigma\n",
        "  num_findings = 3\n", "  num_classes = 0\n", "  in_channels = 1\n", "  out_channels = 2\n",
        "  model_channels = 8\n", "  num_res_blocks = 1\n", "  use_scale_shift_norm = true\n",
        "  resblock_updown = false\n", "  channel_mult = 1 2\n", "  attention_downsample = 2\n",
        "not told by shapes: num_heads", "not told by shapes: norm_groups", "not told by shapes: image_size",
        "not told by shapes: timestep_scale (1 assumed", "loads: yes, all of it\n"})
    daug::test::contains(end.output, line);
  CHECK(end.output.rfind(path + ": ", 0) == 0);
}

TEST_CASE("inspect_weights says the image size of a classifier that counts positions, and of no other",
          "[unet_checkpoint]") {
  const daug::test::Scratch scratch;
  daug::NoiseAwareClassifierOptions options;
  options.image_size = 16;
  options.model_channels = 8;
  options.norm_groups = 4;
  options.num_res_blocks = 2;
  options.channel_mult = {1, 2, 2};
  options.attention_downsample = {2, 4};
  options.num_head_channels = 8;
  options.out_channels = 7;
  for (const char* pool : {"adaptive", "attention", "spatial", "spatial_v2"}) {
    INFO(pool);
    options.pool = daug::classifier_pool(pool);
    const std::string path = scratch.path(std::string(pool) + ".safetensors");
    daug::save_weights(path, *daug::NoiseAwareClassifier(options));
    const Inspection end = inspection({path});
    CHECK(end.status == 0);
    daug::test::contains(end.output, std::string("EncoderUNetModel), ") + pool + " pooling\n");
    daug::test::contains(end.output, "  out_channels = 7\n");
    const bool counts = std::string(pool) == "attention";
    CHECK((end.output.find("  image_size = 16\n") != std::string::npos) == counts);
    CHECK((end.output.find("not told by shapes: image_size") == std::string::npos) == counts);
  }
}

TEST_CASE("inspect_weights ends with 1 for what would not load, and 2 for wrong arguments", "[unet_checkpoint]") {
  const daug::test::Scratch scratch;
  const std::string path = scratch.path("denoiser.safetensors");
  daug::save_weights(path, *daug::DenoiserUNet(inspected_denoiser()));
  daug::SafetensorsFile file = daug::read_safetensors(path);
  file.tensors.erase("out.2.bias");
  daug::write_safetensors(path, file);
  const Inspection missing = inspection({path});
  CHECK(missing.status == 1);
  daug::test::contains(missing.output, "loads: no\n");
  daug::test::contains(missing.output, "out.2.bias");

  file.tensors = {{"encoder.weight", daug::Array::from(std::vector<float>{1, 2}, {2})}};
  daug::write_safetensors(path, file);
  const Inspection other = inspection({path});
  CHECK(other.status == 1);
  CHECK(daug::test::mentions(other.errors, "inspect_weights: ", "weights of a UNet"));
  daug::test::contains(other.output, "1 tensors, 2 values\n");  // what it holds is said all the same

  const Inspection pickle = inspection({scratch.put("model.pt", "PK\x03\x04 no safetensors")});
  CHECK(pickle.status == 1);
  CHECK(daug::test::mentions(pickle.errors, "inspect_weights: ", "model.pt"));
  CHECK(inspection({scratch.path("nowhere")}).status == 1);

  for (const auto& wrong : std::vector<std::vector<std::string>>{{}, {path, path}, {"--help"}}) {
    const Inspection end = inspection(wrong);
    CHECK(end.status == 2);
    CHECK(end.output.empty());
    daug::test::contains(end.errors, "usage: inspect_weights FILE");
  }
}
