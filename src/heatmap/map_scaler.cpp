#include "daug/heatmap/map_scaler.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "daug/core/error.h"

namespace daug {

MapScaler MapScaler::fit(const at::Tensor& maps, double limit) {
  constexpr const char* kFunction = "daug::MapScaler::fit";
  require(maps.dim() == 4 && maps.numel() > 0, kFunction, "maps", "shape [N, K, H, W], not empty", maps.sizes());
  require(limit > 0, kFunction, "limit", "more than 0", limit);
  MapScaler scaler;
  scaler.limit_ = limit;
  for (std::int64_t k = 0; k < maps.size(1); ++k) {
    const at::Tensor plane = maps.select(1, k).to(at::kDouble);
    scaler.mean_.push_back(plane.mean().item<double>());
    const double deviation = (plane - scaler.mean_.back()).square().mean().sqrt().item<double>();
    if (!std::isfinite(deviation))
      fail(ErrorCode::kNumeric, kFunction, detail::concat("maps of finding ", k), "finite values",
           detail::concat("a deviation of ", deviation));
    // A constant's mean is rounded, so that its deviation comes out as a few units in the last place instead of 0.
    scaler.deviation_.push_back(deviation > 1e-12 * std::abs(scaler.mean_.back()) ? deviation : 0.0);
  }
  return scaler;
}

MapScaler MapScaler::of(std::vector<double> mean, std::vector<double> deviation, double limit) {
  constexpr const char* kFunction = "daug::MapScaler::of";
  require(mean.size() == deviation.size(), kFunction, "deviation", mean.size(), deviation.size());
  for (const double value : mean) require(std::isfinite(value), kFunction, "mean", "finite values", value);
  for (const double value : deviation)
    require(std::isfinite(value) && value >= 0, kFunction, "deviation", "finite values of at least 0", value);
  require(limit > 0, kFunction, "limit", "more than 0", limit);
  MapScaler scaler;
  scaler.mean_ = std::move(mean);
  scaler.deviation_ = std::move(deviation);
  scaler.limit_ = limit;
  return scaler;
}

namespace {

void require_planes(const at::Tensor& maps, std::size_t count, const char* function, const char* argument) {
  require(maps.dim() == 4 && maps.size(1) == static_cast<std::int64_t>(count), function, argument,
          detail::concat("shape [B, ", count, ", H, W]"), maps.sizes());
}

}  // namespace

at::Tensor MapScaler::undo(const at::Tensor& scaled) const {
  require_planes(scaled, mean_.size(), "daug::MapScaler::undo", "scaled");
  std::vector<at::Tensor> planes;
  for (std::size_t k = 0; k < mean_.size(); ++k)
    planes.push_back(scaled.select(1, static_cast<std::int64_t>(k)) * deviation_[k] + mean_[k]);
  return at::stack(planes, 1);
}

at::Tensor MapScaler::apply(const at::Tensor& maps) const {
  const auto count = static_cast<std::int64_t>(mean_.size());
  require_planes(maps, mean_.size(), "daug::MapScaler::apply", "maps");
  std::vector<at::Tensor> planes;
  for (std::int64_t k = 0; k < count; ++k) {
    const auto i = static_cast<std::size_t>(k);
    const double factor = deviation_[i] > 0 ? 1 / deviation_[i] : 0;
    planes.push_back(((maps.select(1, k) - mean_[i]) * factor).clamp(-limit_, limit_));
  }
  return at::stack(planes, 1);
}

}  // namespace daug
