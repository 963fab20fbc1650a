#include "daug/translator/noise_schedule.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <regex>
#include <set>

#include "daug/translator/denoising_loss.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden_device.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"

using namespace daug;
using namespace daug::test;

namespace {

double cosine_power(double fraction) { return std::pow(std::cos((fraction + 0.008) / 1.008 * std::acos(0.0)), 2); }

/// `entry(level)` for the levels 1 .. steps, in the order of timestep tables.
std::vector<double> by_timestep(const NoiseSchedule& schedule, const std::function<double(std::int64_t)>& entry) {
  std::vector<double> table;
  for (std::int64_t level = 1; level <= schedule.steps(); ++level) table.push_back(entry(level));
  return table;
}

/// The table that guided-diffusion calls `name`.
std::vector<double> upstream_table(const NoiseSchedule& s, const std::string& name) {
  using Table = std::function<std::vector<double>()>;
  const auto levels = [&](const std::function<double(std::int64_t)>& entry) {
    return Table([&s, entry] { return by_timestep(s, entry); });
  };
  const std::map<std::string, Table> tables = {
      {"betas", [&] { return s.betas(); }},
      {"timestep_map", [&] { return std::vector<double>(s.timestep_map().begin(), s.timestep_map().end()); }},
      {"posterior_variance", [&] { return s.posterior_variance(); }},
      {"posterior_log_variance_clipped", [&] { return s.posterior_log_variance_clipped(); }},
      {"posterior_mean_coef1", [&] { return s.posterior_mean_coef1(); }},
      {"posterior_mean_coef2", [&] { return s.posterior_mean_coef2(); }},
      {"alphas_cumprod", levels([&](std::int64_t n) { return s.abar(n); })},
      {"alphas_cumprod_prev", levels([&](std::int64_t n) { return s.abar(n - 1); })},
      {"alphas_cumprod_next", levels([&](std::int64_t n) { return n < s.steps() ? s.abar(n + 1) : 0.0; })},
      {"sqrt_alphas_cumprod", levels([&](std::int64_t n) { return s.signal(n); })},
      {"sqrt_one_minus_alphas_cumprod", levels([&](std::int64_t n) { return s.noise(n); })},
      {"log_one_minus_alphas_cumprod", levels([&](std::int64_t n) { return std::log(1 - s.abar(n)); })},
      {"sqrt_recip_alphas_cumprod", levels([&](std::int64_t n) { return std::sqrt(1 / s.abar(n)); })},
      {"sqrt_recipm1_alphas_cumprod", levels([&](std::int64_t n) { return std::sqrt(1 / s.abar(n) - 1); })},
  };
  INFO("table " << name);
  REQUIRE(tables.count(name) == 1);
  return tables.at(name)();
}

}  // namespace

TEST_CASE("schedules are equal where every level is the same", "[noise_schedule]") {
  const auto full = NoiseSchedule::linear(1000);
  CHECK(full == NoiseSchedule::named("linear"));
  CHECK(full.respaced({3, 90}) == NoiseSchedule::linear(1000).respaced({3, 90}));
  for (const auto& other : {NoiseSchedule::cosine(1000), NoiseSchedule::scaled_linear(1000), NoiseSchedule::linear(500),
                            full.with_zero_terminal_snr(), full.respaced({3, 90})})
    CHECK_FALSE(full == other);
  CHECK_FALSE(full.respaced({3, 90}) == full.respaced({3, 91}));
  CHECK_FALSE(full.respaced({3, 90}) == full.respaced({3, 90, 640}));
}

TEST_CASE("linear betas by hand", "[noise_schedule]") {
  const auto schedule = NoiseSchedule::linear(1000);
  REQUIRE(schedule.steps() == 1000);
  CHECK(schedule.betas()[0] == Approx(1e-4).epsilon(1e-14));
  CHECK(schedule.betas()[1] == Approx(1e-4 + 0.0199 / 999).epsilon(1e-14));
  CHECK(schedule.betas()[999] == Approx(2e-2).epsilon(1e-14));
  CHECK(schedule.abar(0) == 1.0);
  CHECK(schedule.abar(1) == Approx(0.9999).epsilon(1e-14));
  CHECK(schedule.abar(2) == Approx(0.9999 * (1 - 1e-4 - 0.0199 / 999)).epsilon(1e-14));
  CHECK(schedule.signal(1) == Approx(std::sqrt(0.9999)).epsilon(1e-14));
  CHECK(schedule.noise(1) == Approx(0.01).epsilon(1e-12));
  // Fewer steps carry proportionally more noise each.
  CHECK(NoiseSchedule::linear(250).betas().front() == Approx(4e-4).epsilon(1e-14));
  CHECK(NoiseSchedule::linear(250).betas().back() == Approx(8e-2).epsilon(1e-14));
  CHECK(NoiseSchedule::linear(20).betas().back() == Approx(1.0).epsilon(1e-14));
  check_refused(ErrorCode::kInvalidArgument, "linear: steps", [&] { NoiseSchedule::linear(19); });
}

TEST_CASE("scaled linear betas by hand", "[noise_schedule]") {
  const auto schedule = NoiseSchedule::scaled_linear(1000);
  CHECK(schedule.betas().front() == Approx(1e-4).epsilon(1e-13));
  CHECK(schedule.betas().back() == Approx(2e-2).epsilon(1e-13));
  const double root = 0.01 + (std::sqrt(0.02) - 0.01) * 333 / 999;  // a third of the way between the roots
  CHECK(schedule.betas()[333] == Approx(root * root).epsilon(1e-13));
  CHECK(NoiseSchedule::scaled_linear(250).betas().back() == Approx(8e-2).epsilon(1e-13));
  CHECK(NoiseSchedule::named("scaled_linear", 50).name() == "scaled_linear");
  check_refused(ErrorCode::kInvalidArgument, "scaled_linear: steps", [&] { NoiseSchedule::scaled_linear(19); });
}

TEST_CASE("a schedule of given betas is the one that has them", "[noise_schedule]") {
  for (const auto& known : {NoiseSchedule::linear(250), NoiseSchedule::cosine(7)})
    CHECK(NoiseSchedule::from_betas(known.betas()) == known);
  const auto two = NoiseSchedule::from_betas({0.5, 0.75});
  CHECK(two.name() == "custom");
  CHECK(two.abar(1) == Approx(0.5).epsilon(1e-14));
  CHECK(two.abar(2) == Approx(0.125).epsilon(1e-14));
  CHECK(two.timestep(2) == 1);
  CHECK(two.with_zero_terminal_snr().abar(2) == 0);
  CHECK(NoiseSchedule::from_betas({0.5, 1}).abar(2) == 0);
  const std::vector<std::vector<double>> all_wrong = {{}, {0.0}, {-0.1, 0.5}, {1.0, 0.5}, {0.5, 1.1}, {std::nan("")}};
  for (const auto& wrong : all_wrong)
    check_refused(ErrorCode::kInvalidArgument, "from_betas: betas", [&] { NoiseSchedule::from_betas(wrong); });
}

TEST_CASE("cosine products telescope to the closed form until betas are capped", "[noise_schedule]") {
  for (const std::int64_t steps : {7, 100, 1000}) {
    const auto schedule = NoiseSchedule::cosine(steps);
    for (std::int64_t n = 0; n < steps; ++n) {
      if (n > 0 && schedule.betas()[static_cast<std::size_t>(n - 1)] == 0.999) break;
      const double expected = cosine_power(static_cast<double>(n) / static_cast<double>(steps)) / cosine_power(0);
      REQUIRE(schedule.abar(n) == Approx(expected).epsilon(1e-10));
    }
    CHECK(schedule.betas().back() == 0.999);
  }
}

TEST_CASE("a zero terminal SNR leaves the first level and takes all signal from the last", "[noise_schedule]") {
  for (const char* name : {"linear", "scaled_linear", "cosine"}) {
    INFO(name);
    const auto plain = NoiseSchedule::named(name, 1000),
               zero = NoiseSchedule::named(std::string("zero_snr_") + name, 1000);
    CHECK(zero.name() == std::string("zero_snr_") + name);
    CHECK(zero.abar(1000) == 0);
    CHECK(zero.signal(1) == Approx(plain.signal(1)).epsilon(1e-14));
    // In between the signal is the same straight line of the old one everywhere.
    const double scale = plain.signal(1) / (plain.signal(1) - plain.signal(1000));
    for (const std::int64_t level : {2, 100, 500, 999})
      CHECK(zero.signal(level) == Approx(scale * (plain.signal(level) - plain.signal(1000))).epsilon(1e-9));
    CHECK(zero.betas().back() == 1);
    for (const double value : zero.posterior_log_variance_clipped()) CHECK(std::isfinite(value));
    CHECK_THROWS_AS(zero.with_zero_terminal_snr(), Error);
    CHECK_THROWS_AS(plain.respaced({3, 40}).with_zero_terminal_snr(), Error);
  }
}

TEST_CASE("signal falls, noise rises, and their squares sum to one", "[noise_schedule]") {
  for (const char* name : {"linear", "cosine"})
    for (const std::int64_t steps : {25, 1000}) {
      const auto schedule = NoiseSchedule::named(name, steps);
      CHECK(schedule.name() == name);
      for (std::int64_t n = 1; n <= steps; ++n) {
        REQUIRE(schedule.abar(n) < schedule.abar(n - 1));
        REQUIRE(std::pow(schedule.signal(n), 2) + std::pow(schedule.noise(n), 2) == Approx(1).epsilon(1e-14));
      }
    }
  check_refused(ErrorCode::kInvalidArgument, "named: name", [&] { NoiseSchedule::named("quadratic"); });
}

TEST_CASE("a level is one more than its timestep, and level 0 is clean", "[noise_schedule]") {
  const auto schedule = NoiseSchedule::linear(50);
  CHECK(schedule.timestep(0) == 0);
  for (std::int64_t n = 1; n <= 50; ++n) {
    REQUIRE(schedule.timestep(n) == n - 1);
    REQUIRE(schedule.abar(n) ==
            Approx(schedule.abar(n - 1) * (1 - schedule.betas()[static_cast<std::size_t>(n - 1)])).epsilon(1e-15));
  }
  const std::vector<std::int64_t> kept = {0, 3, 10, 49};
  const auto spaced = schedule.respaced(kept);
  REQUIRE(spaced.steps() == 4);
  CHECK(spaced.abar(0) == 1.0);
  CHECK(spaced.timestep(0) == 0);
  for (std::int64_t n = 1; n <= 4; ++n) {
    const std::int64_t t = kept[static_cast<std::size_t>(n - 1)];
    CHECK(spaced.timestep(n) == t);
    CHECK(spaced.abar(n) == Approx(schedule.abar(t + 1)).epsilon(1e-11));
  }
  // Respacing twice still names the timesteps of the schedule the network was trained with.
  CHECK(spaced.respaced({1, 3}).timestep_map() == std::vector<std::int64_t>{3, 49});

  check_refused(ErrorCode::kInvalidArgument, "abar: level", [&] { schedule.abar(-1); });
  check_refused(ErrorCode::kInvalidArgument, "abar: level", [&] { schedule.abar(51); });
  check_refused(ErrorCode::kInvalidArgument, "timestep: level", [&] { schedule.timestep(51); });
  check_refused(ErrorCode::kInvalidArgument, "respaced: kept", [&] { schedule.respaced({}); });
  check_refused(ErrorCode::kInvalidArgument, "respaced: kept", [&] { schedule.respaced({3, 3}); });
  check_refused(ErrorCode::kInvalidArgument, "respaced: kept", [&] { schedule.respaced({5, 50}); });
}

TEST_CASE("the posterior is the product of two Gaussians", "[noise_schedule]") {
  // q(x_{t-1} | x_t, x_0) multiplies N(sqrt(alpha) x_{t-1}, beta) in x_t with N(sqrt(abar_prev) x_0, 1 - abar_prev).
  for (const auto& schedule : {NoiseSchedule::linear(100), NoiseSchedule::cosine(40),
                               NoiseSchedule::linear(1000).respaced({0, 7, 100, 101, 998})}) {
    const auto variance = schedule.posterior_variance();
    const auto log_variance = schedule.posterior_log_variance_clipped();
    const auto coef1 = schedule.posterior_mean_coef1(), coef2 = schedule.posterior_mean_coef2();
    CHECK(variance[0] == 0.0);
    CHECK(coef1[0] == Approx(1));
    CHECK(coef2[0] == 0.0);
    CHECK(log_variance[0] == log_variance[1]);
    for (std::size_t t = 1; t < variance.size(); ++t) {
      const double beta = schedule.betas()[t], previous = schedule.abar(static_cast<std::int64_t>(t));
      const double expected = 1 / ((1 - beta) / beta + 1 / (1 - previous));
      REQUIRE(variance[t] == Approx(expected).epsilon(1e-9));
      REQUIRE(log_variance[t] == Approx(std::log(expected)).epsilon(1e-9));
      REQUIRE(coef1[t] == Approx(expected * std::sqrt(previous) / (1 - previous)).epsilon(1e-9));
      REQUIRE(coef2[t] == Approx(expected * std::sqrt(1 - beta) / beta).epsilon(1e-9));
    }
  }
}

TEST_CASE("level paths are even, distinct and end where asked", "[noise_schedule]") {
  const auto schedule = NoiseSchedule::linear(1000);
  CHECK(schedule.level_path(500, 5) == std::vector<std::int64_t>{0, 100, 200, 300, 400, 500});
  CHECK(schedule.level_path(5, 2) == std::vector<std::int64_t>{0, 2, 5});  // 2.5 rounds to even
  CHECK(schedule.level_path(3, 3) == std::vector<std::int64_t>{0, 1, 2, 3});
  CHECK(schedule.level_path(1000, 1) == std::vector<std::int64_t>{0, 1000});
  for (std::int64_t top = 1; top <= 1000; top += 37)
    for (std::int64_t count = 1; count <= top; count += 1 + top / 23) {
      const auto path = schedule.level_path(top, count);
      REQUIRE(path.size() == static_cast<std::size_t>(count) + 1);
      REQUIRE(path.front() == 0);
      REQUIRE(path.back() == top);
      for (std::size_t i = 1; i < path.size(); ++i) {
        REQUIRE(path[i] > path[i - 1]);
        REQUIRE(std::abs(static_cast<double>(path[i]) -
                         static_cast<double>(top) * static_cast<double>(i) / static_cast<double>(count)) <= 0.5);
      }
    }
  check_refused(ErrorCode::kInvalidArgument, "level_path: top", [&] { schedule.level_path(0, 1); });
  check_refused(ErrorCode::kInvalidArgument, "level_path: top", [&] { schedule.level_path(1001, 1); });
  check_refused(ErrorCode::kInvalidArgument, "level_path: count", [&] { schedule.level_path(10, 0); });
  check_refused(ErrorCode::kInvalidArgument, "level_path: count", [&] { schedule.level_path(10, 11); });
}

TEST_CASE("timestep sections by hand", "[noise_schedule]") {
  CHECK(space_timesteps(10, "5") == std::vector<std::int64_t>{0, 2, 4, 7, 9});  // 4.5 rounds to even
  CHECK(space_timesteps(10, "1") == std::vector<std::int64_t>{0});
  CHECK(space_timesteps(10, "2,1") == std::vector<std::int64_t>{0, 4, 5});
  CHECK(space_timesteps(11, "1,1") == std::vector<std::int64_t>{0, 6});  // the first section is the longer one
  CHECK(space_timesteps(10, "ddim5") == std::vector<std::int64_t>{0, 2, 4, 6, 8});
  CHECK(space_timesteps(10, " 2, 1 ") == space_timesteps(10, "2,1"));
  CHECK(space_timesteps(10, "ddim 5") == space_timesteps(10, "ddim5"));
  for (const char* wrong :
       {"", " ", "1 2", " ddim5", "ddim", "x", "3,", "-1", "ddim7", "11", "2,9", "1.5", "99999999999"})
    check_refused(ErrorCode::kInvalidArgument, "space_timesteps: sections", [&] { space_timesteps(10, wrong); });
  check_refused(ErrorCode::kInvalidArgument, "space_timesteps: total", [&] { space_timesteps(0, "1"); });
}

TEST_CASE("golden: schedule tables", "[noise_schedule][golden]") {
  for_each_golden("diffusion_tables", [](const GoldenSet& set) {
    const double relative = set.settings.at("tolerance").at("relative");
    std::smatch match;
    const std::string note = set.settings["tolerance"].value("note", "");
    const double absolute =
        std::regex_search(note, match, std::regex("absolute ([0-9.e+-]+)")) ? std::stod(match[1]) : 0;
    std::map<std::string, NoiseSchedule> schedules;
    for (const auto& entry : set.settings.at("config").value("schedules", nlohmann::json::array())) {
      const std::string key = entry[0].get<std::string>() + std::to_string(entry[1].get<int>());
      schedules.emplace(key, NoiseSchedule::named(entry[0].get<std::string>(), entry[1]));
    }
    for (const auto& entry : set.settings.at("config").value("spaced", nlohmann::json::array())) {
      const std::int64_t steps = entry[1];
      const std::string sections = golden_sections(entry[2]);
      const auto schedule = NoiseSchedule::named(entry[0].get<std::string>(), steps);
      schedules.emplace(entry[0].get<std::string>() + std::to_string(steps) + "/" + sections,
                        schedule.respaced(space_timesteps(steps, sections)));
    }
    double worst = 0;
    std::set<std::string> seen;
    for (const auto& [name, array] : set.file.tensors) {
      const auto dot = name.rfind('.');
      INFO(name);
      REQUIRE(schedules.count(name.substr(0, dot)) == 1);
      seen.insert(name.substr(0, dot));
      const auto actual = upstream_table(schedules.at(name.substr(0, dot)), name.substr(dot + 1));
      const auto expected = array.to_double();
      REQUIRE(actual.size() == expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        if (actual[i] == expected[i]) continue;  // infinity, where nothing of the signal is left
        const double difference = std::abs(actual[i] - expected[i]);
        if (!(difference <= absolute + relative * std::abs(expected[i])))
          FAIL_CHECK(name << "[" << i << "]: " << actual[i] << " against " << expected[i]);
      }
      worst = std::max(worst, relative_error(actual, expected));
    }
    CHECK(seen.size() == schedules.size());
    return worst;
  });
}

TEST_CASE("golden: respacing", "[noise_schedule][golden]") {
  for_each_golden("diffusion_respace", [](const GoldenSet& set) {
    const auto failures = set.settings.value("must_fail", nlohmann::json::object());
    for (const auto& spec : set.settings.at("config").at("specs")) {
      const std::int64_t total = spec[0];
      const std::string sections = golden_sections(spec[1]), key = std::to_string(total) + "/" + sections;
      INFO(key);
      if (failures.contains(key))
        CHECK_THROWS_AS(space_timesteps(total, sections), Error);
      else
        CHECK(space_timesteps(total, sections) == set.at(key).to_int64());
    }
    check_outputs_read(set);
    return 0.0;
  });
}

namespace {

/// What the bound loses at the schedule's end, all of a set that tensors are asked for.
double check_prior(const GoldenSet& set, const at::Device& device) {
  const auto schedule = golden_schedule(set.settings.at("config"));
  const auto& tolerance = set.settings.at("tolerance");
  const double exact = std::stod(tolerance.at("f64").get<std::string>());
  const auto prior = to_doubles(prior_term(schedule, to_tensor(set.at("x_start")).to(device)));
  CHECK(relative_error(prior, set.at("prior_bpd").to_double()) <= tolerance.at("prior_bpd").get<double>());
  // Upstream adds numbers of 1 and more for it, whose last digits are all there is where hardly any signal is left.
  const auto prior_f64 = set.at("prior_bpd_f64").to_double();
  const double largest = prior_f64.empty() ? 0 : *std::max_element(prior_f64.begin(), prior_f64.end());
  CHECK(absolute_error(prior, prior_f64) <= exact * largest + 4 * std::numeric_limits<double>::epsilon());
  return relative_error(prior, prior_f64);
}

}  // namespace

TEST_CASE("golden: forward process and posterior", "[noise_schedule][golden]") {
  for_each_golden("diffusion_q", [](const GoldenSet& set) {
    const auto& config = set.settings.at("config");
    const auto schedule = golden_schedule(config);
    const auto timesteps = set.at("t").to_int64();
    const auto x_start = set.at("x_start").to_double(), noise = set.at("noise").to_double();
    const auto x_t = set.at("x_t").to_double();
    const std::size_t row = x_start.size() / timesteps.size();
    using Formula = std::function<double(std::size_t t, std::int64_t level, std::size_t i)>;
    const auto variance = schedule.posterior_variance(), log_variance = schedule.posterior_log_variance_clipped();
    const auto coef1 = schedule.posterior_mean_coef1(), coef2 = schedule.posterior_mean_coef2();
    const std::map<std::string, Formula> formulas = {
        {"q_sample",
         [&](auto, auto n, auto i) { return schedule.signal(n) * x_start[i] + schedule.noise(n) * noise[i]; }},
        {"q_mean", [&](auto, auto n, auto i) { return schedule.signal(n) * x_start[i]; }},
        {"q_variance", [&](auto, auto n, auto) { return 1 - schedule.abar(n); }},
        {"q_log_variance", [&](auto, auto n, auto) { return 2 * std::log(schedule.noise(n)); }},
        {"posterior_mean", [&](auto t, auto, auto i) { return coef1[t] * x_start[i] + coef2[t] * x_t[i]; }},
        {"posterior_variance", [&](auto t, auto, auto) { return variance[t]; }},
        {"posterior_log_variance", [&](auto t, auto, auto) { return log_variance[t]; }},
        {"xstart_from_eps",
         [&](auto, auto n, auto i) { return (x_t[i] - schedule.noise(n) * noise[i]) / schedule.signal(n); }},
        {"eps_from_xstart",
         [&](auto, auto n, auto i) { return (x_t[i] - schedule.signal(n) * x_start[i]) / schedule.noise(n); }},
    };
    const double single = set.settings.at("tolerance").at("relative");
    const double exact = std::stod(set.settings.at("tolerance").at("f64").get<std::string>());
    double worst = 0;
    for (const auto& [name, formula] : formulas) {
      std::vector<double> actual(x_start.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const std::int64_t t = timesteps[i / row];
        actual[i] = formula(static_cast<std::size_t>(t), t + 1, i);
      }
      INFO(name);
      CHECK(relative_error(actual, set.at(name).to_double()) <= single);
      const double error = relative_error(actual, set.at(name + "_f64").to_double());
      CHECK(error <= exact);
      worst = std::max(worst, error);
    }
    worst = std::max(worst, check_prior(set, at::kCPU));
    check_outputs_read(set);
    return worst;
  });
}

TEST_CASE("golden prior terms of the bound on a device", "[gpu]") {
  if (no_golden_on_device()) return;
  for_each_golden("diffusion_q", [](const GoldenSet& set) { return check_prior(set, at::Device(at::kCUDA, 0)); });
}
