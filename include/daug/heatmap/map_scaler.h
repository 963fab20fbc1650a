#pragma once
/// @file
/// Brings maps of different kinds to one scale before they become channels.

#include <vector>

namespace at {
class Tensor;
}

namespace daug {

/// Standardises each finding's maps with one mean and one deviation over all pixels of the maps it was fitted on:
/// unlike per-image scaling, a faint map stays faint. Values beyond `limit` deviations are clamped.
class MapScaler {
 public:
  /// Fits on maps [N, K, H, W], N >= 1, of training images, in float64. limit in deviations, > 0. Throws
  /// kInvalidArgument, and kNumeric naming the finding whose maps are not finite.
  static MapScaler fit(const at::Tensor& maps, double limit = 5);

  /// What another one was fitted to: mean and deviation [K], finite, deviations >= 0. Throws kInvalidArgument.
  static MapScaler of(std::vector<double> mean, std::vector<double> deviation, double limit);

  /// Maps [B, K, H, W] as (map - mean) / deviation, clamped to [-limit, limit], in their dtype. A constant training map
  /// gives 0. Throws kInvalidArgument for another K.
  at::Tensor apply(const at::Tensor& maps) const;

  /// The inverse of apply for values that were not clamped; a constant map comes back as its mean. Throws as apply.
  at::Tensor undo(const at::Tensor& scaled) const;

  /// [K], in the maps' unit.
  const std::vector<double>& mean() const { return mean_; }
  /// [K], in the maps' unit, >= 0; 0 for a constant map.
  const std::vector<double>& deviation() const { return deviation_; }
  /// Most deviations that `apply` returns, > 0.
  double limit() const { return limit_; }

 private:
  std::vector<double> mean_, deviation_;
  double limit_ = 5;
};

}  // namespace daug
