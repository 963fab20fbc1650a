#include "backend/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "daug/core/error.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/device.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

/// Steps of two groups, with settings that change from step to step.
struct AdamwSteps {
  std::int64_t elements;
  unsigned parts;  ///< bits: averages; a factor; steps that are left out; arrays that begin at odd addresses

  static constexpr int kCount = 7, kGroups = 2;
  static constexpr double kBeta1 = 0.8, kBeta2 = 0.95, kEpsilon = 1e-6;

  bool applied(int step) const { return (parts & 4) == 0 || (step != 0 && step != 3 && step != 4); }
  double factor(int step) const { return parts & 2 ? 0.4 + 0.1 * step : 1.0; }
  double average_decay(int step) const { return 0.5 + 0.05 * step; }
  double rate(int group, int step) const { return (group == 0 ? 0.05 : 0.02) / (1 + step); }
  double decay(int group) const { return group == 0 ? 0.3 : 0.0; }
  at::Tensor values(int group, int seed) const {
    return float_tensor({elements + 3 * group}, static_cast<std::uint64_t>(kGroups * seed + group));
  }
  at::Tensor start(int group) const { return values(group, 0); }
  at::Tensor gradient(int group, int step) const { return values(group, 1 + step); }

  /// Weights, moments, average and number of steps of both groups afterwards, in float64 on the CPU.
  std::vector<at::Tensor> run(at::ScalarType type, const c10::Device& device, Execution execution) const {
    constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();
    const at::NoGradGuard no_grad;
    const at::TensorOptions options = at::TensorOptions(type).device(device);
    const std::int64_t skipped = parts & 8 ? 1 : 0;
    const auto put = [&](const at::Tensor& tensor) {
      const at::Tensor there = at::zeros({skipped + tensor.numel()}, options).narrow(0, skipped, tensor.numel());
      there.copy_(tensor);
      return there;
    };
    std::vector<AdamwGroup> groups(kGroups);
    for (int group = 0; group < kGroups; ++group) {
      AdamwGroup& g = groups[static_cast<std::size_t>(group)];
      g.weights = put(start(group));
      g.first_moment = at::zeros_like(g.weights), g.second_moment = at::zeros_like(g.weights);
      if (parts & 1) g.average = g.weights.clone();
      g.steps = at::zeros({}, options.dtype(at::kFloat));
      g.decay = decay(group);
    }
    for (int step = 0; step < kCount; ++step) {
      AdamwSettings settings{kBeta1, kBeta2, kEpsilon, average_decay(step), {}, {}};
      if (parts & 2)
        settings.factor = at::zeros({}, options.dtype(at::kDouble)).fill_(applied(step) ? factor(step) : kNotANumber);
      if (parts & 4) settings.applied = at::zeros({}, options.dtype(at::kBool)).fill_(applied(step));
      for (int group = 0; group < kGroups; ++group) {
        AdamwGroup& g = groups[static_cast<std::size_t>(group)];
        g.gradient = put(gradient(group, step));
        if (!applied(step)) g.gradient.narrow(0, 0, 1).fill_(kNotANumber);
        g.rate = rate(group, step);
      }
      adamw(groups, settings, execution);
    }
    std::vector<at::Tensor> left;
    for (const AdamwGroup& g : groups)
      for (const at::Tensor& tensor : {g.weights, g.first_moment, g.second_moment, g.average, g.steps})
        if (tensor.defined()) left.push_back(tensor.to(at::kCPU, at::kDouble));
    return left;
  }

  /// The same, element by element in float64.
  std::vector<at::Tensor> by_hand() const {
    std::vector<at::Tensor> left;
    for (int group = 0; group < kGroups; ++group) {
      std::vector<double> w = to_doubles(start(group)), m(w.size()), v(w.size()), average = w;
      double t = 0;
      for (int step = 0; step < kCount; ++step) {
        if (!applied(step)) continue;
        const std::vector<double> slope = to_doubles(gradient(group, step));
        const double lr = rate(group, step), share = 1 - average_decay(step);
        ++t;
        for (std::size_t i = 0; i < w.size(); ++i) {
          const double g = factor(step) * slope[i];
          m[i] = kBeta1 * m[i] + (1 - kBeta1) * g;
          v[i] = kBeta2 * v[i] + (1 - kBeta2) * g * g;
          w[i] *= 1 - lr * decay(group);
          w[i] -= lr * m[i] / (1 - std::pow(kBeta1, t)) / (std::sqrt(v[i] / (1 - std::pow(kBeta2, t))) + kEpsilon);
          average[i] += share * (w[i] - average[i]);
        }
      }
      for (const auto* values : {&w, &m, &v}) left.push_back(at::tensor(*values, at::kDouble));
      if (parts & 1) left.push_back(at::tensor(average, at::kDouble));
      left.push_back(at::tensor(std::vector<double>{t}, at::kDouble));
    }
    return left;
  }
};

double adamw_error(const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& expected) {
  REQUIRE(actual.size() == expected.size());
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const at::Tensor a = actual[i].flatten(), b = expected[i].flatten();
    REQUIRE(a.sizes() == b.sizes());
    REQUIRE(a.isfinite().all().item<bool>());
    largest = std::max(largest, ((a - b).abs() / (1 + b.abs())).max().item<double>());
  }
  return largest;
}

}  // namespace

TEST_CASE("a step of AdamW in LibTorch's operators is its definition", "[backend]") {
  for (unsigned parts = 0; parts < 8; ++parts)
    for (const std::int64_t elements : {1, 37, 1000}) {
      INFO(elements << " elements, parts " << parts);
      const AdamwSteps steps{elements, parts};
      const auto expected = steps.by_hand();
      for (const Execution execution : {Execution::kAuto, Execution::kReference})
        CHECK(adamw_error(steps.run(at::kDouble, at::kCPU, execution), expected) < 1e-10);
      CHECK(adamw_error(steps.run(at::kFloat, at::kCPU, Execution::kAuto), expected) < 1e-5);
    }
}

TEST_CASE("a step of AdamW refuses what does not fit, and its kernel where there is none", "[backend]") {
  const AdamwSteps steps{5, 7};
  check_refused(ErrorCode::kUnsupported, "daug::backend::adamw: execution",
                [&] { steps.run(at::kFloat, at::kCPU, Execution::kFused); });
  const auto numbers = [](std::int64_t count) { return at::zeros({count}); };
  AdamwGroup good;
  good.weights = numbers(4), good.gradient = numbers(4), good.first_moment = numbers(4);
  good.second_moment = numbers(4), good.average = numbers(4), good.steps = at::zeros({});
  adamw({good}, {});
  CHECK(good.steps.item<float>() == 1);
  adamw({}, {});
  const auto refused = [&](const char* argument, auto change) {
    AdamwGroup group = good;
    AdamwSettings settings;
    change(group, settings);
    check_refused(ErrorCode::kInvalidArgument, argument, [&] { adamw({group}, settings); });
  };
  refused("groups", [&](AdamwGroup& group, AdamwSettings&) { group.gradient = numbers(3); });
  refused("groups", [&](AdamwGroup& group, AdamwSettings&) { group.second_moment = at::Tensor(); });
  refused("groups", [&](AdamwGroup& group, AdamwSettings&) { group.average = numbers(5); });
  refused("groups", [&](AdamwGroup& group, AdamwSettings&) { group.steps = numbers(2); });
  refused("settings.factor", [&](AdamwGroup&, AdamwSettings& settings) { settings.factor = numbers(1); });
  refused("settings.applied", [&](AdamwGroup&, AdamwSettings& settings) { settings.applied = numbers(1); });
  CHECK(good.steps.item<float>() == 1);
}

TEST_CASE("a step of AdamW on a device agrees with float64", "[backend][gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  const c10::Device device(at::kCUDA, 0);
  for (unsigned parts = 0; parts < 16; ++parts)
    for (const std::int64_t elements : {1, 4, 1027, 20011}) {
      INFO(elements << " elements, parts " << parts);
      const AdamwSteps steps{elements, parts};
      const auto expected = steps.by_hand(), fused = steps.run(at::kFloat, device, Execution::kFused);
      CHECK(adamw_error(fused, expected) < 1e-5);
      CHECK(adamw_error(steps.run(at::kFloat, device, Execution::kFused), fused) == 0);
      CHECK(adamw_error(steps.run(at::kFloat, device, Execution::kReference), expected) < 1e-5);
    }
  check_refused(ErrorCode::kUnsupported, "daug::backend::adamw: execution", [&] {
    AdamwSteps{5, 7}.run(at::kDouble, device, Execution::kFused);
  });
}

TEST_CASE("a step of AdamW on a device reaches all of a large network", "[backend][gpu]") {
  if (no_device()) return;
  using namespace kernels::cuda;
  const at::NoGradGuard no_grad;
  const std::int64_t elements = kMostAdamwBlocks * kThreads * kAdamwWidth + 4099;
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(c10::Device(at::kCUDA, 0));
  const auto after = [&](at::ScalarType type, Execution execution) {
    const auto numbers = [&](double from) { return at::arange(elements, options).add(from).sin().to(type); };
    AdamwGroup group;
    group.weights = numbers(0), group.gradient = numbers(1), group.average = numbers(2);
    group.first_moment = numbers(3), group.second_moment = numbers(4).square();
    group.steps = at::zeros({}, options);
    group.rate = 0.05, group.decay = 0.1;
    AdamwSettings settings;
    settings.average_decay = 0.9;
    adamw({group}, settings, execution);
    return at::stack({group.weights, group.first_moment, group.second_moment, group.average}).to(at::kDouble);
  };
  const at::Tensor expected = after(at::kDouble, Execution::kReference), fused = after(at::kFloat, Execution::kFused);
  CHECK(((fused - expected).abs() / (1 + expected.abs())).max().item<double>() < 1e-5);
}
