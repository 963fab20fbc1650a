#include "daug/translator/dpm_solver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "backend/fused_ops.h"
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
    // `slope` and `bend` weigh the first and the second divided difference of the clean image over log-SNR, in units of
    // this step. All is linear in the clean images, of which `now` and `last` weigh this one and the one before.
    const double r0 = (here - before_[0].first) / h;
    const double decay = std::expm1(-h), signal = schedule_.signal(to);
    const bool midpoint = order == 2 && !options_.heun;
    const double slope = midpoint ? decay / 2 : -(decay / h + 1);
    double now = decay + slope / r0, last = -slope / r0;
    at::Tensor remembered = before_[0].second;
    if (order == 3) {
      const double r1 = (before_[0].first - before_[1].first) / h;
      const double bend = (slope * r0 + (decay + h) / (h * h) - 0.5) / (r0 + r1);
      now += bend / r0, last -= bend / r0 + bend / r1;
      remembered = backend::solver_update(remembered, before_[1].second, {-signal * last, -signal * bend / r1});
    }
    const double weight = order == 3 ? 1 : -signal * last;
    result = backend::solver_update(x, clean,
                                    {schedule_.noise(to) / schedule_.noise(from), -signal * now, remembered, weight});
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
