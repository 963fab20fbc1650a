// Settings as JSON: the architecture in a file of encoders, a run's settings and figures. Their parsers share a library
// with LibTorch.

#include "daug/pipeline/figures.h"
#include "daug/pipeline/run_config.h"
#include "daug/train/encoder_file.h"
#include "files.h"
#include "networks.h"
#include "targets.h"

namespace daug::fuzz {
namespace {

std::vector<std::string> encoder_seeds() {
  EncoderTrainerOptions options;
  options.image.embed_dim = options.text.embed_dim = 8;
  std::vector<std::string> seeds;
  for (const auto kind :
       {ImageEncoderKind::kConv, ImageEncoderKind::kViT, ImageEncoderKind::kResNet, ImageEncoderKind::kDenseNet}) {
    options.image.kind = kind;
    options.image.resnet.base_width = options.image.densenet.base_width = options.image.densenet.growth = 4;
    seeds.push_back(encoder_architecture(make_encoders(options, 2)));
  }
  return seeds;
}

/// There are no weights: every architecture is refused, at the latest for what is missing.
void encoders(const std::string& bytes) {
  SafetensorsFile file;
  file.metadata = {{"format", kEncoderFormat}, {"architecture", bytes}};
  try {
    load_encoders(file, "encoders");
    broken("encoders without weights");
  } catch (const Error& error) {
    expect(error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kMismatch, error.what());
  }
}

Files run_config_seeds() {
  Files seeds;
  for (const auto& preset : preset_names())
    seeds.push_back(written([&](const std::string& path) {
      RunConfig config;
      apply_preset(config, preset);
      write_config(path, config);
    }));
  return seeds;
}

void run_config(const std::string& bytes) {
  read_or_refuse([&] { read_config(put(bytes)).validate(); }, {ErrorCode::kInvalidArgument});
}

Files metrics_seeds() {
  return {written([](const std::string& path) {
    write_metrics(path,
                  {{"map.pixel_ap", "evidence", "test", 0.5, 0.4, 0.6, 12, "average precision"},
                   {"time.report", "run", "all", 3, {}, {}, 1, "seconds"}},
                  "fingerprint");
  })};
}

void metrics(const std::string& bytes) {
  read_or_refuse([&] {
    std::string fingerprint;
    read_metrics(put(bytes), &fingerprint);
  });
}

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> list = with_networks({
      {"encoder_architecture", encoder_seeds, encoders, kEncoderFile},
      {"run_config", run_config_seeds, run_config},
      {"metrics", metrics_seeds, metrics},
  });
  return list;
}

}  // namespace daug::fuzz
