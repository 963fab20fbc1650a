#include "daug/translator/reverse_process.h"

#include <ATen/ATen.h>

#include <cmath>

#include "daug/translator/ddim_solver.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden_device.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

at::Tensor pixel(double value) { return at::full({1, 1, 1, 1}, value, at::kDouble); }
at::Tensor level_tensor(std::vector<std::int64_t> levels) { return at::tensor(levels); }

double value_of(const at::Tensor& tensor) { return tensor.item<double>(); }

/// Both the float32 tensor of a set and its double twin, at the tolerances of its JSON.
double check_both(const GoldenSet& set, const std::string& name, const at::Tensor& actual) {
  const auto& tolerance = set.settings.at("tolerance");
  INFO(name);
  CHECK(relative_error(to_doubles(actual), set.at(name).to_double()) <= tolerance.at("relative").get<double>());
  const double error = relative_error(to_doubles(actual), set.at(name + "_f64").to_double());
  CHECK(error <= std::stod(tolerance.at("f64").get<std::string>()));
  return error;
}

/// What upstream calls them.
Prediction upstream_prediction(const std::string& name) {
  return prediction(name == "epsilon" ? "eps" : name == "start_x" ? "x0" : name);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

}  // namespace

TEST_CASE("a denoising step by hand, for every kind of output", "[reverse_process]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const std::int64_t level = 300;
  const double clean = 0.3, noise = -0.8, s = schedule.signal(level), n = schedule.noise(level);
  const double x = s * clean + n * noise;
  const double beta = schedule.betas()[299], above = schedule.abar(300), below = schedule.abar(299);
  const double mean =
      std::sqrt(below) * beta / (1 - above) * clean + std::sqrt(1 - beta) * (1 - below) / (1 - above) * x;
  const std::vector<std::pair<const char*, double>> outputs = {
      {"eps", noise}, {"x0", clean}, {"v", s * noise - n * clean}, {"previous_x", mean}};
  for (const auto& [name, output] : outputs) {
    INFO(name);
    const auto p = reverse_distribution(schedule, pixel(output), pixel(x), level_tensor({level}), prediction(name),
                                        VarianceKind::kFixedLarge);
    CHECK(value_of(p.clean) == Approx(clean).epsilon(1e-9));
    CHECK(value_of(p.mean) == Approx(mean).epsilon(1e-12));
    CHECK(value_of(p.variance) == Approx(beta).epsilon(1e-12));
    CHECK(value_of(p.log_variance) == Approx(std::log(beta)).epsilon(1e-12));
    CHECK(value_of(implied_noise(schedule, p, pixel(x), level_tensor({level}))) == Approx(noise).epsilon(1e-9));
  }
  const double small = beta * (1 - below) / (1 - above);
  const auto learned = [&](VarianceKind kind, double channel) {
    const at::Tensor output = at::tensor({noise, channel}, at::kDouble).reshape({1, 2, 1, 1});
    return value_of(
        reverse_distribution(schedule, output, pixel(x), level_tensor({level}), Prediction::kEps, kind).variance);
  };
  CHECK(learned(VarianceKind::kLearned, -2.5) == Approx(std::exp(-2.5)).epsilon(1e-12));
  CHECK(learned(VarianceKind::kLearnedRange, 1) == Approx(beta).epsilon(1e-12));
  CHECK(learned(VarianceKind::kLearnedRange, -1) == Approx(small).epsilon(1e-12));
  CHECK(learned(VarianceKind::kLearnedRange, 0) == Approx(std::sqrt(beta * small)).epsilon(1e-12));
}

TEST_CASE("a draw has the step's mean and variance, and the last one is its mean", "[reverse_process]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = random_tensor({3, 1, 2, 2}, 1), eps = random_tensor({3, 1, 2, 2}, 2);
  const at::Tensor fresh = random_tensor({3, 1, 2, 2}, 3), levels = level_tensor({1, 2, 500});
  const auto p = reverse_distribution(schedule, eps, x, levels, Prediction::kEps, VarianceKind::kFixedSmall);
  const at::Tensor drawn = ancestral_step(p, levels, fresh);
  CHECK(same_bits(drawn[0], p.mean[0]));
  for (std::int64_t i = 1; i < 3; ++i) {
    const std::int64_t level = levels[i].item<std::int64_t>();
    // DDIM with eta 1 is the same step (arXiv 2010.02502, section 4.1).
    const at::Tensor ddim = ddim_step(schedule, x[i], eps[i], fresh[i], level, level - 1, 1);
    CHECK(largest_difference(drawn[i], ddim) < 1e-12);
  }
}

TEST_CASE("guidance by mean and by score are the formulas written out", "[reverse_process]") {
  const auto schedule = NoiseSchedule::cosine(1000);
  const at::Tensor levels = level_tensor({640}), x = pixel(0.9), eps = pixel(0.4), gradient = pixel(-1.7);
  const auto p = reverse_distribution(schedule, eps, x, levels, Prediction::kEps, VarianceKind::kFixedLarge);
  CHECK(value_of(guided_by_mean(p, gradient).mean) ==
        Approx(value_of(p.mean) - 1.7 * schedule.betas()[639]).epsilon(1e-12));
  const auto score = guided_by_score(schedule, p, x, levels, gradient);
  const double pulled = 0.4 + 1.7 * schedule.noise(640);
  CHECK(value_of(score.clean) == Approx((0.9 - schedule.noise(640) * pulled) / schedule.signal(640)).epsilon(1e-9));
  const auto direct =
      reverse_distribution(schedule, pixel(pulled), x, levels, Prediction::kEps, VarianceKind::kFixedLarge);
  CHECK(value_of(score.mean) == Approx(value_of(direct.mean)).epsilon(1e-9));
  CHECK(same_bits(score.variance, p.variance));
}

TEST_CASE("reverse steps refuse what does not fit", "[reverse_process]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = random_tensor({2, 1, 2, 2}, 1), levels = level_tensor({1, 1000});
  const auto refused = [&](const at::Tensor& output, const at::Tensor& at_levels, VarianceKind kind) {
    return caught([&] { reverse_distribution(schedule, output, x, at_levels, Prediction::kEps, kind); });
  };
  CHECK(mentions(refused(x, levels, VarianceKind::kLearned), "output"));
  CHECK(mentions(refused(at::cat({x, x}, 1), levels, VarianceKind::kFixedSmall), "output"));
  CHECK(mentions(refused(x, level_tensor({0, 5}), VarianceKind::kFixedSmall), "levels"));
  CHECK(mentions(refused(x, level_tensor({1, 1001}), VarianceKind::kFixedSmall), "levels"));
  CHECK(mentions(refused(x, level_tensor({1}), VarianceKind::kFixedSmall), "levels"));
  CHECK(mentions(refused(x, levels.to(at::kDouble), VarianceKind::kFixedSmall), "levels"));
  for (const char* name : {"fixed_small", "fixed_large", "learned", "learned_range"})
    CHECK_NOTHROW(variance_kind(name));
  CHECK_THROWS_AS(variance_kind("fixed"), Error);
  CHECK_NOTHROW(reverse_distribution(schedule, at::zeros({0, 1, 2, 2}), at::zeros({0, 1, 2, 2}), level_tensor({}),
                                     Prediction::kEps, VarianceKind::kFixedSmall));
}

TEST_CASE("a network that predicts noise is refused where no signal is left", "[reverse_process]") {
  const auto schedule = NoiseSchedule::named("zero_snr_linear");
  for (const auto kind : {Prediction::kEps, Prediction::kPreviousX})
    CHECK(mentions(caught([&] { require_predictable(schedule, kind, "f"); }), "without signal"));
  for (const auto kind : {Prediction::kX0, Prediction::kV}) CHECK_NOTHROW(require_predictable(schedule, kind, "f"));
  CHECK_NOTHROW(require_predictable(NoiseSchedule::linear(), Prediction::kEps, "f"));
  CHECK_THROWS_AS(make_noise_predictor(DenoiserUNet(DenoiserUNetOptions{}), schedule, Prediction::kEps), Error);
}

namespace {

void check_distribution_sets(const at::Device& device) {
  for_each_golden("diffusion_p", [&device](const GoldenSet& set) {
    const auto schedule = golden_schedule(set.settings.at("config"));
    const at::Tensor x = to_tensor(set.at("x_t")).to(device), levels = tensor_from(set.at("t")) + 1;
    const at::Tensor output = to_tensor(set.at("model_out")).to(device);
    double worst = 0;
    std::size_t compared = 0;
    for (const auto& [name, array] : set.file.tensors) {
      const auto parts = split(name, '.');  // mean.variance.clip.field
      if (parts.size() != 4 || !set.file.contains(name + "_f64")) continue;
      const VarianceKind variance = variance_kind(parts[1]);
      const at::Tensor shown = is_learned(variance) ? output : output.narrow(1, 0, x.size(1));
      const auto p = reverse_distribution(schedule, shown, x, levels, upstream_prediction(parts[0]), variance,
                                          parts[2] == "clip1");
      const std::map<std::string, at::Tensor> fields = {
          {"mean", p.mean}, {"variance", p.variance}, {"log_variance", p.log_variance}, {"pred_xstart", p.clean}};
      worst = std::max(worst, check_both(set, name, fields.at(parts[3])));
      ++compared;
    }
    CHECK(compared > 0);
    check_outputs_read(set);
    return worst;
  });
}

void check_step_sets(const at::Device& device) {
  for_each_golden("diffusion_step", [&device](const GoldenSet& set) {
    const auto there = [&](const char* name) { return to_tensor(set.at(name)).to(device); };
    const auto& config = set.settings.at("config");
    const auto schedule = golden_schedule(config);
    const at::Tensor x = there("x_t"), gradient = there("grad");
    const at::Tensor output = there("model_out"), fresh = there("noise2");
    const at::Tensor levels = tensor_from(set.at("t")) + 1, reverse_levels = tensor_from(set.at("t_reverse")) + 1;
    std::vector<std::int64_t> asked;
    for (std::int64_t i = 0; i < levels.size(0); ++i) asked.push_back(levels[i].item<std::int64_t>());
    const auto seen = seen_timesteps(schedule, asked, golden_timestep_scale(config));
    CHECK(seen == set.at("t_seen_by_model").to_double());
    /// One item after the other, since a batch shares its level there.
    const auto by_item = [&](const at::Tensor& at_levels, const auto& step) {
      std::vector<at::Tensor> items;
      for (std::int64_t i = 0; i < x.size(0); ++i) items.push_back(step(i, at_levels[i].item<std::int64_t>()));
      return at::cat(items);
    };
    const auto variance =
        output.size(1) > x.size(1) ? VarianceKind::kLearnedRange : VarianceKind::kFixedLarge;  // upstream's defaults
    double worst = 0;
    std::size_t compared = 0;
    for (const bool clip : {false, true}) {
      const auto describe = [&](const at::Tensor& at_levels) {
        return reverse_distribution(schedule, output, x, at_levels, Prediction::kEps, variance, clip);
      };
      const auto p = describe(levels);
      const auto guided = guided_by_score(schedule, p, x, levels, gradient);
      const auto check = [&](const std::string& name, const at::Tensor& actual) {
        const std::string full = (clip ? "clip1." : "clip0.") + name;
        if (!set.file.contains(full)) return;
        worst = std::max(worst, check_both(set, full, actual));
        ++compared;
      };
      check("condition_mean", guided_by_mean(p, gradient).mean);
      check("condition_score.mean", guided.mean);
      check("condition_score.pred_xstart", guided.clean);
      check("ddim_pred_xstart_guided", guided.clean);
      check("p_sample", ancestral_step(p, levels, fresh));
      check("p_sample_guided", ancestral_step(guided_by_mean(p, gradient), levels, fresh));
      for (const auto& eta : config.at("etas")) {
        for (const bool with_guidance : {false, true}) {
          const at::Tensor eps = implied_noise(schedule, with_guidance ? guided : p, x, levels);
          const auto step = [&](std::int64_t i, std::int64_t level) {
            const double used = level > 1 ? eta.get<double>() : 0;  // upstream adds no noise to what ends clean
            return ddim_step(schedule, x.narrow(0, i, 1), eps.narrow(0, i, 1), fresh.narrow(0, i, 1), level, level - 1,
                             used);
          };
          std::ostringstream name;
          name << "ddim_eta" << eta.get<double>() << (with_guidance ? "_guided" : "");
          check(name.str(), by_item(levels, step));
        }
      }
      const at::Tensor eps = implied_noise(schedule, describe(reverse_levels), x, reverse_levels);
      check("ddim_reverse", by_item(reverse_levels, [&](std::int64_t i, std::int64_t level) {
              return transition(schedule, x.narrow(0, i, 1), eps.narrow(0, i, 1), level, level + 1);
            }));
    }
    CHECK(compared > 0);
    check_outputs_read(set);
    return worst;
  });
}

}  // namespace

TEST_CASE("golden: mean, variance and clean image of a step", "[reverse_process][golden]") {
  check_distribution_sets(at::kCPU);
}

TEST_CASE("golden mean, variance and clean image of a step on a device", "[gpu]") {
  if (!no_golden_on_device()) check_distribution_sets(at::Device(at::kCUDA, 0));
}

TEST_CASE("golden: steps with and without noise, clipping and guidance", "[reverse_process][golden]") {
  check_step_sets(at::kCPU);
}

TEST_CASE("golden steps with and without noise, clipping and guidance on a device", "[gpu]") {
  if (!no_golden_on_device()) check_step_sets(at::Device(at::kCUDA, 0));
}
