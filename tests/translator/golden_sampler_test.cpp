// Solvers beside the schedulers of diffusers, step by step and in whole walks.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/translator/ddim_solver.h"
#include "daug/translator/dpm_solver.h"
#include "daug/translator/reverse_process.h"
#include "daug/translator/solver.h"
#include "support/catch.h"
#include "support/golden_device.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

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
  SamplerCase(const GoldenSet& golden, const std::string& name, const nlohmann::json& settings,
              const at::Device& device)
      : set(golden),
        prefix(name + "."),
        kind(settings.at("kind")),
        asked_steps(settings.at("steps")),
        scheduler(settings.at("scheduler")),
        eta(settings.value("eta", 0.0)),
        timesteps(set.at(prefix + "timesteps").to_int64()),
        schedule(schedule_of(scheduler, kind, timesteps)),
        steps(static_cast<std::int64_t>(timesteps.size())),
        samples(to_tensor(set.at(prefix + "samples")).to(device)),
        native(to_tensor(set.at(prefix + "samples_native")).to(device)),
        outputs(to_tensor(set.at(prefix + "model_out")).to(device)),
        mean(to_tensor(set.at("mu")).to(device)),
        deviation(to_tensor(set.at("s")).to(device)),
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

void check_ddim_sets(const at::Device& device) {
  for_each_golden("sampler_ddim", [&device](const GoldenSet& set) {
    const double tolerance = set.settings.at("tolerance").at("float64");
    return check_cases(set, [&](const std::string& name, const nlohmann::json& settings) {
      const SamplerCase one(set, name, settings, device);
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
                   ? ddim_step(one.schedule, state, eps, to_tensor(set.at("noise"))[i].to(device), from, to, one.eta)
                   : transition(one.schedule, state, eps, from, to);
      };
      return check_sampler(one, tolerance, step, step);
    });
  });
}

void check_dpm_sets(const at::Device& device) {
  for_each_golden("sampler_dpm", [&device](const GoldenSet& set) {
    const double tolerance = set.settings.at("tolerance").at("float64");
    return check_cases(set, [&](const std::string& name, const nlohmann::json& settings) {
      const SamplerCase one(set, name, settings, device);
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

}  // namespace

TEST_CASE("golden: DDIM sampling and inversion", "[solver][golden]") { check_ddim_sets(at::kCPU); }

TEST_CASE("golden: DPM-Solver++ sampling and inversion", "[solver][golden]") { check_dpm_sets(at::kCPU); }

TEST_CASE("golden sampling and inversion on a device", "[gpu]") {
  if (no_golden_on_device()) return;
  check_ddim_sets(at::Device(at::kCUDA, 0));
  check_dpm_sets(at::Device(at::kCUDA, 0));
}
