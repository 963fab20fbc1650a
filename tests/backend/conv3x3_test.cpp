#include "backend/conv3x3.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "support/catch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

at::Tensor side_by_side(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

/// Largest error of conv3x3, over the largest output.
double error(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias,
             const std::shared_ptr<WinogradFilters>& prepared) {
  REQUIRE(takes_conv3x3(x, filters, bias));
  const at::Tensor actual = conv3x3(x, filters, bias, prepared);
  CHECK(actual.is_contiguous(at::MemoryFormat::ChannelsLast));
  const at::Tensor wide_bias = bias.defined() ? bias.to(at::kDouble) : bias;
  const at::Tensor expected = at::conv2d(x.to(at::kDouble), filters.to(at::kDouble), wide_bias, 1, 1);
  REQUIRE(actual.sizes() == expected.sizes());
  return ((actual.to(at::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("conv3x3 agrees with LibTorch's convolution in float64", "[backend]") {
  const at::NoGradGuard no_grad;
  const at::Tensor bias = float_tensor({40}, 1);
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const at::Tensor filters = float_tensor({40, 24, 3, 3}, 2).contiguous(format);
    const auto prepared = std::make_shared<WinogradFilters>();
    CHECK(error(side_by_side(float_tensor({3, 24, 9, 14}, 3)), filters, bias, prepared) < 3e-6);
    CHECK(error(side_by_side(float_tensor({1, 24, 1, 2}, 4)), filters, bias, prepared) < 3e-6);
    CHECK(error(side_by_side(float_tensor({3, 24, 9, 14}, 3)), filters, {}, prepared) < 3e-6);
  }
}

TEST_CASE("conv3x3 works with the filters as they are now", "[backend]") {
  const at::NoGradGuard no_grad;
  const at::Tensor x = side_by_side(float_tensor({2, 16, 6, 6}, 1)), bias = float_tensor({16}, 2);
  at::Tensor filters = float_tensor({16, 16, 3, 3}, 3);
  const auto prepared = std::make_shared<WinogradFilters>();
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters.mul_(-2).add_(0.5);  // as an optimizer does it, or a file that is loaded
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters.data_ptr<float>()[7] += 1;  // behind the back of the tensor's version
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters.set_data(float_tensor({16, 16, 3, 3}, 4));  // as Module::to does it
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters = float_tensor({16, 16, 3, 3}, 5);
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  const at::Tensor once = prepared->of(filters);
  CHECK(prepared->of(filters).const_data_ptr() == once.const_data_ptr());  // and works them out once
  {
    const SteadyFilters walk;
    const SteadyFilters within;
    CHECK(error(x, filters, bias, prepared) < 3e-6);
    filters.neg_();
    CHECK(error(x, filters, bias, prepared) > 1);  // what the caller ruled out
  }
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters.neg_();
  const SteadyFilters next;
  CHECK(error(x, filters, bias, prepared) < 3e-6);
}

TEST_CASE("conv3x3 leaves to LibTorch what it cannot do, or no faster", "[backend]") {
  const at::Tensor x = side_by_side(float_tensor({2, 16, 6, 6}, 1)), bias = float_tensor({16}, 2),
                   filters = float_tensor({16, 16, 3, 3}, 3);
  CHECK(takes_conv3x3(x, filters, bias));
  CHECK_FALSE(takes_conv3x3(x.contiguous(), filters, bias));
  CHECK_FALSE(takes_conv3x3(x.to(at::kDouble), filters.to(at::kDouble), bias.to(at::kDouble)));
  CHECK_FALSE(takes_conv3x3(x.to(at::kBFloat16), filters.to(at::kBFloat16), bias.to(at::kBFloat16)));
  CHECK_FALSE(takes_conv3x3(x, float_tensor({16, 16, 1, 1}, 3), bias));
  CHECK_FALSE(takes_conv3x3(x, float_tensor({16, 32, 3, 3}, 3).slice(1, 0, 16), bias));
  // What does not fit together is refused there, not read beyond its end here.
  CHECK_FALSE(takes_conv3x3(x, float_tensor({16, 32, 3, 3}, 3), bias));
  CHECK_FALSE(takes_conv3x3(x, float_tensor({32, 16, 3, 3}, 3), bias));
  CHECK_FALSE(takes_conv3x3(x, float_tensor({2, 16, 3, 3}, 3), float_tensor({2}, 2)));
  CHECK_FALSE(takes_conv3x3(side_by_side(float_tensor({2, 1, 6, 6}, 1)), float_tensor({16, 1, 3, 3}, 3), bias));
  CHECK_FALSE(takes_conv3x3(side_by_side(float_tensor({0, 16, 6, 6}, 1)), filters, bias));
  const at::Tensor trained = filters.clone().requires_grad_();
  CHECK(takes_conv3x3(x, trained, bias));
  {
    const c10::InferenceMode inference;
    CHECK(takes_conv3x3(x, trained, bias));
  }
  // Autocast would compute in a half type.
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const bool taken = takes_conv3x3(x, trained, bias);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  CHECK_FALSE(taken);
}

namespace {

/// Gradients of sum(output * weights) to x, filters and bias; undefined for those that want none.
std::vector<at::Tensor> gradients(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                                  const at::Tensor& weights, bool differentiable = false) {
  return torch::autograd::grad({output}, inputs, {weights}, differentiable, differentiable);
}

at::Tensor leaf(const at::Tensor& values) { return values.detach().clone().requires_grad_(); }
at::Tensor wide_leaf(const at::Tensor& values) { return values.detach().to(at::kDouble).requires_grad_(); }

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  REQUIRE(actual.sizes() == expected.sizes());
  return ((actual.to(at::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("conv3x3's gradients agree with LibTorch's in float64", "[backend]") {
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const at::Tensor x = leaf(side_by_side(float_tensor({3, 24, 9, 14}, 3))), bias = leaf(float_tensor({40}, 1));
    const at::Tensor filters = leaf(float_tensor({40, 24, 3, 3}, 2).contiguous(format));
    const at::Tensor weights = float_tensor({3, 40, 9, 14}, 4);  // in order, not channels last
    const auto prepared = std::make_shared<WinogradFilters>();
    const std::vector<at::Tensor> inputs = {x, filters, bias},
                                  wide = {wide_leaf(x), wide_leaf(filters), wide_leaf(bias)};
    REQUIRE(takes_conv3x3(x, filters, bias));
    const auto actual = gradients(conv3x3(x, filters, bias, prepared), inputs, weights);
    const auto expected = gradients(at::conv2d(wide[0], wide[1], wide[2], 1, 1), wide, weights.to(at::kDouble));
    for (std::size_t i = 0; i < 3; ++i) {
      INFO(i);
      CHECK(relative_error(actual[i], expected[i]) < 3e-6);
      CHECK_FALSE(actual[i].requires_grad());
    }
    CHECK(actual[1].strides() == filters.strides());
    // As an operation on complex numbers hands one back: with a mark in place of a changed sign.
    const at::Tensor marked = at::_neg_view(side_by_side(weights).neg());
    const auto of_marked = gradients(conv3x3(x, filters, bias, prepared), inputs, marked);
    for (std::size_t i = 0; i < 3; ++i) CHECK(at::equal(of_marked[i], actual[i]));
    // The gradient of a sum is one number at every place.
    const at::Tensor summed = torch::autograd::grad({conv3x3(x, filters, bias, prepared).sum()}, {bias})[0];
    CHECK(at::equal(summed, at::full({40}, 3 * 9 * 14, at::kFloat)));
  }
}

TEST_CASE("conv3x3's gradient to its input takes the filters as they are", "[backend]") {
  const at::Tensor x = leaf(side_by_side(float_tensor({2, 16, 6, 6}, 1))), bias = float_tensor({32}, 2);
  const at::Tensor filters = float_tensor({32, 16, 3, 3}, 3), weights = float_tensor({2, 32, 6, 6}, 4);
  const auto prepared = std::make_shared<WinogradFilters>();
  const auto check = [&] {
    const at::Tensor wide = wide_leaf(x);
    const auto expected = gradients(at::conv2d(wide, filters.to(at::kDouble), bias.to(at::kDouble), 1, 1), {wide},
                                    weights.to(at::kDouble));
    const auto actual = gradients(conv3x3(x, filters, bias, prepared), {x}, weights);
    CHECK(relative_error(actual[0], expected[0]) < 3e-6);
  };
  check();
  filters.data_ptr<float>()[7] += 1;
  check();
  filters.data_ptr<float>()[7] -= 3;
  {
    const SteadyFilters walk;  // hashed once for either direction
    check();
    check();
  }
  // A frozen input, and frozen filters: what nobody asks for is not there.
  const at::Tensor trained = leaf(bias);
  const at::Tensor sum =
      torch::autograd::grad({conv3x3(x.detach(), filters, trained, prepared)}, {trained}, {weights})[0];
  CHECK(relative_error(sum, weights.to(at::kDouble).sum({0, 2, 3})) < 1e-6);
  CHECK_FALSE(conv3x3(x.detach(), filters, bias, prepared).requires_grad());
  const at::NoGradGuard no_grad;
  CHECK_FALSE(conv3x3(x, filters, trained, prepared).requires_grad());
}

TEST_CASE("conv3x3's gradients have gradients", "[backend]") {
  const at::Tensor x = leaf(side_by_side(float_tensor({1, 16, 5, 4}, 1))),
                   filters = leaf(float_tensor({16, 16, 3, 3}, 2));
  const at::Tensor bias = leaf(float_tensor({16}, 3)), weights = float_tensor({1, 16, 5, 4}, 4);
  const auto second = [](const at::Tensor& output, const std::vector<at::Tensor>& inputs, const at::Tensor& to) {
    const auto first = gradients(output.square(), inputs, to, true);
    return torch::autograd::grad({first[0].square().sum() + first[1].square().sum()}, inputs);
  };
  const std::vector<at::Tensor> wide = {wide_leaf(x), wide_leaf(filters), wide_leaf(bias)};
  const auto actual =
      second(conv3x3(x, filters, bias, std::make_shared<WinogradFilters>()), {x, filters, bias}, weights);
  const auto expected = second(at::conv2d(wide[0], wide[1], wide[2], 1, 1), wide, weights.to(at::kDouble));
  for (std::size_t i = 0; i < 3; ++i) CHECK(relative_error(actual[i], expected[i]) < 2e-5);
}

TEST_CASE("conv3x3 notices what changes between its two passes, and keeps nothing beyond them", "[backend]") {
  for (const bool changes_filters : {false, true}) {
    const at::Tensor x = leaf(side_by_side(float_tensor({1, 16, 4, 4}, 1))),
                     filters = leaf(float_tensor({16, 16, 3, 3}, 2));
    const auto prepared = std::make_shared<WinogradFilters>();
    const at::Tensor once = conv3x3(x, filters, float_tensor({16}, 3), prepared);
    torch::autograd::grad({once.sum()}, {x});
    CHECK_THROWS_WITH(torch::autograd::grad({once.sum()}, {x}), Catch::Contains("second time"));
    const at::Tensor y = conv3x3(x, filters, float_tensor({16}, 3), prepared);
    {
      const at::NoGradGuard no_grad;
      (changes_filters ? filters : x).mul_(2);
    }
    CHECK_THROWS_WITH(torch::autograd::grad({y.sum()}, {x}), Catch::Contains("modified by an inplace operation"));
  }
}

TEST_CASE("several threads share what conv3x3 has prepared, whatever their filters", "[backend]") {
  const at::Tensor x = side_by_side(float_tensor({1, 16, 4, 4}, 1)), bias = float_tensor({16}, 2),
                   weights = float_tensor({1, 16, 4, 4}, 3);
  const auto both_passes = [&](const at::Tensor& filters, const std::shared_ptr<WinogradFilters>& prepared) {
    const at::Tensor input = leaf(x), y = conv3x3(input, filters, bias, prepared);
    return at::cat({y.detach(), gradients(y, {input}, weights)[0]});
  };
  const auto shared = std::make_shared<WinogradFilters>();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 4; seed < 6; ++seed)
    threads.emplace_back([&, seed] {
      const at::Tensor filters = float_tensor({16, 16, 3, 3}, seed);
      const at::Tensor alone = both_passes(filters, std::make_shared<WinogradFilters>());
      for (int i = 0; i < 200; ++i) right += at::equal(both_passes(filters, shared), alone) ? 1 : 0;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(right.load() == 400);
}
