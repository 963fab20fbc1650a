#include "daug/translator/dpm_solver.h"

#include <ATen/ATen.h>

#include <cmath>

namespace daug {

namespace {

/// Half the logarithm of the signal-to-noise ratio; infinite at level 0.
double log_snr(const NoiseSchedule& schedule, std::int64_t level) {
  return std::log(schedule.signal(level) / schedule.noise(level));
}

}  // namespace

at::Tensor DpmSolver::walk(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, at::Tensor x,
                           const NoiseEstimate& noise, const StepDone& done) {
  at::Tensor clean_before;  // predicted at the level before, where that has a finite log_snr
  double step_before = 0;
  for (std::size_t i = 1; i < levels.size(); ++i) {
    const std::int64_t from = levels[i - 1], to = levels[i];
    const at::Tensor eps = noise(x, from);
    const at::Tensor clean = (x - schedule.noise(from) * eps) / schedule.signal(from);
    const double step = log_snr(schedule, to) - log_snr(schedule, from);
    const bool bounded = std::isfinite(step);
    if (bounded && clean_before.defined()) {
      const at::Tensor slope = (clean - clean_before) * (step / (2 * step_before));
      const double keep = schedule.noise(to) / schedule.noise(from);
      x = at::add(keep * x, clean + slope, -schedule.signal(to) * std::expm1(-step));
    } else {
      x = transition(schedule, x, eps, from, to);
    }
    clean_before = bounded ? clean : at::Tensor();
    step_before = step;
    done(static_cast<std::int64_t>(i), to, x);
  }
  return x;
}

at::Tensor DpmSolver::encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                             const at::Tensor& image, const NoiseEstimate& noise, const StepDone& done) const {
  return walk(schedule, levels, image, noise, done);
}

at::Tensor DpmSolver::decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                             const at::Tensor& latent, const NoiseEstimate& noise, const StepDone& done) const {
  return walk(schedule, {levels.rbegin(), levels.rend()}, latent, noise, done);
}

}  // namespace daug
