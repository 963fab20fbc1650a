#pragma once
/// @file
/// DDIM, with its decoder inverted by fixed-point iteration.

#include "daug/translator/solver.h"

namespace daug {

/// One DDIM step with fresh noise (arXiv 2010.02502 equations 12 and 16): `transition` when eta is 0, the ancestral
/// step of DDPM when it is 1. `fresh` is standard normal, in the shape of x. from > to, eta in [0, 1]: else
/// kInvalidArgument.
at::Tensor ddim_step(const NoiseSchedule& schedule, const at::Tensor& x, const at::Tensor& noise,
                     const at::Tensor& fresh, std::int64_t from, std::int64_t to, double eta);

/// Settings of DdimSolver.
struct DdimSolverOptions {
  std::int64_t evaluations = 2;  ///< most evaluations an encode step: 1 plain, 2 and more fixed-point, in [1, 100]
  double tolerance = 0;          ///< ends an item whose largest change is below this, in [0, 1e3]; 0: none
  double eta = 0;                ///< share of DDPM's noise in a decode step, in [0, 1]; 0: none is drawn
  std::uint64_t seed = 0;        ///< fixes that noise, with an image's id
  std::vector<std::uint64_t> items = {};  ///< ids of the images that are walked, in order; with eta > 0 alone

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// First order: one `transition` a step (arXiv 2010.02502). The plain encode step evaluates eps at its near end, where
/// decoding will not; every further evaluation solves the decode equation for the far end by one fixed-point
/// iteration. With a tolerance each item keeps the value at which it converged, so it does not depend on its batch.
///
/// With eta > 0 decoding draws fresh noise (ddim_step), a function of seed, id and level alone, whatever the batch; the
/// targets of one image share theirs, so that their maps differ by the targets. Encoding stays that of eta 0, of which
/// such a decoder is no inverse: Translation::residual has the noise in it. `encode` throws kInvalidArgument for
/// another number of images than ids, `decode` for a number of latents that is no multiple of theirs.
class DdimSolver final : public Solver {
 public:
  /// Throws what DdimSolverOptions::validate throws.
  explicit DdimSolver(DdimSolverOptions options = {});

  const char* name() const override { return "ddim"; }
  std::int64_t encode_evaluations(std::int64_t steps) const override { return steps * options_.evaluations; }
  std::int64_t decode_evaluations(std::int64_t steps) const override { return steps; }
  at::Tensor encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& image,
                    const NoiseEstimate& noise, const StepDone& done) const override;
  at::Tensor decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& latent,
                    const NoiseEstimate& noise, const StepDone& done) const override;

 private:
  DdimSolverOptions options_;
};

}  // namespace daug
