// Steps make of the parts of a guided estimate what they make of the estimate itself.

#include <ATen/ATen.h>

#include <memory>
#include <utility>
#include <vector>

#include "daug/backend/guided_noise.h"
#include "daug/translator/bdia_solver.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/dpm_solver.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("solvers make of an estimate's parts what they make of the guided estimate", "[solver][guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto levels = schedule.level_path(400, 6);
  const std::vector<std::shared_ptr<const Solver>> solvers = {
      std::make_shared<DdimSolver>(), std::make_shared<DdimSolver>(DdimSolverOptions{1, 0, 0.5, 3, {4, 5, 6}}),
      std::make_shared<DpmSolver>(), std::make_shared<DpmSolver>(DpmSolverOptions{3}), std::make_shared<BdiaSolver>()};
  const StepDone nothing = [](std::int64_t, std::int64_t, at::Tensor&) {};
  for (const auto& [type, tolerance] : {std::pair{at::kDouble, 1e-10}, {at::kFloat, 1e-2}})
    for (const bool from_second : {false, true}) {
      const at::Tensor x = random_tensor({3, 2, 4, 5}, 3).to(type);
      const at::Tensor strength = at::tensor({1.0, 0.25, 2.0}).reshape({3, 1, 1, 1}).to(type);
      const auto first = [](const at::Tensor& state, std::int64_t level) {
        return 0.4 * at::sin(3 * state) + 0.0004 * static_cast<double>(level);
      };
      const auto second = [](const at::Tensor& state) { return 0.3 * at::cos(2 * state); };
      const NoiseEstimate parts = [&](const at::Tensor& state, std::int64_t level) {
        GuidedNoise noise = first(state, level);
        noise.second = second(state), noise.weight = 0.5, noise.from_second = from_second;
        noise.gradient = at::tanh(state), noise.gradient_weight = 0.3, noise.strength = strength;
        return noise;
      };
      const NoiseEstimate whole = [&](const at::Tensor& state, std::int64_t level) {
        const at::Tensor apart = first(state, level) - second(state);
        const at::Tensor base = from_second ? second(state) : first(state, level);
        return base + strength * (0.5 * apart - 0.3 * at::tanh(state));
      };
      INFO(type << ", from second " << from_second);
      CHECK(largest_difference(combined(x, parts(x, 200)), whole(x, 200).first) < tolerance);
      CHECK(same_bits(combined(x, whole(x, 200)), whole(x, 200).first));
      for (const auto& solver : solvers) {
        INFO(solver->name());
        const at::Tensor latent = solver->encode(schedule, levels, x, whole, nothing);
        CHECK(largest_difference(solver->encode(schedule, levels, x, parts, nothing), latent) < tolerance);
        const at::Tensor image = solver->decode(schedule, levels, latent, whole, nothing);
        CHECK(largest_difference(solver->decode(schedule, levels, latent, parts, nothing), image) < tolerance);
        // `first` alone leads elsewhere: that the two agree is not for want of a pull.
        CHECK(largest_difference(solver->decode(schedule, levels, latent, first, nothing), image) > 1e-1);
      }
    }
}
