#include "backend/fused_ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "backend/threads.h"
#include "daug/core/error.h"
#include "support/catch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).abs() / (1 + b.to(at::kDouble).abs())).max().item<double>();
}

GroupNormExtras wide(const GroupNormExtras& extras) {
  const auto to_double = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kDouble) : tensor; };
  return {to_double(extras.offset), to_double(extras.scale), to_double(extras.shift), extras.silu};
}

}  // namespace

TEST_CASE("the fused group norm agrees with LibTorch's operators in float64, in both layouts", "[backend]") {
  const at::Tensor weight = float_tensor({24}, 1), bias = float_tensor({24}, 2),
                   embedding = float_tensor({3, 48, 1, 1}, 3);
  const auto parts = embedding.chunk(2, 1);  // as a residual block gets them: rows with a stride
  std::vector<GroupNormExtras> cases(3);
  cases[0].silu = false;
  cases[1].offset = parts[0];
  cases[2].scale = parts[0], cases[2].shift = parts[1];
  for (const GroupNormExtras& extras : cases)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const at::Tensor x = float_tensor({3, 24, 9, 7}, 4).contiguous(format);
      const at::Tensor fused = group_norm_silu(x, 8, weight, bias, 1e-5, extras, Execution::kFused);
      CHECK(fused.is_contiguous(format));
      const at::Tensor reference = group_norm_silu(x.to(at::kDouble), 8, weight.to(at::kDouble), bias.to(at::kDouble),
                                                   1e-5, wide(extras), Execution::kReference);
      CHECK(difference(fused, reference) < 1e-5);
      CHECK(at::equal(fused, group_norm_silu(x, 8, weight, bias, 1e-5, extras)));
      GroupNormExtras given_up = extras;
      given_up.in_place = true;
      const at::Tensor copy = x.clone();
      CHECK(at::equal(fused, group_norm_silu(copy, 8, weight, bias, 1e-5, given_up, Execution::kFused)));
      CHECK(at::equal(fused, copy));
    }
  // Three dimensions, as attention has them, no affine part, an empty batch.
  const at::Tensor flat = float_tensor({2, 6, 11}, 5);
  CHECK(difference(group_norm_silu(flat, 3, {}, {}, 1e-3, {}, Execution::kFused),
                   group_norm_silu(flat.to(at::kDouble), 3, {}, {}, 1e-3)) < 1e-5);
  CHECK(group_norm_silu(float_tensor({0, 6, 4, 4}, 5), 3, {}, {}).sizes() == at::IntArrayRef({0, 6, 4, 4}));
  const at::Tensor none = float_tensor({0, 6, 4, 4}, 5).contiguous(at::MemoryFormat::ChannelsLast);
  CHECK(group_norm_silu(none, 3, {}, {}, 1e-5, {}, Execution::kFused).is_contiguous(at::MemoryFormat::ChannelsLast));
  CHECK(solver_update(none, {none}, {}, Execution::kFused).is_contiguous(at::MemoryFormat::ChannelsLast));
}

TEST_CASE("what the fused kernels cannot take goes to LibTorch's operators, or is refused", "[backend]") {
  const at::Tensor weight = float_tensor({8}, 1).requires_grad_(true), bias = float_tensor({8}, 2);
  const at::Tensor x = float_tensor({2, 8, 5, 5}, 3);
  const at::Tensor y = group_norm_silu(x, 2, weight, bias);
  CHECK(y.requires_grad());
  y.sum().backward();
  CHECK(weight.grad().defined());
  {
    at::NoGradGuard no_grad;
    CHECK_FALSE(group_norm_silu(x, 2, weight, bias, 1e-5, {}, Execution::kFused).requires_grad());
  }
  const at::Tensor gaps = float_tensor({2, 8, 5, 10}, 3).slice(3, 0, 10, 2);
  CHECK(difference(group_norm_silu(gaps, 2, {}, bias), group_norm_silu(gaps.contiguous(), 2, {}, bias)) < 1e-5);
  for (const at::Tensor& refused : {gaps, x.to(at::kDouble)})
    CHECK_THROWS_WITH(group_norm_silu(refused, 2, {}, {}, 1e-5, {}, Execution::kFused), contains_text("kFused"));
  CHECK_THROWS_WITH(group_norm_silu(x, 2, weight, bias, 1e-5, {}, Execution::kFused), contains_text("kFused"));
  CHECK_THROWS_AS(group_norm_silu(x, 3, {}, {}), Error);
  CHECK_THROWS_AS(group_norm_silu(x, 2, float_tensor({4}, 1), {}), Error);
  GroupNormExtras half;
  half.scale = float_tensor({2, 8}, 1);
  CHECK_THROWS_AS(group_norm_silu(x, 2, {}, {}, 1e-5, half), Error);
  half.shift = float_tensor({2, 4}, 1);
  CHECK_THROWS_AS(group_norm_silu(x, 2, {}, {}, 1e-5, half), Error);
  CHECK_THROWS_AS(solver_update(x, {float_tensor({2, 8, 5, 4}, 1)}, {}), Error);
}

TEST_CASE("half types are normed in float32 and rounded once", "[backend]") {
  struct Kind {
    at::ScalarType type;
    double rounding;  ///< of a number, a part of it at most
  };
  for (const Kind& kind : {Kind{at::kBFloat16, 0x1p-8}, Kind{at::kHalf, 0x1p-11}})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      INFO(kind.type << " " << format);
      // A mean far above the deviation: to add the offset or to keep a mean in these types would change all.
      const at::Tensor x = (float_tensor({2, 8, 6, 5}, 1) + 20).to(kind.type).contiguous(format);
      const at::Tensor weight = float_tensor({8}, 2).to(kind.type), bias = float_tensor({8}, 3).to(kind.type);
      GroupNormExtras extras;
      extras.offset = float_tensor({2, 8}, 4).to(kind.type);
      extras.scale = float_tensor({2, 8}, 5).to(kind.type), extras.shift = float_tensor({2, 8}, 6).to(kind.type);
      const at::Tensor result = group_norm_silu(x, 4, weight, bias, 1e-5, extras);
      CHECK(result.scalar_type() == kind.type);
      CHECK(result.is_contiguous(format));
      CHECK(difference(result, group_norm_silu(x.to(at::kDouble), 4, weight.to(at::kDouble), bias.to(at::kDouble), 1e-5,
                                               wide(extras), Execution::kReference)) <= kind.rounding + 1e-4);
    }
}

TEST_CASE("the fused solver update agrees with LibTorch's operators in float64", "[backend]") {
  const at::Tensor x = float_tensor({4, 2, 9, 7}, 1);
  // As a network with learned sigma returns them: half of its channels, two estimates in one batch.
  const at::Tensor both = float_tensor({8, 4, 9, 7}, 2).narrow(1, 0, 2);
  for (unsigned bits = 0; bits < 32; ++bits)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      GuidedNoise noise;
      noise.first = both.narrow(0, 0, 4);
      if (bits & 1) noise.second = both.narrow(0, 4, 4);
      if (bits & 2) noise.gradient = float_tensor({4, 2, 9, 7}, 3);
      if (bits & 4) noise.strength = random_tensor({4, 1, 1, 1}, 4).abs();
      noise.weight = 2, noise.gradient_weight = 0.3, noise.from_second = bits & 8;
      SolverStep step;
      step.keep = 1.1, step.add = -0.2, step.signal = 0.6, step.deviation = 0.8;
      step.clip = bits & 16;
      if (bits & 1) step.previous = float_tensor({4, 2, 9, 7}, 5), step.previous_weight = 0.5;
      const at::Tensor input = x.contiguous(format);
      const at::Tensor fused = solver_update(input, noise, step, Execution::kFused);
      CHECK(fused.is_contiguous(format));
      const auto to_double = [](const at::Tensor& tensor) {
        return tensor.defined() ? tensor.to(at::kDouble) : tensor;
      };
      SolverStep wide_step = step;
      wide_step.previous = to_double(step.previous);
      GuidedNoise wide_noise = noise;
      for (at::Tensor* tensor : {&wide_noise.first, &wide_noise.second, &wide_noise.gradient})
        *tensor = to_double(*tensor);
      const at::Tensor reference = solver_update(to_double(x), wide_noise, wide_step);
      INFO("parts " << bits);
      CHECK(difference(fused, reference) < 5e-6);
    }
  CHECK(solver_update(float_tensor({0, 1, 4, 4}, 1), {float_tensor({0, 1, 4, 4}, 1)}, {}).numel() == 0);
}

TEST_CASE("a state with gaps is stepped in the bits of one without, in a batch and alone", "[backend]") {
  const at::Tensor latent = float_tensor({3, 4, 9, 7}, 1), noise = float_tensor({3, 2, 9, 7}, 2);
  const SolverStep step{1.1, -0.7};
  const auto states = latent.chunk(2, 1);  // as a solver that carries two finds them
  for (const at::Tensor& state : states) {
    REQUIRE_FALSE(state.is_contiguous());
    const at::Tensor expected = solver_update(state.contiguous(), noise, step, Execution::kFused);
    CHECK(at::equal(solver_update(state, noise, step, Execution::kFused), expected));
    CHECK(at::equal(solver_update(state, noise, step), expected));
    const at::Tensor alone = state.narrow(0, 1, 1);
    CHECK(at::equal(solver_update(alone, noise.narrow(0, 1, 1), step), expected.narrow(0, 1, 1)));
  }
  CHECK(at::equal(solver_update(noise[0].expand({3, 2, 9, 7}), noise, step)[0],
                  solver_update(noise.narrow(0, 0, 1), noise.narrow(0, 0, 1), step)[0]));
  CHECK_THROWS_WITH(solver_update(states[0].to(at::kDouble), noise.to(at::kDouble), step, Execution::kFused),
                    contains_text("kFused"));
}

TEST_CASE("fused results do not depend on LibTorch's threads", "[backend]") {
  const CallersThreads kept;
  const at::Tensor x = float_tensor({3, 16, 64, 64}, 1);
  const auto run = [&] {
    std::vector<at::Tensor> results;
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      results.push_back(group_norm_silu(x.contiguous(format), 4, {}, {}, 1e-5, {}, Execution::kFused));
    results.push_back(solver_update(x, {float_tensor({3, 16, 64, 64}, 2)}, {0.9, 0.3}, Execution::kFused));
    return results;
  };
  at::set_num_threads(1);
  const auto alone = run();
  at::set_num_threads(2);
  const auto together = run();
  for (std::size_t i = 0; i < alone.size(); ++i) CHECK(at::equal(alone[i], together[i]));
}
