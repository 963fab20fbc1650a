#pragma once
// About how many numbers networks of the UNet family have, told from their options (see io/fillable.h).

#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"

namespace daug::detail {

/// Embedding, first layer, the larger convolutions of the blocks on the way down and, with a decoder, of as many on the
/// way up.
inline double unet_values(const UNetOptions& options, double in, bool with_decoder) {
  const auto channels = static_cast<double>(options.model_channels);
  const auto blocks = static_cast<double>(options.num_res_blocks) * (with_decoder ? 2 : 1);
  double values = 20 * channels * channels, width = channels;
  for (const double mult : options.channel_mult) {
    width = mult * channels;
    values += blocks * (9 * width * width + 4 * channels * width);
  }
  return values + 36 * width * width + 9 * options.channel_mult.front() * channels * in;
}

inline double values_of(const DenoiserUNetOptions& options) {
  const auto area = static_cast<double>(options.patch * options.patch);
  const double first = options.channel_mult.front() * static_cast<double>(options.model_channels);
  return unet_values(options, static_cast<double>(options.in_channels) * area, true) +
         9 * first * static_cast<double>(options.out_channels) * area +
         4 * static_cast<double>(options.model_channels * (options.num_classes + 2 * options.num_findings));
}

inline double values_of(const NoiseAwareClassifierOptions& options) {
  const bool spatial = options.pool == ClassifierPool::kSpatial || options.pool == ClassifierPool::kSpatialV2;
  const bool attention = options.pool == ClassifierPool::kAttention;
  const auto side = static_cast<double>(options.image_size >> (options.channel_mult.size() - 1));
  const double width = options.channel_mult.back() * static_cast<double>(options.model_channels);
  return unet_values(options, static_cast<double>(options.in_channels), false) +
         (spatial ? 2048 : width) * static_cast<double>(options.out_channels) + (attention ? width * side * side : 0);
}

}  // namespace daug::detail
