// The configurations beside CLIP weights, and the architecture in a file of encoders; their parsers share a library
// with LibTorch.

#include "encoder/clip_config.h"

#include "daug/train/encoder_file.h"
#include "entry.h"
#include "targets.h"

namespace daug::fuzz {
namespace {

std::vector<std::string> transformers_seeds() {
  return {daug::detail::clip_config_text({}, 2.6, "float32"), R"({"text_config": {}, "vision_config": {}})"};
}

std::vector<std::string> open_clip_seeds() {
  daug::detail::ClipConfig config;
  config.image.kind = ImageEncoderKind::kViT;
  return {daug::detail::open_clip_config_text(config)};
}

template <class Parse>
void parse(const Parse& parse_config, const std::string& bytes) {
  for (const bool assume_defaults : {false, true})
    read_or_refuse([&] { parse_config(bytes, "config.json", assume_defaults); });
}

void transformers(const std::string& bytes) { parse(daug::detail::parse_clip_config, bytes); }

void open_clip(const std::string& bytes) { parse(daug::detail::parse_open_clip_config, bytes); }

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

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> list = {
      {"clip_config", transformers_seeds, transformers},
      {"open_clip_config", open_clip_seeds, open_clip},
      {"encoder_architecture", encoder_seeds, encoders},
  };
  return list;
}

}  // namespace daug::fuzz
