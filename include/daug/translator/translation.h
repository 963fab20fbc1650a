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
  at::Tensor residual;        ///< [B], round_trip_residual of the reconstruction
  at::Tensor latent;          ///< as `encode` returns it
  NetworkCalls calls;         ///< evaluations made for each image
};

/// How far round trips [B, C, H, W] are from the images x that they started with, in the units and dtype of x: the mean
/// absolute difference, [B]. An item's is the same bits in any batch and on any number of threads. Throws
/// kInvalidArgument for other shapes.
at::Tensor round_trip_residual(const at::Tensor& x, const at::Tensor& round_trip);

}  // namespace daug
