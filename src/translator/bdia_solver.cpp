#include "daug/translator/bdia_solver.h"

#include <ATen/ATen.h>

#include "daug/core/error.h"
#include "transition_step.h"

namespace daug {

namespace {

/// x at level `from` moved to `to`, and by `weight` times how far the state remembered of level `other` is from x moved
/// there, all by the one estimate.
at::Tensor reversible_step(const NoiseSchedule& schedule, const at::Tensor& x, const GuidedNoise& noise,
                           std::int64_t from, std::int64_t to, std::int64_t other, const at::Tensor& remembered,
                           double weight) {
  const backend::SolverStep there = detail::transition_step(schedule, from, to),
                            back = detail::transition_step(schedule, from, other);
  return backend::solver_update(x, noise,
                                {there.keep - weight * back.keep, there.add - weight * back.add, remembered, weight});
}

}  // namespace

void BdiaSolverOptions::validate() const {
  require(gamma > 0 && gamma <= 1, "daug::BdiaSolverOptions", "gamma", "a value in (0, 1]", gamma);
}

BdiaSolver::BdiaSolver(BdiaSolverOptions options) : options_(options) { options_.validate(); }

at::Tensor BdiaSolver::encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                              const at::Tensor& image, const NoiseEstimate& noise, const StepDone& done) const {
  at::Tensor below = image;
  at::Tensor current = transition(schedule, below, noise(below, levels[0]), levels[0], levels[1]);
  done(1, levels[1], current);
  for (std::size_t i = 1; i + 1 < levels.size(); ++i) {
    at::Tensor above = reversible_step(schedule, current, noise(current, levels[i]), levels[i], levels[i + 1],
                                       levels[i - 1], below, 1 / options_.gamma);
    done(static_cast<std::int64_t>(i) + 1, levels[i + 1], above);
    below = current;
    current = above;
  }
  return at::cat({current, below}, 1);
}

at::Tensor BdiaSolver::decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                              const at::Tensor& latent, const NoiseEstimate& noise, const StepDone& done) const {
  const auto parts = latent.chunk(2, 1);
  at::Tensor above = parts[0].contiguous(), current = parts[1].contiguous();
  done(1, levels[levels.size() - 2], current);
  for (std::size_t i = levels.size() - 2; i > 0; --i) {
    at::Tensor below = reversible_step(schedule, current, noise(current, levels[i]), levels[i], levels[i - 1],
                                       levels[i + 1], above, options_.gamma);
    done(static_cast<std::int64_t>(levels.size() - i), levels[i - 1], below);
    above = current;
    current = below;
  }
  return current;
}

}  // namespace daug
