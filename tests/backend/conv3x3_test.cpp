#include "backend/conv3x3.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "support/catch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

at::Tensor side_by_side(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

/// Largest error of conv3x3, over the largest output.
double error(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias, WinogradFilters& prepared) {
  REQUIRE(takes_conv3x3(x, filters, bias));
  const at::Tensor actual = conv3x3(x, filters, bias, prepared);
  CHECK(actual.is_contiguous(at::MemoryFormat::ChannelsLast));
  const at::Tensor expected = at::conv2d(x.to(at::kDouble), filters.to(at::kDouble), bias.to(at::kDouble), 1, 1);
  REQUIRE(actual.sizes() == expected.sizes());
  return ((actual.to(at::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("conv3x3 agrees with LibTorch's convolution in float64", "[backend]") {
  const at::NoGradGuard no_grad;
  const at::Tensor bias = float_tensor({40}, 1);
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const at::Tensor filters = float_tensor({40, 24, 3, 3}, 2).contiguous(format);
    WinogradFilters prepared;
    CHECK(error(side_by_side(float_tensor({3, 24, 9, 14}, 3)), filters, bias, prepared) < 3e-6);
    CHECK(error(side_by_side(float_tensor({1, 24, 1, 2}, 4)), filters, bias, prepared) < 3e-6);
  }
}

TEST_CASE("conv3x3 works with the filters as they are now", "[backend]") {
  const at::NoGradGuard no_grad;
  const at::Tensor x = side_by_side(float_tensor({2, 16, 6, 6}, 1)), bias = float_tensor({16}, 2);
  at::Tensor filters = float_tensor({16, 16, 3, 3}, 3);
  WinogradFilters prepared;
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters.mul_(-2).add_(0.5);  // as an optimizer does it, or a file that is loaded
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters.data_ptr<float>()[7] += 1;  // behind the back of the tensor's version
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters.set_data(float_tensor({16, 16, 3, 3}, 4));  // as Module::to does it
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  filters = float_tensor({16, 16, 3, 3}, 5);
  CHECK(error(x, filters, bias, prepared) < 3e-6);
  const at::Tensor once = prepared.of(filters);
  CHECK(prepared.of(filters).const_data_ptr() == once.const_data_ptr());  // and works them out once
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
  CHECK_FALSE(takes_conv3x3(x, float_tensor({2, 16, 3, 3}, 3), float_tensor({2}, 2)));
  CHECK_FALSE(takes_conv3x3(side_by_side(float_tensor({2, 1, 6, 6}, 1)), float_tensor({16, 1, 3, 3}, 3), bias));
  CHECK_FALSE(takes_conv3x3(side_by_side(float_tensor({0, 16, 6, 6}, 1)), filters, bias));
  const at::Tensor trained = filters.clone().requires_grad_();
  CHECK_FALSE(takes_conv3x3(x, trained, bias));
  {
    const at::NoGradGuard no_grad;
    CHECK(takes_conv3x3(x, trained, bias));
  }
  const c10::InferenceMode inference;
  CHECK(takes_conv3x3(x, trained, bias));
}
