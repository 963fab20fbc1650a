#pragma once
/// @file
/// The translation loop of published anomaly-detection code, with its deviations, for comparing with maps made by it.

#include <cstdint>

#include "daug/translator/guidance.h"
#include "daug/translator/noise_predictor.h"
#include "daug/translator/solver.h"

namespace daug {

/// Settings of published_translation; the defaults are the published script's.
struct PublishedLoopOptions {
  std::int64_t noise_level = 500;  ///< N: index at which encoding ends, in [2, schedule steps - 1]
  double classifier_scale = 100;   ///< factor of the classifier's gradient, in [0, 10000]

  /// Throws kInvalidArgument naming the first option out of range.
  void validate(const NoiseSchedule& schedule) const;
};

/// Encodes x [B, C, H, W] and decodes it towards `condition` [B, F] as JuliaWolleb/diffusion-anomaly does (commit
/// 509643c3, MIT; method of arXiv 2203.04306). Use DiffusionTranslator for anything but comparison: here
///
/// - the image first gets random noise `fresh` (standard normal, shape of x) as of index 0, level 1;
/// - encoding runs indices 1 .. N-1 on a state that is one level lower, so it ends at level N + 1;
/// - decoding starts at index N-2, level N-1, with the state of level N + 1, and ends clean;
/// - with a respaced schedule the classifier is asked at the bare index: make `classifier` with the full schedule.
///
/// The published default also clips: hand in make_clipping_predictor. With its `class_cond` the denoiser is told the
/// target's class, on the way up as well: hand in `condition` as `denoiser_condition` too (undefined: it is told
/// nothing). Both may lie on the CPU whatever device x is on. `done` sees the N-1 encode steps, then the N-1 decode
/// steps. Returns the translated image; how much of its change the loop makes without any target
/// published_reconstruction tells. States and result are of the dtype of x, which is the predictor's. Deterministic, on
/// a device but for the order in which the classifier's gradient is added up (deterministically).
///
/// Throws, before any network call, kInvalidArgument for options, images (require_images), `fresh` and states other
/// than -1, 0 and 1, kMismatch for states of other findings than the classifier's and for a predictor of another
/// schedule (of the classifier's only that it has the levels up to N-1, see above), and what NoisePredictor::prepared
/// throws; kNumeric with step, level and scale when a value becomes non-finite; and what the calls of predictor and
/// classifier throw.
at::Tensor published_translation(const NoisePredictor& predictor, const NoiseSchedule& schedule,
                                 const GuidanceClassifier& classifier, const at::Tensor& x, const at::Tensor& fresh,
                                 const at::Tensor& condition, const PublishedLoopOptions& options = {},
                                 const StepDone& done = {}, const at::Tensor& denoiser_condition = {});

/// The round trip of the published loop: x encoded as published_translation does and decoded along the same levels
/// without the classifier; round_trip_residual tells how far from x that ends. One for all targets of an image, and a
/// function of its own, because the loop's decoding is pulled from its first step on, so that nothing it evaluates
/// serves a round trip: this costs the 2 (N-1) denoiser evaluations of a translation. Arguments, result and errors are
/// those of published_translation.
at::Tensor published_reconstruction(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                                    const at::Tensor& fresh, const PublishedLoopOptions& options = {},
                                    const at::Tensor& denoiser_condition = {});

}  // namespace daug
