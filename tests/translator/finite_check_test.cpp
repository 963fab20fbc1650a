#include "daug/translator/finite_check.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <limits>
#include <string>

#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/memory_count.h"

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

TEST_CASE("the first row that is not finite is called by its name", "[translator]") {
  FiniteCheck check("sampler");
  const auto name = [](std::int64_t row) { return "row " + std::to_string(row); };
  for (const auto type : {at::kHalf, at::kFloat, at::kDouble}) {
    at::Tensor x = at::full({4, 1, 300, 300}, 0.9, type);  // a row's sum, 81,000, is more than a half can hold
    CHECK_NOTHROW(check.see(x, "step 1", name));
    x[3][0][7][9].fill_(std::numeric_limits<double>::quiet_NaN());
    x[2][0][299][299].fill_(-kInfinity);
    CHECK_THROWS_WITH(check.see(x, "step 2", name), contains_text("sampler: non-finite value at step 2, row 2"));
    CHECK_THROWS_WITH(check.see(x.narrow(0, 3, 1), "step 2", name), contains_text("at step 2, row 0"));
  }
  CHECK_NOTHROW(check.see(at::zeros({0, 1, 2, 2}), "step 3", name));
}

TEST_CASE("what fails while verdicts are read fails in the name of the loop", "[translator][memory]") {
  FiniteCheck check("sampler");
  check.see(at::ones({2, 3}, at::kMeta), "step 1");  // any device but the CPU
  const daug::test::MemoryCount none(0);
  CHECK_THROWS_WITH(check.settle(), "sampler: memory: expected enough for this call, got no memory is left");
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
  FiniteCheck of_rows("sampler");
  const auto name = [](std::int64_t row) { return "row " + std::to_string(row); };
  of_rows.see(with(1, device), "step 1", name);
  of_rows.see(with(1, device), "step 2");
  of_rows.see(with(kInfinity, device), "step 3", name);
  CHECK_THROWS_WITH(of_rows.settle(), contains_text("sampler: non-finite value at step 3, row 1"));
}
