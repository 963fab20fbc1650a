#pragma once
/// @file
/// What a translation returns; apart from diffusion_translator.h because it holds tensors by value.

#include <ATen/core/Tensor.h>

#include "daug/translator/diffusion_translator.h"

namespace daug {

/// Result of translating x [B, C, H, W] towards K targets, in the dtype and on the device of x.
struct Translation {
  at::Tensor images;          ///< [B, K, C, H, W], one image a target
  at::Tensor reconstruction;  ///< [B, C, H, W], decoded without a target
  at::Tensor residual;        ///< [B], mean absolute difference of reconstruction and input
  at::Tensor latent;          ///< as `encode` returns it
  NetworkCalls calls;         ///< evaluations made for each image
};

}  // namespace daug
