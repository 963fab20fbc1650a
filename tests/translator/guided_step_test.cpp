// Steps make of the parts of a guided estimate what they make of the estimate itself.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "backend/fused_ops.h"
#include "daug/backend/guided_noise.h"
#include "daug/translator/bdia_solver.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/dpm_solver.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"
#include "translator/transition_step.h"

using namespace daug;
using namespace daug::test;

namespace {

/// DDIM whose steps are the kernel's or LibTorch's operators', as one says.
class StepsBy final : public Solver {
 public:
  explicit StepsBy(Execution execution) : execution_(execution) {}
  const char* name() const override { return "steps by one implementation"; }
  std::int64_t encode_evaluations(std::int64_t steps) const override { return steps; }
  std::int64_t decode_evaluations(std::int64_t steps) const override { return steps; }
  at::Tensor encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& image,
                    const NoiseEstimate& noise, const StepDone& done) const override {
    return walked(schedule, levels, image, noise, done);
  }
  at::Tensor decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& latent,
                    const NoiseEstimate& noise, const StepDone& done) const override {
    return walked(schedule, {levels.rbegin(), levels.rend()}, latent, noise, done);
  }

 private:
  at::Tensor walked(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, at::Tensor x,
                    const NoiseEstimate& noise, const StepDone& done) const {
    for (std::size_t i = 1; i < levels.size(); ++i) {
      const backend::SolverStep step = daug::detail::transition_step(schedule, levels[i - 1], levels[i]);
      x = backend::solver_update(x, noise(x, levels[i - 1]), step, execution_);
      done(static_cast<std::int64_t>(i), levels[i], x);
    }
    return x;
  }

  Execution execution_;
};

/// A translation by contrast and a classifier, with strengths, whose steps are the kernel's and the operators'.
void check_steps_of_walk(const at::Device& device) {
  const auto schedule = NoiseSchedule::linear(1000);
  auto denoiser = tiny_unet(tiny_options());
  denoiser->to(at::kFloat);
  denoiser->to(device);
  NoiseAwareClassifier classifier(tiny_classifier_options(ClassifierPool::kAttention));
  randomise(*classifier, 4, 0.3);
  classifier->to(device);
  const auto predictor = make_noise_predictor(denoiser, schedule, Prediction::kV);
  const auto guide = make_guidance_classifier(classifier, schedule);
  const at::Tensor x = (0.3 * random_tensor({3, 1, 8, 8}, 7)).clamp(-1, 1).to(at::kFloat).to(device);
  const auto images = [&](Execution steps, double scale = 20) {
    TranslatorOptions options = path_options(100, 4);
    options.solver = std::make_shared<StepsBy>(steps);
    options.guidance.classifier_scale = scale;
    return DiffusionTranslator(predictor, schedule, {"a", "b", "c"}, options, guide)
        .translate(x, {{"a", true, 0.5}, {"b", false, 2}})
        .images;
  };
  const at::Tensor expected = images(Execution::kReference);
  const double tolerance = 1e-4 * expected.abs().max().item<double>();
  CHECK(largest_difference(images(Execution::kFused), expected) <= tolerance);
  CHECK(largest_difference(images(Execution::kReference, 0), expected) > tolerance);  // the guide has its say
}

}  // namespace

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

TEST_CASE("a walk by the kernel for steps ends where one by operators does", "[solver][guidance]") {
  check_steps_of_walk(at::kCPU);
}

TEST_CASE("a walk on a device by the kernel for steps ends where one by operators does", "[solver][gpu]") {
  if (!no_device()) check_steps_of_walk({at::kCUDA, 0});
}
