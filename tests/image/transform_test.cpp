#include "daug/image/transform.h"

#include <algorithm>
#include <cmath>

#include "daug/core/error.h"
#include "support/catch.h"

using namespace daug;

namespace {

std::vector<float> random_planes(int channels, int height, int width) {
  RandomStream random(4, 0, "planes");
  std::vector<float> planes(static_cast<std::size_t>(channels * height * width));
  for (float& value : planes) value = static_cast<float>(random.uniform(-1, 1));
  return planes;
}

AffineParams any_params(std::uint64_t item) {
  RandomStream random(9, item, "affine");
  AugmentOptions options;
  options.max_rotation_deg = 180;
  options.max_shift = 0.5;
  options.max_scale = 1;
  options.flip = true;
  return random_affine(options, random);
}

}  // namespace

TEST_CASE("simple transforms move whole pixels exactly", "[image]") {
  const int width = 5, height = 4;
  const auto planes = random_planes(2, height, width);
  const auto moved = [&](const AffineParams& params) { return warp(planes.data(), 2, height, width, params, {-1, 7}); };
  const auto at = [&](const std::vector<float>& values, int c, int y, int x) {
    return values[static_cast<std::size_t>((c * height + y) * width + x)];
  };
  CHECK(moved({}) == planes);

  AffineParams flip;
  flip.flip = true;
  AffineParams shift;
  shift.shift_x = 0.4;    // 2 pixels to the right
  shift.shift_y = -0.25;  // 1 pixel up
  const auto flipped = moved(flip), shifted = moved(shift);
  for (int c = 0; c < 2; ++c)
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        CHECK(at(flipped, c, y, x) == at(planes, c, y, width - 1 - x));
        const bool inside = x >= 2 && y + 1 < height;
        CHECK(at(shifted, c, y, x) == Approx(inside ? at(planes, c, y + 1, x - 2) : (c == 0 ? -1 : 7)).margin(1e-6));
      }
}

TEST_CASE("a quarter turn is clockwise", "[image]") {
  const int size = 6;
  const auto plane = random_planes(1, size, size);
  AffineParams quarter;
  quarter.rotation_deg = 90;
  const auto turned = warp(plane.data(), 1, size, size, quarter, {0});
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x)
      CHECK(turned[static_cast<std::size_t>(y * size + x)] ==
            Approx(plane[static_cast<std::size_t>((size - 1 - x) * size + y)]).margin(1e-6));
}

TEST_CASE("the inverse undoes the matrix", "[image]") {
  RandomStream random(6, 0, "points");
  for (std::uint64_t item = 0; item < 50; ++item) {
    const AffineMatrix m = affine_matrix(any_params(item), 40, 30), inverse = m.inverse();
    const double x = random.uniform(-50, 50), y = random.uniform(-50, 50);
    const double u = m.xx * x + m.xy * y + m.x0, v = m.yx * x + m.yy * y + m.y0;
    CHECK(inverse.xx * u + inverse.xy * v + inverse.x0 == Approx(x).margin(1e-9));
    CHECK(inverse.yx * u + inverse.yy * v + inverse.y0 == Approx(y).margin(1e-9));
  }
  AffineMatrix singular;
  singular.xx = 0;
  CHECK_THROWS_AS(singular.inverse(), Error);
}

TEST_CASE("without a shift the centre stays", "[image]") {
  AffineParams params = any_params(3);
  params.shift_x = params.shift_y = 0;
  const AffineMatrix m = affine_matrix(params, 40, 30);
  CHECK(m.xx * 20 + m.xy * 15 + m.x0 == Approx(20));
  CHECK(m.yx * 20 + m.yy * 15 + m.y0 == Approx(15));
}

TEST_CASE("bilinear warping reproduces linear pictures", "[image]") {
  const int width = 40, height = 30;
  const auto ramp = [](double x, double y) { return 0.03 * x - 0.02 * y + 0.5; };
  std::vector<float> plane;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) plane.push_back(static_cast<float>(ramp(x + 0.5, y + 0.5)));
  int compared = 0;
  for (std::uint64_t item = 0; item < 20; ++item) {
    const AffineParams params = any_params(item);
    const AffineMatrix source = affine_matrix(params, width, height).inverse();
    const auto warped = warp(plane.data(), 1, height, width, params, {99});
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        const double u = source.xx * (x + 0.5) + source.xy * (y + 0.5) + source.x0;
        const double v = source.yx * (x + 0.5) + source.yy * (y + 0.5) + source.y0;
        const double value = warped[static_cast<std::size_t>(y * width + x)];
        if (u > 0.5 && v > 0.5 && u < width - 0.5 && v < height - 0.5) {
          REQUIRE(value == Approx(ramp(u, v)).margin(1e-5));
          ++compared;
        } else if (u < -0.5 || v < -0.5 || u > width + 0.5 || v > height + 0.5) {
          REQUIRE(value == 99);
        }
      }
  }
  CHECK(compared > 1000);
}

TEST_CASE("every channel is moved alike", "[image]") {
  const auto planes = random_planes(3, 9, 11);
  const AffineParams params = any_params(5);
  const auto all = warp(planes.data(), 3, 9, 11, params, {0});
  for (std::size_t c = 0; c < 3; ++c) {
    const auto one = warp(planes.data() + 99 * c, 1, 9, 11, params, {0});
    CHECK(std::equal(one.begin(), one.end(), all.begin() + static_cast<std::ptrdiff_t>(99 * c)));
  }
}

TEST_CASE("random transforms stay within their ranges and depend on the stream alone", "[image]") {
  AugmentOptions options;
  int flips = 0;
  for (std::uint64_t item = 0; item < 300; ++item) {
    options.flip = false;
    RandomStream a(1, item, "augment"), b(1, item, "augment");
    const AffineParams plain = random_affine(options, a);
    CHECK(std::abs(plain.rotation_deg) <= options.max_rotation_deg);
    CHECK(std::abs(plain.shift_x) <= options.max_shift);
    CHECK(std::abs(plain.shift_y) <= options.max_shift);
    CHECK(plain.scale >= 1 / (1 + options.max_scale) - 1e-12);
    CHECK(plain.scale <= 1 + options.max_scale + 1e-12);
    CHECK_FALSE(plain.flip);
    options.flip = true;
    const AffineParams flipping = random_affine(options, b);
    CHECK(flipping.rotation_deg == plain.rotation_deg);
    CHECK(flipping.scale == plain.scale);
    CHECK(a() == b());
    flips += flipping.flip;
  }
  CHECK(flips > 110);
  CHECK(flips < 190);
}

TEST_CASE("bad transforms are refused", "[image]") {
  const std::vector<float> plane(4);
  AffineParams params;
  params.scale = 0;
  CHECK_THROWS_AS(warp(plane.data(), 1, 2, 2, params, {0}), Error);
  params.scale = std::nan("");
  CHECK_THROWS_AS(warp(plane.data(), 1, 2, 2, params, {0}), Error);
  CHECK_THROWS_AS(warp(nullptr, 1, 2, 2, {}, {0}), Error);
  CHECK_THROWS_AS(warp(plane.data(), 1, 2, 2, {}, {0, 0}), Error);
  params = {};
  params.scale = 1e-300;  // everything shrinks to a point; no coordinate may overflow
  CHECK_THROWS_AS(warp(plane.data(), 1, 2, 2, params, {5}), Error);
  params.scale = 1e-100;
  CHECK(warp(plane.data(), 1, 2, 2, params, {5}) == std::vector<float>(4, 5));
  AugmentOptions options;
  options.max_shift = -1;
  CHECK_THROWS_AS(options.validate(), Error);
}
