#include "daug/translator/noise.h"

#include <ATen/ATen.h>

#include <cmath>

#include "support/catch.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("item noise belongs to the item", "[noise]") {
  const at::Tensor noise = item_noise({5, 900, 7}, 2, 16, 16, 1, "test");
  REQUIRE(noise.sizes() == at::IntArrayRef({3, 2, 16, 16}));
  CHECK(noise.scalar_type() == at::kFloat);
  const at::Tensor reordered = item_noise({7, 5}, 2, 16, 16, 1, "test");
  CHECK(same_bits(reordered[0], noise[2]));
  CHECK(same_bits(reordered[1], noise[0]));
  CHECK(largest_difference(noise[0], noise[1]) > 0.5);
  CHECK(largest_difference(item_noise({5}, 2, 16, 16, 2, "test")[0], noise[0]) > 0.5);
  CHECK(largest_difference(item_noise({5}, 2, 16, 16, 1, "other")[0], noise[0]) > 0.5);
  // A smaller image is the beginning of a larger one's stream, and the moments are those of a standard normal.
  const at::Tensor many = item_noise({0, 1, 2, 3}, 1, 100, 100, 3, "test").to(at::kDouble);
  CHECK(std::abs(many.mean().item<double>()) < 0.02);  // four standard errors
  CHECK(std::abs(many.square().mean().item<double>() - 1) < 0.03);
  CHECK(item_noise({}, 1, 4, 4, 0, "test").size(0) == 0);
  CHECK_THROWS_AS(item_noise({1}, -1, 4, 4, 0, "test"), Error);
}
