#include "daug/translator/ddim_solver.h"

#include <ATen/ATen.h>

#include <cmath>

#include "daug/core/error.h"
#include "item_noise_like.h"

namespace daug {

at::Tensor ddim_step(const NoiseSchedule& schedule, const at::Tensor& x, const at::Tensor& noise,
                     const at::Tensor& fresh, std::int64_t from, std::int64_t to, double eta) {
  constexpr const char* kFunction = "daug::ddim_step";
  require(to < from, kFunction, "to", detail::concat("a level below ", from), to);
  require_range(eta, 0.0, 1.0, kFunction, "eta");
  const double above = schedule.abar(from), below = schedule.abar(to);
  const double sigma = eta * std::sqrt((1 - below) / (1 - above) * (1 - above / below));
  const at::Tensor clean = clean_estimate(schedule, x, noise, from);
  return schedule.signal(to) * clean + std::sqrt(1 - below - sigma * sigma) * noise + sigma * fresh;
}

void DdimSolverOptions::validate() const {
  require_range(evaluations, 1, 100, "daug::DdimSolverOptions", "evaluations");
  require_range(tolerance, 0.0, 1e3, "daug::DdimSolverOptions", "tolerance");
  require_range(eta, 0.0, 1.0, "daug::DdimSolverOptions", "eta");
  require(items.empty() == (eta == 0), "daug::DdimSolverOptions", "items",
          eta == 0 ? "none without noise" : "the ids of the images, which fix their noise", items.size());
}

DdimSolver::DdimSolver(DdimSolverOptions options) : options_(std::move(options)) { options_.validate(); }

at::Tensor DdimSolver::encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                              const at::Tensor& image, const NoiseEstimate& noise, const StepDone& done) const {
  const auto items = static_cast<std::int64_t>(options_.items.size());
  require(items == 0 || image.size(0) == items, "daug::DdimSolver::encode", "image", detail::concat(items, " images"),
          image.size(0));
  at::Tensor current = image.clone();  // walks hold as much memory in their first step as in those that follow
  for (std::size_t i = 1; i < levels.size(); ++i) {
    const std::int64_t from = levels[i - 1], to = levels[i];
    at::Tensor next = transition(schedule, current, noise(current, from), from, to);
    at::Tensor open;  // [B, 1, 1, 1], which items still move; undefined: all
    for (std::int64_t n = 1; n < options_.evaluations; ++n) {
      at::Tensor better = transition(schedule, current, noise(next, to), from, to);
      if (options_.tolerance > 0) {
        if (open.defined()) better = at::where(open, better, next);
        open = (better - next).abs().amax({1, 2, 3}, true).ge(options_.tolerance);
      }
      next = better;
      if (open.defined() && !open.any().item<bool>()) break;
    }
    done(static_cast<std::int64_t>(i), to, next);
    current = next;
  }
  return current;
}

at::Tensor DdimSolver::decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels,
                              const at::Tensor& latent, const NoiseEstimate& noise, const StepDone& done) const {
  const auto items = static_cast<std::int64_t>(options_.items.size());
  require(items == 0 || latent.size(0) % items == 0, "daug::DdimSolver::decode", "latent",
          detail::concat("as many rows for each of ", items, " images"), latent.size(0));
  at::Tensor x = latent.clone();  // as above
  for (std::size_t i = levels.size() - 1; i > 0; --i) {
    const std::int64_t from = levels[i], to = levels[i - 1];
    const GuidedNoise eps = noise(x, from);
    if (items == 0) {
      x = transition(schedule, x, eps, from, to);
    } else {
      const at::Tensor drawn = detail::item_noise_like(x, options_.items, options_.seed, detail::concat("ddim/", to));
      const at::Tensor fresh = drawn.repeat_interleave(x.size(0) / items, 0);
      x = ddim_step(schedule, x, combined(x, eps), fresh, from, to, options_.eta);
    }
    done(static_cast<std::int64_t>(levels.size() - i), levels[i - 1], x);
  }
  return x;
}

}  // namespace daug
