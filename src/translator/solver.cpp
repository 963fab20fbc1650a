#include "daug/translator/solver.h"

#include <ATen/ATen.h>

#include "backend/fused_ops.h"
#include "daug/core/error.h"
#include "daug/translator/bdia_solver.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/dpm_solver.h"
#include "transition_step.h"

namespace daug {

at::Tensor combined(const at::Tensor& x, const GuidedNoise& noise) {
  const bool whole = !noise.second.defined() && !noise.gradient.defined();
  return whole ? noise.first : backend::solver_update(x, noise, {0, 1});
}

at::Tensor clean_estimate(const NoiseSchedule& schedule, const at::Tensor& x, const GuidedNoise& noise,
                          std::int64_t level) {
  const double signal = schedule.signal(level);
  return backend::solver_update(x, noise, {1 / signal, -schedule.noise(level) / signal});
}

at::Tensor noised(const NoiseSchedule& schedule, const at::Tensor& clean, const at::Tensor& noise, std::int64_t level) {
  return schedule.signal(level) * clean + schedule.noise(level) * noise;
}

at::Tensor transition(const NoiseSchedule& schedule, const at::Tensor& x, const GuidedNoise& noise, std::int64_t from,
                      std::int64_t to) {
  return backend::solver_update(x, noise, detail::transition_step(schedule, from, to));
}

std::shared_ptr<const Solver> make_solver(const std::string& name, std::int64_t evaluations, double tolerance) {
  if (name == "ddim") return std::make_shared<DdimSolver>(DdimSolverOptions{evaluations, tolerance});
  if (name == "dpm") return std::make_shared<DpmSolver>();
  if (name == "bdia") return std::make_shared<BdiaSolver>();
  fail(ErrorCode::kInvalidArgument, "daug::make_solver", "name", "\"ddim\", \"dpm\" or \"bdia\"", name);
}

}  // namespace daug
