#include "daug/translator/dpm_solver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "daug/core/error.h"

namespace daug {

namespace {

/// Half the logarithm of the signal-to-noise ratio; infinite at level 0.
double log_snr(const NoiseSchedule& schedule, std::int64_t level) {
  return std::log(schedule.signal(level) / schedule.noise(level));
}

}  // namespace

void DpmSolverOptions::validate() const {
  require_range(order, 1, 3, "daug::DpmSolverOptions", "order");
  require(!heun || order >= 2, "daug::DpmSolverOptions", "heun", "false for steps of first order alone", heun);
}

DpmSteps::DpmSteps(const NoiseSchedule& schedule, DpmSolverOptions options) : schedule_(schedule), options_(options) {
  options_.validate();
}

at::Tensor DpmSteps::step(const at::Tensor& x, const GuidedNoise& noise, std::int64_t from, std::int64_t to,
                          std::int64_t highest) {
  const at::Tensor clean = clean_estimate(schedule_, x, noise, from);
  const double here = log_snr(schedule_, from), h = log_snr(schedule_, to) - here;
  const auto order = std::min({options_.order, highest, static_cast<std::int64_t>(before_.size()) + 1});
  at::Tensor result;
  if (!std::isfinite(h) || order == 1) {
    result = transition(schedule_, x, noise, from, to);
  } else {
    // Divided differences of the clean image over log-SNR, in units of this step.
    const double r0 = (here - before_[0].first) / h;
    const double decay = std::expm1(-h);
    at::Tensor slope = (clean - before_[0].second) / r0, bend;
    if (order == 3) {
      const double r1 = (before_[0].first - before_[1].first) / h;
      const at::Tensor difference = slope - (before_[0].second - before_[1].second) / r1;
      slope = slope + r0 / (r0 + r1) * difference;
      bend = difference / (r0 + r1);
    }
    const bool midpoint = order == 2 && !options_.heun;
    at::Tensor change = decay * clean + (midpoint ? decay / 2 : -(decay / h + 1)) * slope;
    if (bend.defined()) change = change + ((decay + h) / (h * h) - 0.5) * bend;
    result = schedule_.noise(to) / schedule_.noise(from) * x - schedule_.signal(to) * change;
  }
  if (std::isfinite(here)) {
    before_.insert(before_.begin(), {here, clean});
    if (static_cast<std::int64_t>(before_.size()) >= options_.order) before_.pop_back();
  } else {
    before_.clear();
  }
  return result;
}

DpmSolver::DpmSolver(DpmSolverOptions options) : options_(options) { options_.validate(); }

at::Tensor DpmSolver::encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                             const at::Tensor& image, const NoiseEstimate& noise, const StepDone& done) const {
  DpmSteps steps(schedule, options_);
  at::Tensor x = image;
  for (std::size_t i = 1; i < levels.size(); ++i) {
    x = steps.step(x, noise(x, levels[i - 1]), levels[i - 1], levels[i]);
    done(static_cast<std::int64_t>(i), levels[i], x);
  }
  return x;
}

at::Tensor DpmSolver::decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                             const at::Tensor& latent, const NoiseEstimate& noise, const StepDone& done) const {
  DpmSteps steps(schedule, options_);
  at::Tensor x = latent;
  for (std::size_t i = levels.size() - 1; i > 0; --i) {
    x = steps.step(x, noise(x, levels[i]), levels[i], levels[i - 1]);
    done(static_cast<std::int64_t>(levels.size() - i), levels[i - 1], x);
  }
  return x;
}

}  // namespace daug
