#pragma once
/// @file
/// From translated images to maps as an encoder takes them: difference, smoothing, one scale, the encoder's size.

#include <cstdint>

#include "daug/core/execution.h"

namespace at {
class Tensor;
}

namespace daug {

class MapCalibration;
class MapScaler;

/// How maps are brought to one scale.
enum class MapNormalization {
  kNone,        ///< left in the units of the image
  kMinMax,      ///< each map to [0, 1] by its own minimum and maximum (min_max_scaled)
  kReference,   ///< the published one: x and each image to [0, 1] first (image_scaled), then kMinMax
  kScaler,      ///< by a MapScaler fitted on training maps
  kCalibrated,  ///< each pixel as -log10 of its p-value among healthy maps (MapCalibration::calibrated)
};

/// Settings of encoder_maps.
struct EncoderMapOptions {
  double sigma = 0;                                          ///< Gaussian smoothing in pixels, in [0, 1e4]; 0: none
  MapNormalization normalization = MapNormalization::kNone;  ///< done on the smoothed map
  double upper_quantile = 1;  ///< of kMinMax and kReference, in (0, 1]: the quantile of a map that becomes 1
  std::int64_t height = 0;    ///< of the result, in [0, 16384]; 0: that of the maps
  std::int64_t width = 0;     ///< of the result, in [0, 16384]; 0: that of the maps
  bool antialias = true;      ///< widen the bilinear filter where a side shrinks, as preprocess() does
  bool half = false;          ///< the result in float16, computed as without and rounded once; above 65504: infinite
  Execution execution = Execution::kAuto;  ///< fused kernels take float32 without gradients, see encoder_maps

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Maps [B, K, height, width] from x [B, C, H, W] and images [B, K, C, H, W]: difference_map, smoothed, scaled, resized
/// bilinearly, in this order. float32 or float64, on any device, where nothing is read back; the result is of that type
/// or, with `half`, float16. Deterministic; on the CPU independent of the number of threads.
///
/// With an upper quantile q < 1 a few extreme pixels do not decide the scale: the map's q-quantile (interpolated
/// linearly) takes the place of its maximum, and after resizing what is above 1 is held there; a map whose quantile is
/// its minimum becomes zero.
///
/// `scaler` belongs to kScaler, `calibration`, fitted on maps that were smoothed alike, to kCalibrated; they are not
/// looked at otherwise. kCalibrated takes the operators on the CPU, where smoothed maps that are not finite are
/// refused; elsewhere a NaN stays one. What kernels and operators smooth differs in rounding, which may put a pixel on
/// the other side of a healthy value, a step of p away. A calibration of another device has its tables copied by every
/// call.
///
/// The kernel for CUDA devices takes maps of up to 2^22 pixels whose height shrinks 176 times at most, and a sigma of
/// up to 16. With it an image's maps do not depend on its batch, and are the same bits whenever they are made again. No
/// device has run it or the operators yet: kAuto takes the operators until one has.
///
/// Throws kInvalidArgument, also for a calibration of other maps, kUnsupported for kFused where there is no kernel for
/// these tensors, and as `resized`.
at::Tensor encoder_maps(const at::Tensor& x, const at::Tensor& images, const EncoderMapOptions& options = {},
                        const MapScaler* scaler = nullptr, const MapCalibration* calibration = nullptr);

/// The same from maps [B, K, H, W] that are made already (evidence_maps, a stored map), without the difference.
/// kReference is refused (kInvalidArgument): it needs the images. All else is as above.
at::Tensor encoder_maps(const at::Tensor& maps, const EncoderMapOptions& options, const MapScaler* scaler = nullptr,
                        const MapCalibration* calibration = nullptr);

}  // namespace daug
