#include "pipeline/report/shown_pixels.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "support/catch.h"

using namespace daug;

TEST_CASE("pictures of a report are about 128 pixels wide, whatever the images are", "[pipeline]") {
  for (int size = 16; size <= 512; ++size) {
    const int side = shown_size(size);
    CHECK((side > 64 && side < 256));
    CHECK((side % size == 0 || size / side >= 1));
  }
  CHECK(shown_size(32) == 128);
  CHECK(shown_size(200) == 200);
  CHECK(shown_size(512) == 128);
  CHECK(shown_size(300) == 150);

  // Enlarged: every pixel becomes a block.
  const std::vector<float> small = {-1, 0.25F, 0.5F, 1};
  const auto large = shown_pixels(small.data(), 2);
  REQUIRE(large.size() == 128 * 128);
  CHECK(large[0] == -1);
  CHECK(large[63 * 128 + 63] == -1);
  CHECK(large[63 * 128 + 64] == 0.25F);
  CHECK(large[64 * 128 + 63] == 0.5F);
  CHECK(large[127 * 128 + 127] == 1);

  // Averaged: the mean stays, a region keeps whatever it touches. 256 = 2 x 128.
  std::vector<float> values(256 * 256);
  std::iota(values.begin(), values.end(), 0.0F);
  const auto means = shown_pixels(values.data(), 256);
  REQUIRE(means.size() == 128 * 128);
  CHECK(means[0] == (0 + 1 + 256 + 257) / 4.0F);
  CHECK(means[3 * 128 + 5] == (6 * 256 + 10 + 6 * 256 + 11 + 7 * 256 + 10 + 7 * 256 + 11) / 4.0F);
  std::vector<std::uint8_t> region(256 * 256, 0);
  region[7 * 256 + 11] = 1;
  const auto inside = shown_pixels(region.data(), 256);
  CHECK(std::accumulate(inside.begin(), inside.end(), 0) == 1);
  CHECK(inside[3 * 128 + 5] == 1);
}
