#include "daug/translator/finite_check.h"

#include <ATen/ATen.h>

#include <limits>

#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"

using namespace daug;
using daug::test::caught;
using daug::test::contains_text;
using daug::test::no_device;

namespace {

at::Tensor with(double value, const at::Device& device) {
  at::Tensor x = at::ones({2, 3});
  x[1][2].fill_(value);
  return x.to(device);
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("a value that is not finite is an error at once on the CPU", "[translator]") {
  FiniteCheck check("sampler");
  CHECK_NOTHROW(check.see(with(1, at::kCPU), "step 1"));
  for (const double value : {kInfinity, -kInfinity, std::numeric_limits<double>::quiet_NaN()})
    CHECK(caught([&] { check.see(with(value, at::kCPU), "step 2"); }).code() == ErrorCode::kNumeric);
  CHECK_THROWS_WITH(check.see(with(kInfinity, at::kCPU), "step 2"),
                    contains_text("sampler: non-finite value at step 2"));
  CHECK_NOTHROW(check.settle());
}

TEST_CASE("a device's values are judged together, and the first that is not finite is named", "[translator][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  FiniteCheck check("sampler");
  check.see(with(1, device), "step 1");
  check.settle();
  check.see(with(1, device), "step 1");
  check.see(with(kInfinity, device), "step 2");
  check.see(with(kInfinity, device).to(at::kHalf), "step 3");
  CHECK_THROWS_WITH(check.settle(), contains_text("sampler: non-finite value at step 2"));
}
