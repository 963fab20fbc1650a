#pragma once
/// @file
/// A noise estimate that guidance has yet to put together.

#include <ATen/core/Tensor.h>

#include <utility>

namespace daug {

/// A noise estimate in its parts, so that a solver's step combines them in the pass that it makes anyway:
///
///     base + weight * strength * (first - second) - gradient_weight * strength * gradient
///
/// base being `first`, or `second` with from_second. Tensors are in the shape of the state x, [B, ...].
struct GuidedNoise {
  at::Tensor first;            ///< noise estimate
  at::Tensor second = {};      ///< what it is set against; undefined: `first` alone
  at::Tensor gradient = {};    ///< of a classifier's log-likelihood; undefined: none
  at::Tensor strength = {};    ///< [B] with any number of trailing 1s; undefined: all 1
  double weight = 0;           ///< of the difference
  bool from_second = false;    ///< which of the two the difference is added to
  double gradient_weight = 0;  ///< of the gradient, which is subtracted

  /// Nothing yet.
  GuidedNoise() = default;
  /// An estimate as it is.
  GuidedNoise(at::Tensor estimate) : first(std::move(estimate)) {}  // NOLINT: implicit on purpose
};

}  // namespace daug
