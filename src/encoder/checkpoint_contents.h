#pragma once
// What a checkpoint holds: layers, counted by their keys; and how many numbers networks have (see io/fillable.h).

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "daug/io/safetensors.h"

namespace daug::detail {

/// The largest number that follows `prefix` in a key, -1 without one. Stranger keys are left to the report of a load.
inline std::int64_t largest_number(const SafetensorsFile& file, const std::string& prefix) {
  std::int64_t largest = -1;
  for (auto key = file.tensors.lower_bound(prefix); key != file.tensors.end(); ++key) {
    if (key->first.compare(0, prefix.size(), prefix) != 0) break;
    const std::string number = key->first.substr(prefix.size(), 4);
    largest = std::max<std::int64_t>(largest, std::atoi(number.c_str()));
  }
  return largest;
}

/// What attention and MLP of transformer layers hold.
inline double transformer_values(std::int64_t depth, std::int64_t width, std::int64_t mlp_width) {
  const auto w = static_cast<double>(width);
  return static_cast<double>(depth) * (4 * w * w + 2 * w * static_cast<double>(mlp_width));
}

/// About as many numbers as the tower has.
inline double values_of(const TextEncoderOptions& text) {
  return transformer_values(text.depth, text.width, text.mlp_width) +
         static_cast<double>(text.width) * static_cast<double>(text.vocab_size + text.context_length + text.embed_dim);
}

/// The projection of a convolutional network is left out: a checkpoint's may be replaced by one of any size.
inline double values_of(const ImageEncoderOptions& image) {
  double values = 0;
  const auto first_layer = [&](std::int64_t width, std::int64_t kernel) {
    return static_cast<double>(image.in_channels + image.extra_channels) * static_cast<double>(width * kernel * kernel);
  };
  switch (image.kind) {
    case ImageEncoderKind::kConv: {
      const double width = static_cast<double>(image.conv.base_width << (image.conv.stages - 1));
      values = first_layer(image.conv.base_width, 3) + 18 * static_cast<double>(image.conv.blocks) * width * width;
      break;
    }
    case ImageEncoderKind::kViT: {
      const auto& vit = image.vit;
      const auto side = image.image_size / vit.patch_size;
      values = transformer_values(vit.depth, vit.width, vit.mlp_width) + first_layer(vit.width, vit.patch_size) +
               static_cast<double>(vit.width) * static_cast<double>(side * side + image.embed_dim);
      break;
    }
    case ImageEncoderKind::kResNet: {
      double width = static_cast<double>(image.resnet.base_width);
      values = first_layer(image.resnet.base_width, 7);
      for (const auto blocks : image.resnet.blocks) {
        values += static_cast<double>(blocks) * width * width * (image.resnet.bottleneck ? 17 : 18);
        width *= 2;
      }
      break;
    }
    case ImageEncoderKind::kDenseNet: {
      const auto& densenet = image.densenet;
      const auto growth = static_cast<double>(densenet.growth),
                 inner = growth * static_cast<double>(densenet.bottleneck);
      auto width = static_cast<double>(densenet.base_width);
      values = first_layer(densenet.base_width, 7);
      for (const auto layers : densenet.layers) {
        const auto count = static_cast<double>(layers);
        values += count * inner * (width + growth * (count - 1) / 2 + 9 * growth);
        width += count * growth;
        values += width * width / 2;
        width /= 2;
      }
      break;
    }
  }
  return values;
}

/// What that projection and an attention pooling before it hold, about.
inline double projection_values(const ImageEncoderOptions& image) {
  const auto embedding = static_cast<double>(image.embed_dim);
  const auto features = [&](std::int64_t width, std::int64_t side, ImagePooling pooling) {
    const auto positions = static_cast<double>(side * side);
    return static_cast<double>(width) * (pooling == ImagePooling::kFlatten     ? positions * embedding
                                         : pooling == ImagePooling::kAttention ? positions + embedding
                                                                               : embedding);
  };
  switch (image.kind) {
    case ImageEncoderKind::kConv:
      return features(image.conv.base_width << (image.conv.stages - 1), image.image_size >> image.conv.stages,
                      image.conv.pooling);
    case ImageEncoderKind::kViT:
      return 0;
    case ImageEncoderKind::kResNet:
      return features(image.resnet.base_width * (image.resnet.bottleneck ? 32 : 8), (image.image_size + 31) / 32,
                      image.resnet.pooling);
    case ImageEncoderKind::kDenseNet:
      return features(image.densenet.last_width(), (image.image_size + 31) / 32, image.densenet.pooling);
  }
  return 0;
}

}  // namespace daug::detail
