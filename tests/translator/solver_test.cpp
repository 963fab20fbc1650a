#include "daug/translator/solver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "daug/translator/bdia_solver.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/dpm_solver.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
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

TEST_CASE("DPM-Solver's steps are the formulas written out for one pixel", "[solver]") {
  const auto schedule = NoiseSchedule::cosine(1000);
  const auto estimate = [](double x) { return 0.3 * x + 0.2; };
  const auto log_snr = [&](std::int64_t level) { return std::log(schedule.signal(level) / schedule.noise(level)); };
  for (const std::vector<std::int64_t>& levels :
       {std::vector<std::int64_t>{600, 450, 210, 90, 40}, {40, 90, 210, 450, 600}})
    for (const DpmSolverOptions& options : {DpmSolverOptions{2}, DpmSolverOptions{2, true}, DpmSolverOptions{3}}) {
      DpmSteps steps(schedule, options);
      at::Tensor x = at::full({1, 1, 1, 1}, -0.7, at::kDouble);
      std::vector<double> clean, at_snr;  // of the steps so far
      for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
        INFO("order " << options.order << ", Heun " << options.heun << ", from level " << levels[i]);
        const std::int64_t from = levels[i], to = levels[i + 1];
        const double state = x.item<double>(), eps = estimate(state), h = log_snr(to) - log_snr(from);
        clean.push_back((state - schedule.noise(from) * eps) / schedule.signal(from)), at_snr.push_back(log_snr(from));
        const auto order = std::min<std::int64_t>(options.order, static_cast<std::int64_t>(i) + 1);
        const double decay = std::exp(-h) - 1;
        double change = decay * clean[i];
        if (order > 1) {
          const double r0 = (at_snr[i] - at_snr[i - 1]) / h, first = (clean[i] - clean[i - 1]) / r0;
          if (order == 2) {
            change += options.heun ? -(decay / h + 1) * first : decay / 2 * first;
          } else {
            const double r1 = (at_snr[i - 1] - at_snr[i - 2]) / h, before = (clean[i - 1] - clean[i - 2]) / r1;
            const double slope = first + r0 / (r0 + r1) * (first - before), bend = (first - before) / (r0 + r1);
            change += -(decay / h + 1) * slope + ((decay + h) / (h * h) - 0.5) * bend;
          }
        }
        const double expected = schedule.noise(to) / schedule.noise(from) * state - schedule.signal(to) * change;
        x = steps.step(x, at::full({1, 1, 1, 1}, eps, at::kDouble), from, to);
        CHECK(x.item<double>() == Approx(expected).epsilon(1e-11));
      }
    }
}

TEST_CASE("solvers walk in float32, by kernels, where they walk in float64", "[solver]") {
  const Gaussian data;
  const auto levels = data.schedule.level_path(400, 6);
  const at::Tensor x = images(2, 5);
  for (const auto& solver : solvers()) {
    INFO(solver->name());
    const auto latent = [&](at::ScalarType type) {
      return solver->encode(data.schedule, levels, x.to(type), data.noise(), nothing);
    };
    const at::Tensor wide = latent(at::kDouble), narrow = latent(at::kFloat);
    CHECK(narrow.scalar_type() == at::kFloat);
    CHECK(largest_difference(narrow, wide) < 1e-4);
    CHECK(largest_difference(solver->decode(data.schedule, levels, narrow, data.noise(), nothing),
                             solver->decode(data.schedule, levels, wide, data.noise(), nothing)) < 1e-4);
  }
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
