#pragma once
/// @file
/// What a denoiser is trained on: squared error, variational bound and their hybrid, with weights by noise level.

#include <ATen/core/Tensor.h>

#include <string_view>

#include "daug/translator/reverse_process.h"

namespace daug {

/// What is minimised.
enum class DenoisingObjective {
  kMse,          ///< squared error; with a learned variance plus the bound, which reaches the variance only
  kRescaledMse,  ///< the same with the bound scaled by steps / 1000 (L_hybrid of arXiv 2102.09672)
  kKl,           ///< the variational bound alone, in bits a dimension
  kRescaledKl,   ///< the bound times the number of steps, so that its mean over levels estimates the sum
};

/// "mse", "rescaled_mse", "kl" or "rescaled_kl"; throws kInvalidArgument otherwise.
DenoisingObjective denoising_objective(std::string_view name);

/// Settings of denoising_loss.
struct DenoisingLossOptions {
  Prediction prediction = Prediction::kV;                   ///< what the network outputs
  VarianceKind variance = VarianceKind::kFixedLarge;        ///< and whether it outputs a variance
  DenoisingObjective objective = DenoisingObjective::kMse;  ///< what is minimised
  double min_snr = 0;  ///< gamma of min-SNR weighting of the squared error (arXiv 2303.09556), in [0, 1e6]; 0 = none

  /// Throws kInvalidArgument naming the first option out of range or that does not go with the others.
  void validate() const;
};

/// Terms [B], one value an item; undefined where the objective has none.
struct DenoisingLoss {
  at::Tensor loss;   ///< what to minimise
  at::Tensor error;  ///< mean squared error of the prediction, unweighted
  at::Tensor bound;  ///< term of the variational bound in bits a dimension, scaled as the objective says
};

/// What a network of this kind should output for items that are `clean` [B, C, H, W] under `noise` at `levels` [B]:
/// noise, clean image, v, or the posterior's mean. Throws kInvalidArgument for levels of another shape or out of range.
at::Tensor prediction_target(const NoiseSchedule& schedule, Prediction prediction, const at::Tensor& clean,
                             const at::Tensor& noise, const at::Tensor& levels);

/// Loss of a network's `output` for `noisy` = signal clean + deviation noise at `levels` [B] (int64, in [1, steps]).
///
/// Differentiable in output. Equals `training_losses` of openai/guided-diffusion on golden outputs; min-SNR weights
/// are those of arXiv 2303.09556, section 3.4: min(snr, gamma) over snr (eps), 1 (x0) or snr + 1 (v). Throws
/// kInvalidArgument for options, levels, an output of other channels, and a prediction that says nothing of the image
/// at the schedule's end (require_predictable).
DenoisingLoss denoising_loss(const NoiseSchedule& schedule, const DenoisingLossOptions& options,
                             const at::Tensor& output, const at::Tensor& clean, const at::Tensor& noisy,
                             const at::Tensor& noise, const at::Tensor& levels);

/// Term of the variational bound [B] in bits a dimension: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), at level 1
/// the negative log-likelihood of the image in 256 grey levels (arXiv 2006.11239 equations 5 and 13). Throws
/// kInvalidArgument for levels as prediction_target.
at::Tensor bound_term(const NoiseSchedule& schedule, const ReverseDistribution& p, const at::Tensor& clean,
                      const at::Tensor& noisy, const at::Tensor& levels);

/// KL(q(x_T | x_0) || N(0, 1)) [B] in bits a dimension: what the bound loses by starting from pure noise.
at::Tensor prior_term(const NoiseSchedule& schedule, const at::Tensor& clean);

}  // namespace daug
