#pragma once
/// @file
/// Solvers of the probability-flow ODE: how an image walks between noise levels. One header a solver; this one holds
/// what they share.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daug/backend/guided_noise.h"
#include "daug/translator/noise_schedule.h"

namespace daug {

/// Noise estimate eps(x, level) in the shape of x, whatever conditions and guidance stand behind it: a tensor, or the
/// parts of a guided one.
using NoiseEstimate = std::function<GuidedNoise(const at::Tensor& x, std::int64_t level)>;

/// Called after every step with its number (from 1), the level reached and the state there. It may replace the state
/// (by one of the same shape and dtype), and throw to end a walk.
using StepDone = std::function<void(std::int64_t step, std::int64_t level, at::Tensor& x)>;

/// The estimate that the parts make, in shape and dtype of x [B, C, H, W].
at::Tensor combined(const at::Tensor& x, const GuidedNoise& noise);

/// The clean image, in the shape of x, that `noise` in x at a level implies: (x - sqrt(1-abar) noise) / sqrt(abar).
/// Throws kInvalidArgument, like the two below, for a level that the schedule lacks.
at::Tensor clean_estimate(const NoiseSchedule& schedule, const at::Tensor& x, const GuidedNoise& noise,
                          std::int64_t level);

/// The forward process, in the shape of clean: sqrt(abar) clean + sqrt(1-abar) noise.
at::Tensor noised(const NoiseSchedule& schedule, const at::Tensor& clean, const at::Tensor& noise, std::int64_t level);

/// One deterministic transition between any two levels (DDIM with eta 0, arXiv 2010.02502 equation 12):
/// x_b = sqrt(abar_b) (x_a - sqrt(1-abar_a) eps) / sqrt(abar_a) + sqrt(1-abar_b) eps. Same shape and dtype as x.
at::Tensor transition(const NoiseSchedule& schedule, const at::Tensor& x, const GuidedNoise& noise, std::int64_t from,
                      std::int64_t to);

/// A way to walk along levels, up to a latent and back down. Deterministic; const members may run in parallel.
///
/// `levels` rise strictly from 0; a walk makes levels.size() - 1 steps. A latent has `states()` states of C channels
/// side by side, [B, states() * C, H, W]: the state at the top first, then what the solver remembers from below it.
class Solver {
 public:
  /// Implementations may be destroyed as this.
  virtual ~Solver() = default;

  /// Short name as settings give it.
  virtual const char* name() const = 0;
  /// States that make up a latent.
  virtual std::int64_t states() const { return 1; }
  /// Images that its later steps hold beside those of the first, at most. DiffusionTranslator keeps room for so many
  /// during the first noise estimate, so that later steps take no new memory where `reuse_tensor_memory()` was called.
  virtual int images_held_later() const { return 0; }
  /// Noise estimates an item costs in a walk of `steps` steps; for encode the most it may cost.
  virtual std::int64_t encode_evaluations(std::int64_t steps) const = 0;
  /// The same of decode.
  virtual std::int64_t decode_evaluations(std::int64_t steps) const = 0;

  /// Image [B, C, H, W] -> latent. `noise` sees level 0 where the walk starts.
  virtual at::Tensor encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                            const at::Tensor& image, const NoiseEstimate& noise, const StepDone& done) const = 0;
  /// Latent -> image [B, C, H, W]. `noise` may differ from that of encode: that is what translation is.
  virtual at::Tensor decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                            const at::Tensor& latent, const NoiseEstimate& noise, const StepDone& done) const = 0;
};

/// The solver of a settings file: "ddim" (with `evaluations` an encode step, or fewer by `tolerance`:
/// DdimSolverOptions), "dpm" or "bdia". Throws kInvalidArgument.
std::shared_ptr<const Solver> make_solver(const std::string& name, std::int64_t evaluations = 2, double tolerance = 0);

}  // namespace daug
