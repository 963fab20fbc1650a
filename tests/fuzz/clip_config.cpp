// The configurations beside CLIP weights; their parser shares a library with LibTorch.

#include "encoder/clip_config.h"

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

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> list = {
      {"clip_config", transformers_seeds, transformers},
      {"open_clip_config", open_clip_seeds, open_clip},
  };
  return list;
}

}  // namespace daug::fuzz
