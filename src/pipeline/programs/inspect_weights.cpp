#include "daug/pipeline/inspect_weights.h"

#include <iostream>
#include <string>

#include "daug/core/error.h"
#include "daug/translator/unet_checkpoint.h"

namespace daug {

namespace {

void print_contents(const std::string& path, const SafetensorsFile& file) {
  std::int64_t values = 0;
  for (const auto& [name, array] : file.tensors) values += array.numel();
  std::cout << path << ": " << file.tensors.size() << " tensors, " << values << " values\n";
  for (const auto& [key, text] : file.metadata) std::cout << "  " << key << " = " << text.substr(0, 200) << "\n";
}

template <class Values>
void print_list(const char* name, const Values& values) {
  std::cout << "  " << name << " =";
  for (const auto& value : values) std::cout << " " << value;
  std::cout << "\n";
}

void print_options(const UNetCheckpoint& found) {
  const UNetOptions& options = found.options();
  if (found.is_classifier) {
    constexpr const char* kPools[] = {"adaptive", "attention", "spatial", "spatial_v2"};
    std::cout << "network: noise-aware classifier (guided-diffusion's EncoderUNetModel), "
              << kPools[static_cast<int>(found.classifier.pool)] << " pooling\n";
    if (found.classifier.pool == ClassifierPool::kAttention)  // whose positions are counted
      std::cout << "  image_size = " << options.image_size << "\n";
  } else {
    std::cout << "network: denoiser (guided-diffusion's UNetModel), "
              << (options.out_channels == 2 * options.in_channels ? "learned" : "fixed") << " sigma\n"
              << "  num_classes = " << found.denoiser.num_classes << "\n"
              << "  num_findings = " << found.denoiser.num_findings << "\n";
  }
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  std::cout << "  in_channels = " << options.in_channels << "\n"
            << "  out_channels = " << options.out_channels << "\n"
            << "  model_channels = " << options.model_channels << "\n"
            << "  num_res_blocks = " << options.num_res_blocks << "\n"
            << "  use_scale_shift_norm = " << flag(options.use_scale_shift_norm) << "\n"
            << "  resblock_updown = " << flag(options.resblock_updown) << "\n"
            << "  conv_resample = " << flag(options.conv_resample) << "\n";
  print_list("channel_mult", options.channel_mult);
  print_list("attention_downsample", options.attention_downsample);
  for (const auto& option : found.open) std::cout << "not told by shapes: " << option << "\n";
}

}  // namespace

int inspect_weights_program(int argc, const char* const* argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::cerr << "usage: inspect_weights FILE.safetensors\n";
    return 2;
  }
  try {
    const auto file = read_safetensors_header(argv[1]);
    print_contents(argv[1], file);
    const auto found = inspect_unet(file);
    print_options(found);
    std::cout << (found.report.ok() ? "loads: yes, all of it" : "loads: no\n" + found.report.text()) << "\n";
    return found.report.ok() ? 0 : 1;
  } catch (const Error& error) {
    std::cerr << "inspect_weights: " << error.what() << "\n";
    return 1;
  }
}

}  // namespace daug
