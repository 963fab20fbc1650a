// A part that the backward pass computes again, in the precision of the first time.

#include "backend/recomputed.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <vector>

#include "support/catch.h"
#include "support/tensor.h"
#include "train/autocast.h"

using namespace daug::backend;
using namespace daug::test;

namespace {

/// Two layers, of which the types of the results are kept, and the gradients of a sum over the second's.
struct TwoLayers {
  at::Tensor x = random_tensor({5, 8}, 1).to(at::kFloat).requires_grad_(true);
  at::Tensor first = random_tensor({16, 8}, 2).to(at::kFloat).requires_grad_(true);
  at::Tensor second = random_tensor({4, 16}, 3).to(at::kFloat).requires_grad_(true);
  std::vector<at::ScalarType> types;

  at::Tensor once() {
    const at::Tensor result = at::linear(at::linear(x, first).tanh(), second);
    types.push_back(result.scalar_type());
    return result;
  }
  at::Tensor again() {
    const auto part = [this](const at::Tensor& in, const at::Tensor&) {
      const at::Tensor result = at::linear(at::linear(in, first).tanh(), second);
      types.push_back(result.scalar_type());
      return result;
    };
    return recomputed(part, x, x.new_empty({0}), {first, second});
  }
  std::vector<at::Tensor> gradients() const { return {x.grad(), first.grad(), second.grad()}; }
};

}  // namespace

TEST_CASE("what was computed under autocast is computed again in its precision", "[backend]") {
  TwoLayers kept, repeated, inside, single;
  {
    at::Tensor out;
    {
      const daug::Autocast autocast(daug::TrainingPrecision::kBfloat16, at::kCPU);
      out = kept.once().to(at::kFloat).square().sum();
    }
    out.backward();
  }
  {
    at::Tensor out;
    {
      const daug::Autocast autocast(daug::TrainingPrecision::kBfloat16, at::kCPU);
      out = repeated.again().to(at::kFloat).square().sum();
      CHECK(at::autocast::is_autocast_enabled(at::kCPU));
      CHECK(at::autocast::is_autocast_cache_enabled());
    }
    out.backward();
  }
  {
    // Whose copies of weights were made without gradients.
    const daug::Autocast autocast(daug::TrainingPrecision::kBfloat16, at::kCPU);
    inside.again().to(at::kFloat).square().sum().backward();
  }
  single.again().square().sum().backward();
  CHECK_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
  CHECK(at::autocast::is_autocast_cache_enabled());
  for (const TwoLayers* layers : {&repeated, &inside})
    CHECK(layers->types == std::vector<at::ScalarType>(2, at::kBFloat16));
  CHECK(single.types == std::vector<at::ScalarType>(2, at::kFloat));
  for (std::size_t i = 0; i < 3; ++i) {
    INFO("gradient " << i);
    for (const TwoLayers* layers : {&repeated, &inside}) {
      REQUIRE(layers->gradients()[i].defined());
      CHECK(at::equal(layers->gradients()[i], kept.gradients()[i]));
    }
    CHECK_FALSE(at::equal(single.gradients()[i], kept.gradients()[i]));
  }
}
