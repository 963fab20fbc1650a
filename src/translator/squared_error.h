#pragma once
// The squared error of denoising_loss in two steps: what is looked up by level, which reads levels on the CPU, and what
// is computed with it on a device, which reads nothing and can be captured.

#include <ATen/core/Tensor.h>

#include "daug/translator/denoising_loss.h"

namespace daug::detail {

/// What outputs of a network are compared with.
struct ErrorTarget {
  at::Tensor value;    ///< [B, C, H, W]
  at::Tensor weights;  ///< [B], of min-SNR; undefined: 1
};

/// Whether denoising_loss of these options is a weighted squared error and nothing else.
bool is_squared_error(const DenoisingLossOptions& options);

/// The target of items under `noise` at `levels`. Throws as prediction_target.
ErrorTarget error_target(const NoiseSchedule& schedule, const DenoisingLossOptions& options, const at::Tensor& clean,
                         const at::Tensor& noise, const at::Tensor& levels);

/// Mean squared difference of each item, [B].
at::Tensor squared_error(const at::Tensor& prediction, const at::Tensor& target);

/// Errors [B] times weights [B]; without any, as they are.
at::Tensor weighted(const at::Tensor& error, const at::Tensor& weights);

}  // namespace daug::detail
