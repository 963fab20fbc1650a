#include "daug/translator/bdia_solver.h"

#include <ATen/ATen.h>

#include "daug/core/error.h"

namespace daug {

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
    const GuidedNoise eps = noise(current, levels[i]);
    const at::Tensor down = transition(schedule, current, eps, levels[i], levels[i - 1]);
    const at::Tensor up = transition(schedule, current, eps, levels[i], levels[i + 1]);
    at::Tensor above = up + (below - down) / options_.gamma;
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
    const GuidedNoise eps = noise(current, levels[i]);
    const at::Tensor down = transition(schedule, current, eps, levels[i], levels[i - 1]);
    const at::Tensor up = transition(schedule, current, eps, levels[i], levels[i + 1]);
    at::Tensor below = down + options_.gamma * (above - up);
    done(static_cast<std::int64_t>(levels.size() - i), levels[i - 1], below);
    above = current;
    current = below;
  }
  return current;
}

}  // namespace daug
