#pragma once
/// @file
/// DPM-Solver++, multistep, of first to third order.

#include <utility>
#include <vector>

#include "daug/translator/solver.h"

namespace daug {

/// Settings of DpmSolver.
struct DpmSolverOptions {
  std::int64_t order = 2;  ///< evaluations a step extrapolates from, in [1, 3]; 1 is DDIM
  bool heun = false;       ///< steps of second order in the form of Heun's method, not of the midpoint; order 2 or 3

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// The steps of one walk in either direction, each extrapolating the predicted clean image from its own evaluation and
/// those of the steps before (arXiv 2211.01095, algorithm 2; third order and Heun's form as in diffusers'
/// DPMSolverMultistepScheduler, with which golden outputs agree).
class DpmSteps {
 public:
  /// Before the first step. `schedule` must outlive it. Throws what DpmSolverOptions::validate throws.
  DpmSteps(const NoiseSchedule& schedule, DpmSolverOptions options);

  /// x at level `to` for x at `from` and its noise estimate. The order is at most `highest`, what went before allows,
  /// and 1 at a step from or to level 0, where the logarithm of the signal-to-noise ratio has no end.
  at::Tensor step(const at::Tensor& x, const GuidedNoise& noise, std::int64_t from, std::int64_t to,
                  std::int64_t highest = 3);

 private:
  const NoiseSchedule& schedule_;
  DpmSolverOptions options_;
  std::vector<std::pair<double, at::Tensor>> before_;  ///< (log-SNR / 2, clean image), latest first
};

/// Walks along DpmSteps. Encoding runs the same rule upwards, so it is cheap and accurate but *not* the algebraic
/// inverse of decoding: a round-trip error of the order of the step stays.
class DpmSolver final : public Solver {
 public:
  /// Throws what DpmSolverOptions::validate throws.
  explicit DpmSolver(DpmSolverOptions options = {});

  const char* name() const override { return "dpm"; }
  int images_held_later() const override { return options_.order == 1 ? 0 : 8; }
  std::int64_t encode_evaluations(std::int64_t steps) const override { return steps; }
  std::int64_t decode_evaluations(std::int64_t steps) const override { return steps; }
  at::Tensor encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& image,
                    const NoiseEstimate& noise, const StepDone& done) const override;
  at::Tensor decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& latent,
                    const NoiseEstimate& noise, const StepDone& done) const override;

 private:
  DpmSolverOptions options_;
};

}  // namespace daug
