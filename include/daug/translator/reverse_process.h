#pragma once
/// @file
/// The stochastic side of a diffusion model: the distribution of one denoising step, its guidance, and a draw from it.

#include <ATen/core/Tensor.h>

#include <string_view>

#include "daug/translator/noise_predictor.h"
#include "daug/translator/noise_schedule.h"

namespace daug {

/// Where the variance of a denoising step comes from.
enum class VarianceKind {
  kFixedSmall,    ///< the posterior's, given the clean image (a lower bound)
  kFixedLarge,    ///< beta (an upper bound), the posterior's of timestep 1 at timestep 0
  kLearned,       ///< its logarithm is the network's second half of channels
  kLearnedRange,  ///< the second half of channels, from -1 to 1, interpolates between the logarithms of the bounds
};

/// "fixed_small", "fixed_large", "learned" or "learned_range"; throws kInvalidArgument otherwise.
VarianceKind variance_kind(std::string_view name);

/// Whether a network of this kind outputs 2C channels.
bool is_learned(VarianceKind kind);

/// The Gaussian p(x_{t-1} | x_t) of every item of a batch; all tensors [B, C, H, W].
struct ReverseDistribution {
  at::Tensor mean;          ///< of x_{t-1}
  at::Tensor variance;      ///< of x_{t-1}; 0 at level 1 with kFixedSmall
  at::Tensor log_variance;  ///< its logarithm; at level 1 that of level 2 where the variance is 0
  at::Tensor clean;         ///< the clean image the network implies
};

/// The step from `levels` [B] (int64, in [1, steps]), one level below each item's, that a network's `output` describes.
///
/// output [B, C, H, W], or [B, 2C, H, W] for a learned variance; x [B, C, H, W] is what the network saw. With `clip`
/// the clean image is held in [-1, 1] first. Differentiable. Throws kInvalidArgument. Source: DDPM (arXiv 2006.11239)
/// equations 6 and 7, improved DDPM (arXiv 2102.09672) equation 15; `p_mean_variance` of openai/guided-diffusion,
/// which it equals on golden outputs.
ReverseDistribution reverse_distribution(const NoiseSchedule& schedule, const at::Tensor& output, const at::Tensor& x,
                                         const at::Tensor& levels, Prediction prediction, VarianceKind variance,
                                         bool clip = false);

/// p with its mean moved along `gradient` [B, C, H, W] of a log-likelihood (arXiv 2105.05233 algorithm 1): what
/// ancestral sampling is guided by. clean is left as it was.
ReverseDistribution guided_by_mean(ReverseDistribution p, const at::Tensor& gradient);

/// p with `gradient` of a log-likelihood taken into the noise estimate (arXiv 2105.05233 algorithm 2): what
/// deterministic sampling is guided by. Clean image and mean follow; the variance stays. x, levels and errors as
/// reverse_distribution.
ReverseDistribution guided_by_score(const NoiseSchedule& schedule, ReverseDistribution p, const at::Tensor& x,
                                    const at::Tensor& levels, const at::Tensor& gradient);

/// The noise estimate [B, C, H, W] that stands behind p.clean: (x - sqrt(abar) clean) / sqrt(1-abar). x, levels and
/// errors as reverse_distribution.
at::Tensor implied_noise(const NoiseSchedule& schedule, const ReverseDistribution& p, const at::Tensor& x,
                         const at::Tensor& levels);

/// A draw from p [B, C, H, W] with `fresh` standard normal noise of that shape; its mean for items whose `levels` [B]
/// are 1, which end clean.
at::Tensor ancestral_step(const ReverseDistribution& p, const at::Tensor& levels, const at::Tensor& fresh);

}  // namespace daug
