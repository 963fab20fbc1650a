#include "daug/translator/solver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "daug/translator/bdia_solver.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/dpm_solver.h"
#include "daug/translator/reverse_process.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

void nothing(std::int64_t, std::int64_t, const at::Tensor&) {}

/// The exact noise estimate of N(mean, deviation^2) data, and where its probability-flow ODE takes a point.
struct Gaussian {
  NoiseSchedule schedule = NoiseSchedule::linear(1000);
  double mean = 0.2, deviation = 0.25;

  NoiseEstimate noise() const {
    return [predictor = GaussianPredictor(schedule, mean, deviation)](const at::Tensor& x, std::int64_t level) {
      return predictor.noise(x, level, {});
    };
  }
  double spread(std::int64_t level) const {
    const double s = schedule.signal(level) * deviation, n = schedule.noise(level);
    return std::sqrt(s * s + n * n);
  }
  at::Tensor moved(const at::Tensor& x, std::int64_t from, std::int64_t to) const {
    return schedule.signal(to) * mean + (x - schedule.signal(from) * mean) * (spread(to) / spread(from));
  }
};

/// Nothing a solver could know: bends, and differs between pixels and levels.
at::Tensor crooked(const at::Tensor& x, std::int64_t level) {
  return at::sin(3 * x) + 0.4 * x.roll(1, 3) + 0.002 * static_cast<double>(level);
}

at::Tensor images(std::int64_t batch, std::uint64_t seed) {
  return (0.4 * random_tensor({batch, 1, 4, 5}, seed)).clamp(-1, 1);
}

std::vector<std::shared_ptr<const Solver>> solvers() {
  return {std::make_shared<DdimSolver>(DdimSolverOptions{3}), std::make_shared<DpmSolver>(),
          std::make_shared<DpmSolver>(DpmSolverOptions{3}), std::make_shared<BdiaSolver>(),
          std::make_shared<BdiaSolver>(BdiaSolverOptions{0.97})};
}

}  // namespace

TEST_CASE("solvers follow the exact ODE of a Gaussian, each with its order", "[solver]") {
  const Gaussian data;
  const at::Tensor top = random_tensor({1, 1, 20, 20}, 3);
  const at::Tensor exact = data.moved(top, 900, 100);
  const auto error = [&](const std::function<at::Tensor(const std::vector<std::int64_t>&)>& walk, std::int64_t steps) {
    std::vector<std::int64_t> levels;
    for (std::int64_t i = 0; i <= steps; ++i) levels.push_back(900 - 800 * i / steps);
    return largest_difference(walk(levels), exact);
  };
  const auto first_order = [&](const std::vector<std::int64_t>& levels) {
    at::Tensor x = top;
    for (std::size_t i = 1; i < levels.size(); ++i)
      x = transition(data.schedule, x, data.noise()(x, levels[i - 1]), levels[i - 1], levels[i]);
    return x;
  };
  const auto dpm = [&](DpmSolverOptions options) {
    return [&, options](const std::vector<std::int64_t>& levels) {
      DpmSteps steps(data.schedule, options);
      at::Tensor x = top;
      for (std::size_t i = 1; i < levels.size(); ++i)
        x = steps.step(x, data.noise()(x, levels[i - 1]), levels[i - 1], levels[i]);
      return x;
    };
  };
  const auto second_order = dpm({2}), heun = dpm({2, true}), third_order = dpm({3});
  CHECK(error(first_order, 80) / error(first_order, 160) == Approx(2).margin(0.3));
  CHECK(error(second_order, 80) / error(second_order, 160) == Approx(4).margin(0.8));
  CHECK(error(heun, 80) / error(heun, 160) == Approx(4).margin(0.8));
  CHECK(error(dpm({1}), 80) == Approx(error(first_order, 80)).epsilon(1e-9));
  CHECK(error(second_order, 80) < 0.2 * error(first_order, 80));
  CHECK(error(third_order, 80) < error(second_order, 80));
  check_refused(ErrorCode::kInvalidArgument, "DpmSolverOptions: order", [&] { DpmSolver({0}); });
  check_refused(ErrorCode::kInvalidArgument, "DpmSolverOptions: order", [&] { DpmSolver({4}); });
  check_refused(ErrorCode::kInvalidArgument, "DpmSolverOptions: heun", [&] { DpmSolver({1, true}); });
  CHECK(error(dpm({3, true}), 2) == error(heun, 2));  // the second step is one of second order
  CHECK(error(dpm({3, true}), 2) != error(third_order, 2));
}

TEST_CASE("every solver makes the evaluations it says, at rising and falling levels", "[solver]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto levels = schedule.level_path(250, 5);
  const at::Tensor x = images(2, 5);
  for (const auto& solver : solvers()) {
    INFO(solver->name());
    std::vector<std::int64_t> asked, reached;
    const NoiseEstimate noise = [&](const at::Tensor& state, std::int64_t level) {
      CHECK(state.sizes() == x.sizes());
      asked.push_back(level);
      return crooked(state, level);
    };
    const StepDone done = [&](std::int64_t step, std::int64_t level, const at::Tensor&) {
      reached.push_back(level);
      CHECK(step == static_cast<std::int64_t>(reached.size()));
    };
    const at::Tensor latent = solver->encode(schedule, levels, x, noise, done);
    CHECK(latent.sizes() == at::IntArrayRef({2, solver->states(), 4, 5}));
    CHECK(static_cast<std::int64_t>(asked.size()) == solver->encode_evaluations(5));
    CHECK(std::is_sorted(asked.begin(), asked.end()));
    CHECK(reached == std::vector<std::int64_t>{50, 100, 150, 200, 250});
    asked.clear(), reached.clear();
    CHECK(solver->decode(schedule, levels, latent, noise, done).sizes() == x.sizes());
    CHECK(static_cast<std::int64_t>(asked.size()) == solver->decode_evaluations(5));
    CHECK(std::is_sorted(asked.rbegin(), asked.rend()));
    CHECK(reached == std::vector<std::int64_t>{200, 150, 100, 50, 0});
  }
}

TEST_CASE("a step that is done may end a walk", "[solver]") {
  const auto schedule = NoiseSchedule::linear(1000);
  for (const auto& solver : solvers()) {
    const StepDone stop = [](std::int64_t step, std::int64_t, const at::Tensor&) {
      if (step == 2) throw Error(ErrorCode::kCancelled, "enough");
    };
    CHECK(caught([&] { solver->encode(schedule, schedule.level_path(90, 4), images(1, 1), crooked, stop); }).code() ==
          ErrorCode::kCancelled);
  }
}

TEST_CASE("BDIA returns every image, whatever the network and the number of steps", "[solver]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const Gaussian data;
  const at::Tensor x = images(3, 8);
  for (const double gamma : {1.0, 0.96})
    for (const std::int64_t steps : {2, 25, 50, 500}) {
      if (gamma < 1 && steps == 500) continue;  // 0.96^-500 of a rounding error is no small number
      const BdiaSolver solver({gamma});
      const auto levels = schedule.level_path(500, steps);
      INFO("gamma " << gamma << ", " << steps << " steps");
      for (const NoiseEstimate& noise : {data.noise(), NoiseEstimate([](const at::Tensor&state, std::int64_t level) {
                                           return 0.3 * crooked(state, level);
                                         })}) {
        const at::Tensor latent = solver.encode(schedule, levels, x, noise, nothing);
        CHECK(largest_difference(solver.decode(schedule, levels, latent, noise, nothing), x) < 1e-6);
        // Another estimate on the way down leads elsewhere: that the round trip closes is not for want of moving.
        const NoiseEstimate other = [&](const at::Tensor& state, std::int64_t level) {
          return noise(state, level).first + 0.1;
        };
        CHECK(largest_difference(solver.decode(schedule, levels, latent, other, nothing), x) > 1e-3);
      }
    }
  check_refused(ErrorCode::kInvalidArgument, "BdiaSolverOptions: gamma", [&] { BdiaSolver({0.0}); });
  check_refused(ErrorCode::kInvalidArgument, "BdiaSolverOptions: gamma", [&] { BdiaSolver({1.1}); });
  check_refused(ErrorCode::kInvalidArgument, "BdiaSolverOptions: gamma", [&] { BdiaSolver({std::nan("")}); });
}

TEST_CASE("BDIA's step is the formula written out for one pixel", "[solver]") {
  const auto schedule = NoiseSchedule::cosine(1000);
  const std::vector<std::int64_t> levels = {0, 100, 250};
  const double gamma = 0.9, top = -0.7, middle = 0.4;
  const auto estimate = [](double x) { return 0.3 * x + 0.2; };
  const auto ddim = [&](double x, double eps, std::int64_t from, std::int64_t to) {
    const double clean = (x - std::sqrt(1 - schedule.abar(from)) * eps) / std::sqrt(schedule.abar(from));
    return std::sqrt(schedule.abar(to)) * clean + std::sqrt(1 - schedule.abar(to)) * eps;
  };
  const double eps = estimate(middle);
  const double expected = gamma * (top - ddim(middle, eps, 100, 250)) + ddim(middle, eps, 100, 0);
  const at::Tensor latent = at::tensor({top, middle}, at::kDouble).reshape({1, 2, 1, 1});
  const NoiseEstimate noise = [](const at::Tensor& x, std::int64_t) { return 0.3 * x + 0.2; };
  CHECK(BdiaSolver({gamma}).decode(schedule, levels, latent, noise, nothing).item<double>() ==
        Approx(expected).epsilon(1e-12));
}

TEST_CASE("DDIM's tolerance ends each item's iteration by itself", "[solver]") {
  const Gaussian data;
  const auto levels = data.schedule.level_path(500, 10);
  // The second item is far from the first and converges after another number of iterations.
  at::Tensor x = images(2, 9);
  x[1].mul_(1e-6);
  const auto run = [&](const at::Tensor& input, double tolerance, std::int64_t most) {
    std::int64_t calls = 0;
    const NoiseEstimate noise = [&](const at::Tensor& state, std::int64_t level) {
      ++calls;
      return crooked(state, level) * 0.2;
    };
    const DdimSolver solver({most, tolerance});
    const at::Tensor latent = solver.encode(data.schedule, levels, input, noise, nothing);
    const at::Tensor back = solver.decode(data.schedule, levels, latent, noise, nothing);
    return std::tuple{latent, largest_difference(back, input), calls - 10};
  };
  const auto [loose, loose_error, loose_calls] = run(x, 1e-3, 60);
  const auto [tight, tight_error, tight_calls] = run(x, 1e-9, 60);
  const auto [capped, capped_error, capped_calls] = run(x, 1e-9, 3);
  CHECK(loose_error < 1e-1);
  CHECK(tight_error < 1e-7);
  CHECK(loose_calls < tight_calls);
  CHECK(tight_calls < 10 * 60);
  CHECK(capped_calls == 10 * 3);
  CHECK(capped_error > tight_error);
  for (std::int64_t i = 0; i < 2; ++i)
    CHECK(same_bits(std::get<0>(run(x.narrow(0, i, 1), 1e-3, 60)), loose.narrow(0, i, 1)));
  check_refused(ErrorCode::kInvalidArgument, "DdimSolverOptions: evaluations", [&] { DdimSolver({0}); });
  check_refused(ErrorCode::kInvalidArgument, "DdimSolverOptions: tolerance", [&] { DdimSolver({2, -1.0}); });
}

TEST_CASE("a step with fresh noise has DDPM's posterior variance at eta 1", "[solver]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = images(2, 1), eps = random_tensor({2, 1, 4, 5}, 2), fresh = random_tensor({2, 1, 4, 5}, 3);
  CHECK(largest_difference(ddim_step(schedule, x, eps, fresh, 300, 200, 0), transition(schedule, x, eps, 300, 200)) <
        1e-12);
  const at::Tensor still = ddim_step(schedule, x, eps, at::zeros_like(fresh), 300, 299, 1);
  const double deviation = std::sqrt(schedule.posterior_variance()[299]);
  CHECK(largest_difference(ddim_step(schedule, x, eps, fresh, 300, 299, 1) - still, deviation * fresh) < 1e-12);
  // And its mean is DDPM's: coefficients of x_0 and x_t.
  const at::Tensor clean = (x - schedule.noise(300) * eps) / schedule.signal(300);
  CHECK(largest_difference(
            still, schedule.posterior_mean_coef1()[299] * clean + schedule.posterior_mean_coef2()[299] * x) < 1e-12);
  check_refused(ErrorCode::kInvalidArgument, "ddim_step: to", [&] { ddim_step(schedule, x, eps, fresh, 200, 300, 0); });
  check_refused(ErrorCode::kInvalidArgument, "ddim_step: eta",
                [&] { ddim_step(schedule, x, eps, fresh, 300, 200, 1.5); });
}

TEST_CASE("DDIM's fresh noise has the variance that its formula says", "[solver]") {
  const Gaussian data;
  const std::vector<std::int64_t> levels = {0, 100, 200, 300, 400};
  const std::int64_t count = 40, pixels = 16 * 16;
  std::vector<std::uint64_t> items;
  for (std::int64_t i = 0; i < count; ++i) items.push_back(static_cast<std::uint64_t>(i));
  // From one and the same latent, so that all that varies is the noise. A step is linear in x around the data's mean.
  for (const double eta : {0.5, 1.0}) {
    double mean = 0.7, variance = 0;
    for (std::size_t i = levels.size() - 1; i > 0; --i) {
      const double a = data.schedule.abar(levels[i]), b = data.schedule.abar(levels[i - 1]);
      const double fresh = eta * eta * (1 - b) / (1 - a) * (1 - a / b);
      const double eps = std::sqrt(1 - a) / (a * data.deviation * data.deviation + 1 - a);
      const double keep = std::sqrt(b / a) * (1 - std::sqrt(1 - a) * eps) + std::sqrt(1 - b - fresh) * eps;
      mean = std::sqrt(b) * data.mean + keep * (mean - std::sqrt(a) * data.mean);
      variance = keep * keep * variance + fresh;
    }
    const at::Tensor x =
        DdimSolver({1, 0, eta, 7, items})
            .decode(data.schedule, levels, at::full({count, 1, 16, 16}, 0.7, at::kDouble), data.noise(), nothing);
    const auto values = static_cast<double>(count * pixels);  // four standard errors
    CHECK(x.mean().item<double>() == Approx(mean).margin(4 * std::sqrt(variance / values)));
    CHECK(x.var().item<double>() == Approx(variance).epsilon(4 * std::sqrt(2 / values)));
  }
}

TEST_CASE("DDIM's fresh noise belongs to an item, whatever its batch", "[solver][translator]") {
  const Gaussian data;
  const std::vector<std::uint64_t> ids = {5, 900, 7};
  const at::Tensor x = images(3, 4);
  const auto solver = [](std::vector<std::uint64_t> items, std::uint64_t seed = 7) {
    return std::make_shared<DdimSolver>(DdimSolverOptions{1, 0, 1, seed, std::move(items)});
  };
  const auto levels = data.schedule.level_path(200, 4);
  const auto decoded = [&](const std::shared_ptr<DdimSolver>& how, const at::Tensor& latent) {
    return how->decode(data.schedule, levels, latent, data.noise(), nothing);
  };
  const at::Tensor all = decoded(solver(ids), x);
  CHECK(largest_difference(decoded(solver({7, 900, 5}), x.flip(0)), all.flip(0)) < 1e-12);
  const at::Tensor other = decoded(solver({5, 901, 7}), x);
  CHECK(largest_difference(other[0], all[0]) < 1e-12);
  CHECK(largest_difference(other[1], all[1]) > 1e-3);
  CHECK(largest_difference(decoded(solver(ids, 8), x)[0], all[0]) > 1e-3);
  // The targets of an image share its noise.
  const at::Tensor lanes = decoded(solver(ids), x.repeat_interleave(2, 0));
  for (const std::int64_t lane : {0, 1}) CHECK(largest_difference(lanes.slice(0, lane, 6, 2), all) < 1e-12);

  const auto predictor = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2});
  const auto translated = [&](const at::Tensor& batch, std::vector<std::uint64_t> items) {
    TranslatorOptions options;
    options.level = 200, options.steps = 4, options.solver = solver(std::move(items));
    const DiffusionTranslator translator(predictor, data.schedule, {"Edema", "Nodule"}, options);
    return translator.translate(batch, {toward("Edema"), away_from("Nodule")});
  };
  const Translation together = translated(x, ids);
  for (std::int64_t i = 0; i < 3; ++i) {
    const Translation alone = translated(x.narrow(0, i, 1), {ids[static_cast<std::size_t>(i)]});
    CHECK(largest_difference(alone.images, together.images.narrow(0, i, 1)) < 1e-12);
    CHECK(largest_difference(alone.residual, together.residual.narrow(0, i, 1)) < 1e-12);
    CHECK(alone.residual.item<double>() > 1e-2);  // it is no round trip
  }

  const auto refused = [](const char* part, DdimSolverOptions options) {
    check_refused(ErrorCode::kInvalidArgument, part, [&] { DdimSolver{options}; });
  };
  refused("DdimSolverOptions: eta", {1, 0, 1.5, 0, ids});
  refused("DdimSolverOptions: eta", {1, 0, std::nan(""), 0, ids});
  refused("DdimSolverOptions: items", {1, 0, 1});
  refused("DdimSolverOptions: items", {1, 0, 0, 0, ids});
  check_refused(ErrorCode::kInvalidArgument, "DdimSolver::decode: latent", [&] { decoded(solver(ids), images(4, 1)); });
  check_refused(ErrorCode::kInvalidArgument, "DdimSolver::encode: image", [&] { translated(images(6, 1), ids); });
}

TEST_CASE("a translator walks as its solver does", "[solver][translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11}));
  const std::vector<std::string> findings = {"Edema", "Nodule", "Device"};
  const std::vector<Target> targets = {toward("Edema"), away_from("Nodule")};
  const at::Tensor x = images(3, 4);
  for (const auto& solver : solvers()) {
    INFO(solver->name());
    TranslatorOptions options;
    options.level = 200;
    options.steps = 8;
    options.solver = solver;
    const DiffusionTranslator translator(predictor, schedule, findings, options);
    predictor->rows = 0;
    const Translation result = translator.translate(x, targets);
    CHECK(result.images.sizes() == at::IntArrayRef({3, 2, 1, 4, 5}));
    CHECK(result.latent.size(1) == solver->states());
    CHECK(predictor->rows == 3 * (result.calls.denoiser + result.calls.reconstruction));
    CHECK(result.calls.denoiser == translator.calls_per_image(2).denoiser);
    if (solver->states() == 2) CHECK(result.residual.max().item<double>() < 1e-12);
    for (std::int64_t k = 0; k < 2; ++k)
      CHECK(largest_difference(translator.decode(result.latent, {targets[static_cast<std::size_t>(k)]}).select(1, 0),
                               result.images.select(1, k)) < 1e-9);
  }
  TranslatorOptions one_step;
  one_step.level = 200;
  one_step.steps = 1;
  one_step.solver = std::make_shared<BdiaSolver>();
  CHECK(mentions(caught([&] { DiffusionTranslator(predictor, schedule, findings, one_step); }), "bdia"));
}

TEST_CASE("solvers have names", "[solver]") {
  for (const char* name : {"ddim", "dpm", "bdia"}) CHECK(std::string(make_solver(name)->name()) == name);
  CHECK(make_solver("ddim", 5)->encode_evaluations(3) == 15);
  CHECK_THROWS_AS(make_solver("ddim", 5, -1.0), Error);
  CHECK(mentions(caught([] { make_solver("euler"); }), "euler"));
}

TEST_CASE("a tolerance is paid for as it is used", "[solver][translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5}));
  TranslatorOptions options;
  options.level = 200;
  options.steps = 8;
  options.solver = std::make_shared<DdimSolver>(DdimSolverOptions{40, 1e-6});
  const DiffusionTranslator translator(predictor, schedule, {"Edema"}, options);
  const Translation result = translator.translate(images(3, 4), {toward("Edema")});
  CHECK(predictor->rows == 3 * (result.calls.denoiser + result.calls.reconstruction));
  CHECK(result.calls.denoiser < translator.calls_per_image(1).denoiser);
  CHECK(result.residual.max().item<double>() < 1e-4);
}

TEST_CASE("guidance acts on its interval of levels, with each target's strength", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11}));
  const std::vector<std::string> findings = {"Edema", "Nodule", "Device"};
  const at::Tensor latent = images(2, 6);
  for (const auto kind : {GuidanceKind::kClassifierFree, GuidanceKind::kContrast}) {
    TranslatorOptions options;
    options.level = 100;
    options.steps = 4;
    options.guidance.kind = kind;
    options.guidance.weight = 1.5;
    const auto decode = [&](const TranslatorOptions& how, const Target& target) {
      return DiffusionTranslator(predictor, schedule, findings, how).decode(latent, {target});
    };
    const Target plain = toward("Edema"), twice = {"Edema", true, 2.0}, none = {"Edema", true, 0.0};
    TranslatorOptions doubled = options, off = options, never = options, inside = options;
    doubled.guidance.weight = 3;
    off.guidance.weight = 0;
    CHECK(largest_difference(decode(options, twice), decode(doubled, plain)) < 1e-12);
    CHECK(largest_difference(decode(options, none), decode(off, plain)) < 1e-12);
    // Two targets of different strength in one batch are what they are alone.
    const at::Tensor both = DiffusionTranslator(predictor, schedule, findings, options).decode(latent, {plain, twice});
    CHECK(largest_difference(both.select(1, 1), decode(options, twice).select(1, 0)) < 1e-12);

    never.guidance.lowest_level = 101;
    TranslatorOptions conditional = options;
    conditional.guidance.kind = GuidanceKind::kNone;
    CHECK(largest_difference(decode(never, plain), decode(conditional, plain)) < 1e-12);
    inside.guidance.lowest_level = 50;
    inside.guidance.highest_level = 75;
    CHECK(largest_difference(decode(inside, plain), decode(options, plain)) > 1e-6);
    CHECK(largest_difference(decode(inside, plain), decode(never, plain)) > 1e-6);
    const DiffusionTranslator partly(predictor, schedule, findings, inside);
    predictor->rows = 0;
    partly.decode(latent, {plain, twice});
    CHECK(predictor->rows == 2 * 2 * (2 + 2 * 2));  // two images, two targets; levels 75 and 50 cost two each
    CHECK(partly.calls_per_image(2).denoiser == 4 * 2 + 2 * (2 + 2 * 2));
  }
  GuidanceOptions wrong;
  wrong.lowest_level = 10;
  wrong.highest_level = 9;
  CHECK_THROWS_AS(wrong.validate(), Error);
  CHECK_THROWS_AS(target_condition({"Edema", true, -1.0}, findings), Error);
}

namespace {

/// What makes a case of the sampler sets none of ours; empty where it is one.
std::string foreign_setting(const nlohmann::json& settings) {
  // Those that only place the timesteps, which are stored, are among the known ones.
  static const std::set<std::string> known = {"algorithm_type",    "beta_end",
                                              "beta_schedule",     "beta_start",
                                              "clip_sample",       "euler_at_final",
                                              "flow_shift",        "clip_sample_range",
                                              "final_sigmas_type", "lambda_min_clipped",
                                              "prediction_type",   "sample_max_value",
                                              "set_alpha_to_one",  "num_train_timesteps",
                                              "lower_order_final", "solver_order",
                                              "solver_type",       "steps_offset",
                                              "timestep_spacing",  "dynamic_thresholding_ratio",
                                              "trained_betas",     "rescale_betas_zero_snr"};
  const std::string kind = settings.at("kind");
  if (kind != "ddim" && kind != "ddim_inverse" && kind != "dpm" && kind != "dpm_inverse") return "kind";
  const double eta = settings.value("eta", 0.0);
  if (eta < 0 || eta > 1) return "eta";
  const auto& scheduler = settings.at("scheduler");
  for (const auto& [name, value] : scheduler.items())
    if (known.count(name) == 0 && name.rfind('_', 0) != 0 && !value.is_null() && !(value == false)) return name;
  const auto other = [&](const char* name, const char* usual, const std::set<std::string>& ours) {
    return ours.count(scheduler.value(name, usual)) == 0;
  };
  if (other("beta_schedule", "linear", {"linear", "scaled_linear", "squaredcos_cap_v2"})) return "beta_schedule";
  if (other("prediction_type", "epsilon", {"epsilon", "sample", "v_prediction"})) return "prediction_type";
  if (other("algorithm_type", "dpmsolver++", {"dpmsolver++"})) return "algorithm_type";
  return "";
}

/// Checks the cases of a sampler set that are ours, and names the others; the largest error. A case may end with Skip.
double check_cases(const GoldenSet& set,
                   const std::function<double(const std::string& name, const nlohmann::json& settings)>& check) {
  double worst = 0;
  std::vector<Unread> others;
  const auto& cases = set.settings.at("config").at("cases");
  for (const auto& [name, settings] : cases.items()) {
    std::string foreign = foreign_setting(settings);
    if (foreign.empty() && !to_tensor(set.file.at(name + ".samples")).isfinite().all().item<bool>())
      foreign = "the scheduler's own states are not finite";
    if (foreign.empty()) {
      try {
        worst = std::max(worst, check(name, settings));
      } catch (const Skip& skip) {
        foreign = skip.why;
        const std::string prefix = name + ".";  // what it read has been compared with nothing
        std::erase_if(set.read, [&](const std::string& read) { return read.rfind(prefix, 0) == 0; });
      }
    }
    if (!foreign.empty()) others.push_back({name + ".*", foreign});
  }
  if (others.size() == cases.size()) throw Skip{"no case of a scheduler that exists here"};
  check_outputs_read(set, others);
  return worst;
}

/// What one case of the sampler sets says about itself.
struct SamplerCase {
  SamplerCase(const GoldenSet& golden, const std::string& name, const nlohmann::json& settings)
      : set(golden),
        prefix(name + "."),
        kind(settings.at("kind")),
        asked_steps(settings.at("steps")),
        scheduler(settings.at("scheduler")),
        eta(settings.value("eta", 0.0)),
        timesteps(set.at(prefix + "timesteps").to_int64()),
        schedule(schedule_of(scheduler, kind, timesteps)),
        steps(static_cast<std::int64_t>(timesteps.size())),
        samples(to_tensor(set.at(prefix + "samples"))),
        native(to_tensor(set.at(prefix + "samples_native"))),
        outputs(to_tensor(set.at(prefix + "model_out"))),
        mean(to_tensor(set.at("mu"))),
        deviation(to_tensor(set.at("s"))),
        native_tolerance(1.005 * set.settings.at("measured").at(name).at("native_vs_double").get<double>()) {
    REQUIRE(samples.size(0) == steps + 1);
  }

  static NoiseSchedule schedule_of(const nlohmann::json& scheduler, const std::string& kind,
                                   const std::vector<std::int64_t>& walked) {
    NoiseSchedule schedule = betas_of(scheduler);
    if (!scheduler.value("rescale_betas_zero_snr", false)) return schedule;
    schedule = schedule.with_zero_terminal_snr();
    if (kind.rfind("dpm", 0) != 0) return schedule;
    // Upstream leaves this solver an abar of 2^-24 at the last level, which can be more than some levels before have.
    // No schedule here goes up again, so those get something between: fine for walks that do not come by them.
    const double least = std::pow(2.0, -24);
    std::int64_t above = schedule.steps() - 1;
    while (schedule.abar(above) <= least) --above;
    for (const std::int64_t t : walked)
      if (t >= above && t + 1 < schedule.steps()) throw Skip{"levels with less signal than the last one"};
    std::vector<double> betas = schedule.betas();
    const double kept = std::pow(least / schedule.abar(above), 1 / static_cast<double>(schedule.steps() - above));
    std::fill(betas.begin() + above, betas.end(), 1 - kept);
    return NoiseSchedule::from_betas(std::move(betas));
  }
  static NoiseSchedule betas_of(const nlohmann::json& scheduler) {
    const auto trained = scheduler.find("trained_betas");
    if (trained != scheduler.end() && !trained->is_null())
      return NoiseSchedule::from_betas(trained->get<std::vector<double>>());
    const std::string name = scheduler.value("beta_schedule", "linear");
    const std::int64_t steps = scheduler.value("num_train_timesteps", 1000);
    if (name == "squaredcos_cap_v2") return NoiseSchedule::cosine(steps);
    const double ours = 1000 / static_cast<double>(steps);
    double low = scheduler.value("beta_start", 1e-4), high = scheduler.value("beta_end", 2e-2);
    if (std::abs(low - ours * 1e-4) < 1e-12 && std::abs(high - ours * 2e-2) < 1e-12)
      return NoiseSchedule::named(name, steps);
    const bool of_roots = name == "scaled_linear";
    if (of_roots) low = std::sqrt(low), high = std::sqrt(high);
    std::vector<double> betas;
    for (std::int64_t t = 0; t < steps; ++t) {
      const double value = low + (high - low) * static_cast<double>(t) / static_cast<double>(steps - 1);
      betas.push_back(of_roots ? value * value : value);
    }
    return NoiseSchedule::from_betas(std::move(betas));
  }
  bool predicts(const char* what) const { return scheduler.value("prediction_type", "epsilon") == what; }
  std::string text(const char* key, const char* otherwise) const { return scheduler.value(key, otherwise); }

  /// eps of a model's output, read as made for `level`.
  at::Tensor noise(const at::Tensor& out, const at::Tensor& x, std::int64_t level) const {
    const double s = schedule.signal(level), n = schedule.noise(level);
    if (predicts("sample")) return (x - s * out) / n;
    return predicts("v_prediction") ? s * out + n * x : out;
  }
  /// What the set's denoiser says of x at step i, whose timestep it is handed wherever x is.
  at::Tensor model(std::int64_t i, const at::Tensor& x) const {
    const std::int64_t level = timesteps[static_cast<std::size_t>(i)] + 1;
    const double s = schedule.signal(level), n = schedule.noise(level);
    const at::Tensor eps = n * (x - s * mean) / (s * s * deviation.square() + n * n);
    if (predicts("epsilon")) return eps;
    const at::Tensor clean = s > 0 ? (x - n * eps) / s : mean.expand_as(x);
    return predicts("sample") ? clean : s * eps - n * clean;
  }
  /// What rounding may leave of a clean image that upstream has from the network or from v, and the solvers here by
  /// way of eps: the last digit of that over the signal.
  double rounding() const {
    double least = 1;
    for (const std::int64_t t : timesteps)
      if (const double signal = schedule.signal(t + 1); signal > 0) least = std::min(least, signal);
    return 16 * std::numeric_limits<double>::epsilon() / least;
  }
  /// The level whose noise-to-signal ratio is `sigma`.
  std::int64_t level_of(double sigma) const {
    std::int64_t best = 0;
    double smallest = sigma;
    for (std::int64_t level = 1; level <= schedule.steps(); ++level) {
      const double distance = std::abs(schedule.noise(level) / schedule.signal(level) - sigma);
      if (distance < smallest) best = level, smallest = distance;
    }
    INFO(prefix << " sigma " << sigma);
    CHECK(smallest <= 1e-9 * sigma);
    return best;
  }

  const GoldenSet& set;
  std::string prefix, kind;
  std::int64_t asked_steps;  ///< rounding may place one more or less
  nlohmann::json scheduler;
  double eta;
  std::vector<std::int64_t> timesteps;
  NoiseSchedule schedule;
  std::int64_t steps;
  at::Tensor samples, native, outputs, mean, deviation;
  double native_tolerance;  ///< what the set measured, which has three digits
};

/// Compares one step from every stored state, and the whole walk from the first one by the set's own denoiser, with the
/// stored states; the walk with the untouched scheduler's as well. `step` and `walk`: (i, x, the model's output) -> the
/// next state, by two solvers that remember. The largest error in float64.
double check_sampler(
    const SamplerCase& one, double tolerance,
    const std::function<at::Tensor(std::int64_t i, const at::Tensor& x, const at::Tensor& out)>& step,
    const std::function<at::Tensor(std::int64_t i, const at::Tensor& x, const at::Tensor& out)>& walk) {
  double worst = 0;
  const double exact = tolerance + one.rounding();
  const auto close = [&](const at::Tensor& actual, const at::Tensor& expected, double largest,
                         const std::string& what) {
    const double error = relative_error(to_doubles(actual), to_doubles(expected));
    INFO(one.prefix << " " << what << ": " << error);
    CHECK(error <= largest);
    if (largest == exact) worst = std::max(worst, error);
  };
  std::vector<at::Tensor> walked = {one.samples[0]};
  for (std::int64_t i = 0; i < one.steps; ++i) {
    const at::Tensor next = one.samples[i + 1], here = walked.back();
    close(step(i, one.samples[i], one.outputs[i]), next, exact, "step " + std::to_string(i + 1));
    walked.push_back(walk(i, here, one.model(i, here)));
    close(walked.back(), next, exact, "walk to step " + std::to_string(i + 1));
  }
  close(at::stack(walked), one.native, one.native_tolerance, "walk beside the untouched scheduler");
  return worst;
}

}  // namespace

TEST_CASE("golden: DDIM sampling and inversion", "[solver][golden]") {
  for_each_golden("sampler_ddim", [](const GoldenSet& set) {
    const double tolerance = set.settings.at("tolerance").at("float64");
    return check_cases(set, [&](const std::string& name, const nlohmann::json& settings) {
      const SamplerCase one(set, name, settings);
      const bool clips = one.scheduler.value("clip_sample", true);
      const bool clips_noise = settings.value("use_clipped_model_output", false);
      const double range = one.scheduler.value("clip_sample_range", 1.0);
      const std::int64_t stride = one.schedule.steps() / one.asked_steps;
      const std::int64_t last = one.scheduler.value("set_alpha_to_one", true) ? 0 : 1;
      const bool inverse = one.kind == "ddim_inverse";
      const bool tells_of_image = one.eta == 0 && !one.predicts("epsilon");
      for (const std::int64_t t : one.timesteps)
        if (!inverse && !tells_of_image && one.schedule.abar(t + 1) == 0)
          throw Skip{"noise alone, or fresh noise, at a level without signal"};
      const auto step = [&](std::int64_t i, const at::Tensor& x, const at::Tensor& out) {
        const std::int64_t t = one.timesteps[static_cast<std::size_t>(i)];
        const std::int64_t near = t + 1, far = std::max(t - stride + 1, last);
        const std::int64_t from = inverse ? far : near, to = inverse ? near : far;
        if (one.schedule.abar(from) == 0) {  // eps is all of x there: the clean image is what the output says it is
          const auto levels = at::full({x.size(0)}, from, at::kLong);
          const auto means = one.predicts("sample") ? Prediction::kX0 : Prediction::kV;
          at::Tensor clean = reverse_distribution(one.schedule, out, x, levels, means, VarianceKind::kFixedSmall).clean;
          if (clips) clean = clean.clamp(-range, range);
          return noised(one.schedule, clean, x, to);
        }
        at::Tensor eps = one.noise(out, x, from), state = x;
        if (clips) {  // eps stays, if it is not to follow: the state of the clipped image with the same
          const at::Tensor clean = clean_estimate(one.schedule, x, eps, from).clamp(-range, range);
          if (clips_noise) eps = (x - one.schedule.signal(from) * clean) / one.schedule.noise(from);
          state = noised(one.schedule, clean, eps, from);
        }
        return one.eta > 0 && to < from
                   ? ddim_step(one.schedule, state, eps, to_tensor(set.at("noise"))[i], from, to, one.eta)
                   : transition(one.schedule, state, eps, from, to);
      };
      return check_sampler(one, tolerance, step, step);
    });
  });
}

TEST_CASE("golden: DPM-Solver++ sampling and inversion", "[solver][golden]") {
  for_each_golden("sampler_dpm", [](const GoldenSet& set) {
    const double tolerance = set.settings.at("tolerance").at("float64");
    return check_cases(set, [&](const std::string& name, const nlohmann::json& settings) {
      const SamplerCase one(set, name, settings);
      const std::int64_t order = one.scheduler.value("solver_order", 2);
      const bool inverse = one.kind == "dpm_inverse";
      const bool ends_clean = one.text("final_sigmas_type", "zero") == "zero";
      const bool lower_order_final = one.scheduler.value("lower_order_final", true) && one.steps < 15;
      const bool euler = one.scheduler.value("euler_at_final", false);
      std::vector<std::int64_t> levels;
      for (const double sigma : set.at(one.prefix + "sigmas").to_double()) levels.push_back(one.level_of(sigma));
      REQUIRE(static_cast<std::int64_t>(levels.size()) == one.steps + 1);
      const auto stepper = [&] {
        const DpmSolverOptions options = {order, order > 1 && one.text("solver_type", "midpoint") == "heun"};
        return [&, dpm = DpmSteps(one.schedule, options)](std::int64_t i, const at::Tensor& x,
                                                          const at::Tensor& out) mutable {
          // Upstream lowers the order of the last steps of a short walk, and of one that is told to.
          const bool last = i + 1 == one.steps, one_before = i + 2 == one.steps;
          std::int64_t highest = order;
          if (last && (lower_order_final || euler || (!inverse && ends_clean))) highest = 1;
          if (one_before && lower_order_final) highest = std::min<std::int64_t>(order, 2);
          const std::int64_t from = levels[static_cast<std::size_t>(i)], to = levels[static_cast<std::size_t>(i + 1)];
          return dpm.step(x, one.noise(out, x, from), from, to, highest);
        };
      };
      return check_sampler(one, tolerance, stepper(), stepper());
    });
  });
}
