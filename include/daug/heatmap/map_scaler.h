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
  /// Fits on maps [N, K, H, W], N >= 1, of training images. limit in deviations, > 0.
  static MapScaler fit(const at::Tensor& maps, double limit = 5);

  /// Maps [B, K, H, W] as (map - mean) / deviation, clamped to [-limit, limit]. A constant training map gives 0.
  at::Tensor apply(const at::Tensor& maps) const;

  /// The inverse of apply for values that were not clamped; a constant map comes back as its mean.
  at::Tensor undo(const at::Tensor& scaled) const;

  const std::vector<double>& mean() const { return mean_; }
  const std::vector<double>& deviation() const { return deviation_; }
  double limit() const { return limit_; }

 private:
  std::vector<double> mean_, deviation_;
  double limit_ = 5;
};

}  // namespace daug
