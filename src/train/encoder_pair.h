#pragma once
// What training and use of an EncoderPair share.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "daug/train/encoder_trainer.h"

namespace daug::detail {

/// Throws kMismatch unless there is a heatmap tower where the channel mode asks for one, and there alone: one tower
/// would be shown what the other was trained on.
void require_towers(const EncoderPair& pair, const ChannelAugmenterOptions& augment, const char* function);

/// Embedding of images with their maps, whatever way the maps take; of training when `items` says which images these
/// are.
at::Tensor embed(const EncoderPair& pair, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                 const at::Tensor& maps, const std::vector<std::uint64_t>* items = nullptr, std::uint64_t seed = 0);

}  // namespace daug::detail
