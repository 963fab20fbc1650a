#pragma once
// From translated images to maps of an encoder's size, row by row, so that a plane never leaves the cache.

#include <cstdint>

#include "kernels/parallel.h"

namespace daug::kernels {

/// What is done to a smoothed map before it is resized.
enum class MapScaling {
  kNone,
  kMinMax,      ///< to [0, 1] by its own minimum and upper quantile; zero where these are equal or there is a NaN
  kStandard,    ///< clamp((map - mean_k) * factor_k, -limit, limit)
  kCalibrated,  ///< of devices alone: minus_log_p of how many healthy values are less; NaN stays NaN
};

/// map_k = sum over channels |x - x_k|, smoothed by a Gaussian with reflected borders (cut at 3 sigma and at the image
/// size), scaled, resized bilinearly: heatmap/maps.h and heatmap/map_scaler.h in one pass.
struct MapPostprocess {
  std::int64_t batch = 0;     ///< B, may be 0
  std::int64_t maps = 0;      ///< K, may be 0
  std::int64_t channels = 1;  ///< C >= 1
  std::int64_t height = 0, width = 0;
  std::int64_t out_height = 0, out_width = 0;  ///< >= 1

  const float* x = nullptr;        ///< [B, C, H, W]; null: `images` are maps already, C = 1, and keep their sign
  const float* images = nullptr;   ///< [B, K, C, H, W]
  float* output = nullptr;         ///< [B, K, H', W']
  std::int64_t output_stride = 0;  ///< floats between the outputs of two images, >= K H' W'

  bool scale_images = false;  ///< x and each image first go to [0, 1] by their minimum and maximum over all channels
  double sigma = 0;           ///< of the smoothing in pixels; 0: none
  MapScaling scaling = MapScaling::kNone;
  double upper_quantile = 1;    ///< of kMinMax, in (0, 1]: what becomes 1; higher values are held there after resizing
  const float* mean = nullptr;  ///< [K], of kStandard
  const float* factor = nullptr;    ///< [K], of kStandard
  float limit = 0;                  ///< of kStandard
  std::int64_t regions = 1;         ///< of kCalibrated, in [1, 64]: pixel (y, x) lies in cell row y * regions / height
  std::int64_t healthy_values = 0;  ///< Q, of kCalibrated, in [1, 65535]: of a cell
  const float* healthy = nullptr;   ///< [K, regions, regions, Q], of kCalibrated, rising
  const float* minus_log_p = nullptr;  ///< [Q + 1], of kCalibrated
  bool antialias = true;               ///< widen the filter where a side shrinks, as torch's antialiased interpolation
};

/// Bit-equal whatever `parallel` is. A value that is not finite reaches as far as the blur and the resizing do, or a
/// pixel further.
void map_postprocess(const MapPostprocess& problem, const Parallel& parallel);

}  // namespace daug::kernels
