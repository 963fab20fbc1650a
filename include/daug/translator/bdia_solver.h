#pragma once
/// @file
/// BDIA: an algebraically reversible solver.

#include "daug/translator/solver.h"

namespace daug {

/// Settings of BdiaSolver.
struct BdiaSolverOptions {
  /// Weight of the backward half step, in (0, 1]. 1 is exactly time-symmetric. Below 1 decoding is damped, and encoding
  /// multiplies rounding errors by 1 / gamma a step.
  double gamma = 1.0;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Bi-directional integration approximation (arXiv 2307.10829, equation 17). With D_j(x_i) the DDIM transition of x_i
/// to level j, all from the one estimate eps(x_i):
///
///     x_{i-1} = gamma (x_{i+1} - D_{i+1}(x_i)) + D_{i-1}(x_i)
///
/// Solved for x_{i+1} the same equation encodes, so decoding without a target returns the image up to rounding,
/// whatever the network and however few the steps. One evaluation a step both ways. The latent has two states, the top
/// one and the one below; the first encode step is DDIM's.
class BdiaSolver final : public Solver {
 public:
  /// Throws what BdiaSolverOptions::validate throws.
  explicit BdiaSolver(BdiaSolverOptions options = {});

  const char* name() const override { return "bdia"; }
  std::int64_t states() const override { return 2; }
  int images_held_later() const override { return 8; }
  std::int64_t encode_evaluations(std::int64_t steps) const override { return steps; }
  std::int64_t decode_evaluations(std::int64_t steps) const override { return steps - 1; }
  at::Tensor encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& image,
                    const NoiseEstimate& noise, const StepDone& done) const override;
  at::Tensor decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& latent,
                    const NoiseEstimate& noise, const StepDone& done) const override;

 private:
  BdiaSolverOptions options_;
};

}  // namespace daug
