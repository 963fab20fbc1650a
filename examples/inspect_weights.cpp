// Says what a safetensors file of diffusion weights is: which network, which options its shapes imply, and what of it
// would not load.
//
//   inspect_weights FILE
//
// Exit status: 0 it would load, 1 it would not, 2 wrong arguments.
#include <iostream>
#include <iterator>

#include "daug/core/error.h"
#include "daug/translator/unet_checkpoint.h"

namespace {

void print_contents(const std::string& path, const daug::SafetensorsFile& file) {
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

void print_options(const daug::UNetCheckpoint& found) {
  const daug::UNetOptions& options = found.options();
  if (found.is_classifier) {
    constexpr const char* kPools[] = {"adaptive", "attention", "spatial", "spatial_v2"};
    std::cout << "network: noise-aware classifier (guided-diffusion's EncoderUNetModel), "
              << kPools[static_cast<int>(found.classifier.pool)] << " pooling\n";
  } else {
    std::cout << "network: denoiser (guided-diffusion's UNetModel), "
              << (options.out_channels == 2 * options.in_channels ? "learned" : "fixed") << " sigma\n"
              << "  num_classes = " << found.denoiser.num_classes << "\n"
              << "  num_findings = " << found.denoiser.num_findings << "\n";
  }
  std::cout << std::boolalpha << "  in_channels = " << options.in_channels << "\n"
            << "  out_channels = " << options.out_channels << "\n"
            << "  model_channels = " << options.model_channels << "\n"
            << "  num_res_blocks = " << options.num_res_blocks << "\n"
            << "  use_scale_shift_norm = " << options.use_scale_shift_norm << "\n"
            << "  resblock_updown = " << options.resblock_updown << "\n"
            << "  conv_resample = " << options.conv_resample << "\n";
  print_list("channel_mult", options.channel_mult);
  print_list("attention_downsample", options.attention_downsample);
  for (const auto& option : found.open) std::cout << "not told by shapes: " << option << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::cerr << "usage: inspect_weights FILE.safetensors\n";
    return 2;
  }
  try {
    const auto file = daug::read_safetensors(argv[1]);
    print_contents(argv[1], file);
    const auto found = daug::inspect_unet(file);
    print_options(found);
    std::cout << (found.report.ok() ? "loads: yes, all of it" : "loads: no\n" + found.report.text()) << "\n";
    return found.report.ok() ? 0 : 1;
  } catch (const daug::Error& error) {
    std::cerr << "inspect_weights: " << error.what() << "\n";
    return 1;
  }
}
