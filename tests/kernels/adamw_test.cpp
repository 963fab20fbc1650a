#include "kernels/adamw.h"

#include <cmath>
#include <limits>
#include <string>

#include "kernels/cuda/launch_plan.h"
#include "kernels/emulation.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

constexpr int kSteps = 7;
constexpr float kNotANumber = std::numeric_limits<float>::quiet_NaN();

/// Some steps of so many elements, with the parts that may be absent.
struct Training {
  std::int64_t elements;
  bool average, factor, leaves_out;

  bool applied(int step) const { return !leaves_out || (step != 0 && step != 3 && step != 4); }
  double factor_of(int step) const { return factor ? 0.37 + 0.1 * step : 1.0; }

  /// Settings that differ from step to step, as schedules of learning rate and average do.
  AdamwStep settings(int step) const {
    AdamwStep s;
    s.elements = elements;
    s.rate = 0.05 / (1 + step), s.decay = 0.3, s.beta1 = 0.8, s.beta2 = 0.95, s.epsilon = 1e-6;
    s.average_decay = 0.5 + 0.05 * step;
    return s;
  }

  std::vector<float> start(std::uint64_t seed) const { return random_floats(elements, seed); }
  std::vector<float> gradient(int step) const {
    std::vector<float> values = random_floats(elements, 10 + static_cast<std::uint64_t>(step));
    if (!applied(step)) values[values.size() / 2] = kNotANumber;
    return values;
  }
};

/// Weights, moments, average and steps that were made.
template <class T>
struct State {
  std::vector<T> weights, first, second, average, steps;
};

/// The definition, element by element in float64.
State<double> expected(const Training& training) {
  const auto wide = [](const std::vector<float>& values) { return std::vector<double>(values.begin(), values.end()); };
  State<double> state{wide(training.start(1)), {}, {}, wide(training.start(2)), {0.0}};
  state.first.resize(state.weights.size());
  state.second.resize(state.weights.size());
  for (int step = 0; step < kSteps; ++step) {
    if (!training.applied(step)) continue;
    const AdamwStep s = training.settings(step);
    const std::vector<float> gradient = training.gradient(step);
    const double t = ++state.steps[0];
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      const double g = training.factor_of(step) * gradient[i];
      state.first[i] = s.beta1 * state.first[i] + (1 - s.beta1) * g;
      state.second[i] = s.beta2 * state.second[i] + (1 - s.beta2) * g * g;
      const double m = state.first[i] / (1 - std::pow(s.beta1, t)), v = state.second[i] / (1 - std::pow(s.beta2, t));
      state.weights[i] = state.weights[i] * (1 - s.rate * s.decay) - s.rate * m / (std::sqrt(v) + s.epsilon);
      if (!training.average) continue;
      state.average[i] = s.average_decay * state.average[i] + (1 - s.average_decay) * state.weights[i];
    }
  }
  return state;
}

/// What adamw_device leaves in arrays that begin `skipped` bytes behind a multiple of 16, one behind the other.
std::vector<float> run_on_device(const Training& training, std::size_t skipped) {
  const std::vector<float> zeros(static_cast<std::size_t>(training.elements));
  DeviceMemory weights(training.start(1), skipped), first(zeros, skipped), second(zeros, skipped),
      average(training.start(2), skipped), steps(std::vector<float>{0.0F}),
      workspace(static_cast<std::size_t>(kAdamwWorkspace) * sizeof(float));
  const auto all = [&] {
    std::vector<float> values;
    for (const DeviceMemory* memory : {&weights, &first, &second, &average, &steps}) {
      const std::vector<float> part = memory->values<float>();
      values.insert(values.end(), part.begin(), part.end());
    }
    return values;
  };
  for (int step = 0; step < kSteps; ++step) {
    const bool applies = training.applied(step);
    DeviceMemory gradient(training.gradient(step), skipped),
        factor(std::vector<double>{applies ? training.factor_of(step) : std::numeric_limits<double>::quiet_NaN()}),
        applied(std::vector<unsigned char>{static_cast<unsigned char>(applies ? 1 : 0)});
    AdamwStep s = training.settings(step);
    s.gradient = gradient.floats();
    s.weights = weights.floats(), s.first_moment = first.floats(), s.second_moment = second.floats();
    s.steps = steps.floats();
    if (training.average) s.average = average.floats();
    if (training.factor) s.factor = static_cast<const double*>(factor.data());
    if (training.leaves_out) s.applied = static_cast<const bool*>(applied.data());
    const std::vector<float> before = all();
    const Launched launched;
    launched.check(adamw_device(s, workspace.floats(), launched.where));
    CHECK((all() == before) == !applies);
  }
  return all();
}

/// The parts of what run_on_device returns.
State<float> parts_of(const std::vector<float>& all, std::int64_t elements) {
  const auto part = [&](std::int64_t which, std::int64_t count) {
    return std::vector<float>(all.begin() + which * elements, all.begin() + which * elements + count);
  };
  return {part(0, elements), part(1, elements), part(2, elements), part(3, elements), part(4, 1)};
}

}  // namespace

TEST_CASE("adamw of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  for (const std::int64_t elements : {1, 3, 4, 7, 255, 1024, 1030, 4099})
    for (unsigned parts = 0; parts < 8; ++parts) {
      const Training training{elements, (parts & 1) != 0, (parts & 2) != 0, (parts & 4) != 0};
      INFO(elements << " elements, parts " << parts);
      const std::vector<float> all = in_both_orders([&] { return run_on_device(training, 0); });
      const State<float> result = parts_of(all, elements);
      const State<double> wanted = expected(training);
      CHECK(result.steps[0] == static_cast<float>(training.leaves_out ? kSteps - 3 : kSteps));
      CHECK(largest_error(result.weights, wanted.weights) < 2e-6);
      CHECK(largest_error(result.first, wanted.first) < 4e-6);
      CHECK(largest_error(result.average, wanted.average) < 2e-6);
      // Of squares small ones count as much as large ones.
      double worst = 0;
      for (std::size_t i = 0; i < result.second.size(); ++i)
        worst = std::max(worst, std::abs(result.second[i] / wanted.second[i] - 1));
      CHECK(worst < 5e-6);
      if (!training.average) CHECK(result.average == training.start(2));
      CHECK(run_on_device(training, sizeof(float)) == all);
    }
}

TEST_CASE("adamw of a device, emulated, takes more elements than its blocks have threads", "[kernels][emulated]") {
  // Loads of single elements, whose values repeat.
  constexpr std::size_t kPeriod = 1000, kSkipped = sizeof(float);
  const auto elements = static_cast<std::size_t>(cuda::kMostAdamwBlocks * cuda::kThreads) + 777;
  const auto repeated = [&](std::uint64_t seed) {
    const std::vector<float> values = random_floats(kPeriod, seed);
    std::vector<float> all(elements);
    for (std::size_t i = 0; i < elements; ++i) all[i] = values[i % kPeriod];
    return all;
  };
  const std::vector<float> start = repeated(1);
  DeviceMemory gradient(repeated(2), kSkipped), weights(start, kSkipped), first(std::vector<float>(elements), kSkipped),
      second(std::vector<float>(elements), kSkipped), steps(std::vector<float>{0.0F}),
      workspace(static_cast<std::size_t>(kAdamwWorkspace) * sizeof(float));
  AdamwStep s;
  s.elements = static_cast<std::int64_t>(elements);
  s.rate = 0.1;
  s.gradient = gradient.floats(), s.weights = weights.floats(), s.steps = steps.floats();
  s.first_moment = first.floats(), s.second_moment = second.floats();
  const Launched launched;
  launched.check(adamw_device(s, workspace.floats(), launched.where));
  const std::vector<float> result = weights.values<float>();
  std::size_t unchanged = 0, other = 0;
  for (std::size_t i = 0; i < elements; ++i) {
    unchanged += result[i] == start[i] ? 1 : 0;
    other += result[i] == result[i % kPeriod] ? 0 : 1;
  }
  CHECK(unchanged == 0);
  CHECK(other == 0);
}

TEST_CASE("adamw of a device, emulated: no elements, another device", "[kernels][emulated]") {
  DeviceMemory steps(std::vector<float>{2.0F}), workspace(static_cast<std::size_t>(kAdamwWorkspace) * sizeof(float));
  AdamwStep s;
  s.steps = steps.floats();
  CHECK(adamw_device(s, workspace.floats(), {}).problem == nullptr);
  CHECK(steps.floats()[0] == 3);
  CHECK(std::string(adamw_device(s, workspace.floats(), {7, nullptr}).problem) == "invalid device ordinal");
  CHECK(steps.floats()[0] == 3);
}
