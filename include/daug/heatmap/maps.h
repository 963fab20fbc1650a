#pragma once
/// @file
/// Heatmaps: where an image would have to change, or what the model sees as evidence, for each finding.
///
/// Tensors are floating point; results have the dtype and device of the first argument that is a tensor. Deterministic,
/// an item at a time.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "daug/translator/noise_predictor.h"
#include "daug/translator/noise_schedule.h"

namespace at {
class Tensor;
}

namespace daug {

/// |x - x_k| summed over image channels, in the units of x. x [B, C, H, W], images [B, K, C, H, W] -> [B, K, H, W].
/// Not calibrated: a normal image changes almost as much as a diseased one. Throws kInvalidArgument for other shapes
/// and for images on another device than x.
at::Tensor difference_map(const at::Tensor& x, const at::Tensor& images);

/// Each trailing [..., C, H, W] image scaled to [0, 1] by its minimum and maximum over all channels together. A
/// constant image or one with a NaN comes out as NaN.
at::Tensor image_scaled(const at::Tensor& images);

/// The published normalisation: x and each image scaled to [0, 1] (image_scaled), |difference| summed over channels,
/// and each map again scaled to [0, 1]. Shapes as difference_map. Where the published code yields NaN (a constant image
/// or map, a NaN pixel) the map is zero. A normal image comes out as strongly marked as a diseased one. Source:
/// drjinying/DAug (MIT).
at::Tensor reference_difference_map(const at::Tensor& x, const at::Tensor& images);

/// Scales each trailing [..., H, W] plane to [0, 1] by its minimum and maximum; a plane that is constant or has a NaN
/// becomes zero.
at::Tensor min_max_scaled(const at::Tensor& planes);

/// Gaussian blur of every plane [..., H, W] with reflected borders; sigma in pixels, 0 returns the input.
/// The kernel is cut at 3 sigma (and at the image size). Throws kInvalidArgument for sigma outside [0, 1e4].
at::Tensor smoothed(const at::Tensor& planes, double sigma);

/// Settings of maps that need no reconstruction.
struct EvidenceOptions {
  std::vector<std::int64_t> levels = {40, 100, 250};  ///< averaged over, in [1, schedule steps], with some signal
  std::int64_t samples = 1;                           ///< noise draws a level, >= 1; in pairs e, -e
  std::uint64_t seed = 0;                             ///< with the item id fixes the noise
  std::int64_t max_batch = 256;    ///< largest batch handed to the network, >= 1; 1: bits are an image's own
  std::int64_t memory_budget = 0;  ///< bytes of its activations, >= 0; 0: bounded by max_batch alone

  /// Throws kInvalidArgument naming the first option out of range.
  void validate(const NoiseSchedule& schedule) const;
};

/// Signed evidence for each of K conditions c (rows of `present` [K, F], see target_condition): with known noise e in
/// x_t, `(e - eps(x_t, -c))^2 - (e - eps(x_t, c))^2` summed over image channels, averaged over levels and samples.
/// Positive where presence explains the image better. x [B, C, H, W] in [-1, 1] (require_images), items: one id an
/// image -> [B, K, H, W]. 2 K evaluations a level and sample. Independent of batch composition up to rounding; with
/// max_batch = 1 bit-equal in any batch and on any number of threads, as DiffusionTranslator. Throws kInvalidArgument,
/// also for entries of `present` other than -1, 0 and 1, kMismatch for a predictor of another schedule and what
/// NoisePredictor::prepared throws, before any network call, and kNumeric with the level and the sample
/// (counted from 0) at which a value is not finite.
at::Tensor evidence_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                         const std::vector<std::uint64_t>& items, const at::Tensor& present,
                         const EvidenceOptions& options = {});
/// The same for each of the model's F findings alone, K = F.
at::Tensor evidence_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                         const std::vector<std::uint64_t>& items, std::int64_t findings,
                         const EvidenceOptions& options = {});

/// |eps(x_t, c) - eps(x_t, nothing known)| summed over image channels, averaged over levels and samples: [B, K, H, W],
/// >= 0. Arguments, bits and errors as evidence_maps. K + 1 evaluations a level and sample.
at::Tensor score_difference_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                                 const std::vector<std::uint64_t>& items, const at::Tensor& present,
                                 const EvidenceOptions& options = {});
/// The same for each of the model's F findings alone, K = F.
at::Tensor score_difference_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                                 const std::vector<std::uint64_t>& items, std::int64_t findings,
                                 const EvidenceOptions& options = {});

/// evidence_maps and score_difference_maps of the same arguments from the same evaluations, 2 K + 1 a level and sample
/// instead of 3 K + 1, all in one batch: [2, B, K, H, W], evidence first. Both equal the maps of those functions up to
/// rounding.
at::Tensor evidence_and_score_difference_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule,
                                              const at::Tensor& x, const std::vector<std::uint64_t>& items,
                                              const at::Tensor& present, const EvidenceOptions& options = {});

}  // namespace daug
