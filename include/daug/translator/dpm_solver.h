#pragma once
/// @file
/// DPM-Solver++ of second order, multistep.

#include "daug/translator/solver.h"

namespace daug {

/// DPM-Solver++(2M), midpoint form (arXiv 2211.01095, algorithm 2), walked in either direction.
///
/// Each step extrapolates the predicted clean image from this evaluation and the one before; the first step and the
/// step that ends at level 0 are of first order, which is DDIM's transition. Encoding runs the same rule upwards, so it
/// is cheap and accurate but *not* the algebraic inverse of decoding: a round-trip error of the order of the step
/// stays. Agrees with diffusers' DPMSolverMultistepScheduler (order 2, midpoint) on its golden outputs.
class DpmSolver final : public Solver {
 public:
  const char* name() const override { return "dpm"; }
  std::int64_t encode_evaluations(std::int64_t steps) const override { return steps; }
  std::int64_t decode_evaluations(std::int64_t steps) const override { return steps; }
  at::Tensor encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& image,
                    const NoiseEstimate& noise, const StepDone& done) const override;
  at::Tensor decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& latent,
                    const NoiseEstimate& noise, const StepDone& done) const override;

  /// The walk itself, along levels in the order given (up or down). Public because samplers start anywhere: `levels`
  /// need not contain 0.
  static at::Tensor walk(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, at::Tensor x,
                         const NoiseEstimate& noise, const StepDone& done);
};

}  // namespace daug
