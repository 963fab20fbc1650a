#pragma once
// The configurations that come with CLIP weights, without LibTorch.

#include <cstdint>
#include <string>
#include <vector>

#include "daug/encoder/image_encoder_options.h"
#include "daug/encoder/text_encoder_options.h"

namespace daug::detail {

struct ClipConfig {
  ImageEncoderOptions image;
  TextEncoderOptions text;
  std::int64_t start_of_text_id = 0, padding_id = 0;
};

/// What a file calls the settings that shapes tell as well.
struct ClipFieldNames {
  const char *embed_dim, *image_size, *patch_size, *in_channels, *image_width, *image_mlp_width, *image_depth,
      *vocab_size, *context_length, *text_width, *text_mlp_width, *text_depth;
};
extern const ClipFieldNames kTransformersNames, kOpenClipNames;

// Errors carry `file` and the dotted field name. A field that is absent takes upstream's default and is added to
// `assumed` as `field = default`; without `assumed` it is an error.
ClipConfig parse_clip_config(const std::string& text, const std::string& file, std::vector<std::string>* assumed);
ClipConfig parse_open_clip_config(const std::string& text, const std::string& file, std::vector<std::string>* assumed);

// The inverse. `dtype` is LibTorch's name ("float32"); open_clip_config_text throws kUnsupported for what it cannot
// say.
std::string clip_config_text(const ClipConfig& config, double logit_scale, const std::string& dtype);
std::string open_clip_config_text(const ClipConfig& config);

}  // namespace daug::detail
