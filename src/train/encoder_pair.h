#pragma once
// What training and use of an EncoderPair share.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

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

/// The type in which embeddings that were computed in another go into the loss: bfloat16 stays what it is on CUDA
/// devices, where the loss multiplies it, and all else is float32.
at::ScalarType type_in_loss(at::ScalarType computed, const c10::Device& device);

}  // namespace daug::detail
