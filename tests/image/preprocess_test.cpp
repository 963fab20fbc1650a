#include "daug/image/preprocess.h"

#include <algorithm>
#include <cmath>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "support/catch.h"

using namespace daug;

namespace {

const std::vector<ResizeFilter> kFilters = {ResizeFilter::kBox, ResizeFilter::kBilinear, ResizeFilter::kBicubic,
                                            ResizeFilter::kLanczos};
const std::vector<Fit> kFits = {Fit::kLetterbox, Fit::kCenterCrop, Fit::kStretch};

GrayImage random_image(int width, int height, std::uint64_t item = 0) {
  RandomStream random(11, item, "image");
  GrayImage image = GrayImage::filled(width, height);
  for (float& value : image.pixels) value = static_cast<float>(random.uniform());
  return image;
}

GrayImage mirrored(const GrayImage& image) {
  GrayImage result = image;
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) result.at(x, y) = image.at(image.width - 1 - x, y);
  return result;
}

double largest_difference(const GrayImage& a, const GrayImage& b) {
  REQUIRE(a.width == b.width);
  REQUIRE(a.height == b.height);
  double largest = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a.pixels[i]) - b.pixels[i]));
  return largest;
}

/// The textbook definitions, of a distance in source pixels divided by the widening.
double weight(ResizeFilter filter, double x) {
  const double pi = std::acos(-1.0), d = std::abs(x);
  switch (filter) {
    case ResizeFilter::kBox:
      return x > -0.5 && x <= 0.5 ? 1 : 0;
    case ResizeFilter::kBilinear:
      return d < 1 ? 1 - d : 0;
    case ResizeFilter::kBicubic:  // Keys 1981, equation 15
      return d < 1 ? 1.5 * d * d * d - 2.5 * d * d + 1 : d < 2 ? -0.5 * d * d * d + 2.5 * d * d - 4 * d + 2 : 0;
    case ResizeFilter::kLanczos:
      return d == 0 ? 1 : d < 3 ? 3 * std::sin(pi * d) * std::sin(pi * d / 3) / (pi * pi * d * d) : 0;
  }
  return 0;
}

/// Every result pixel as a weighted mean over the whole source, in double, both axes at once.
GrayImage slow_resize(const GrayImage& image, int width, int height, ResizeFilter filter) {
  GrayImage result = GrayImage::filled(width, height);
  const double step_x = static_cast<double>(image.width) / width, step_y = static_cast<double>(image.height) / height;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      double sum = 0, total = 0;
      for (int v = 0; v < image.height; ++v)
        for (int u = 0; u < image.width; ++u) {
          const double wx = weight(filter, (u + 0.5 - (x + 0.5) * step_x) / std::max(1.0, step_x));
          const double wy = weight(filter, (v + 0.5 - (y + 0.5) * step_y) / std::max(1.0, step_y));
          sum += wx * wy * image.at(u, v);
          total += wx * wy;
        }
      result.at(x, y) = static_cast<float>(sum / total);
    }
  return result;
}

PreprocessOptions make_options(int size, Fit fit, ResizeFilter filter = ResizeFilter::kBilinear) {
  PreprocessOptions options;
  options.size = size;
  options.fit = fit;
  options.filter = filter;
  return options;
}

}  // namespace

TEST_CASE("resizing agrees with the definition in float64", "[image]") {
  const GrayImage image = random_image(23, 17);
  for (const ResizeFilter filter : kFilters)
    for (const auto& [width, height] :
         std::vector<std::pair<int, int>>{{7, 5}, {23, 9}, {11, 17}, {31, 29}, {5, 40}, {1, 1}, {22, 16}}) {
      INFO("filter " << static_cast<int>(filter) << ", " << width << " x " << height);
      CHECK(largest_difference(resize(image, width, height, filter), slow_resize(image, width, height, filter)) < 1e-6);
    }
}

TEST_CASE("resizing keeps constants, mirror images and the identity", "[image]") {
  const GrayImage image = random_image(21, 13, 1);
  for (const ResizeFilter filter : kFilters) {
    CHECK(resize(image, 21, 13, filter).pixels == image.pixels);
    for (const auto& [width, height] : std::vector<std::pair<int, int>>{{8, 8}, {40, 30}, {1, 13}}) {
      const GrayImage constant = resize(GrayImage::filled(21, 13, 0.3F), width, height, filter);
      CHECK(largest_difference(constant, GrayImage::filled(width, height, 0.3F)) < 1e-7);
      if (filter != ResizeFilter::kBox)  // its half-open interval puts a tie on one side
        CHECK(largest_difference(resize(mirrored(image), width, height, filter),
                                 mirrored(resize(image, width, height, filter))) < 1e-6);
    }
  }
  CHECK(resize(GrayImage{4, 2, {0, 1, 2, 3, 4, 5, 6, 7}}, 2, 1, ResizeFilter::kBox).pixels ==
        std::vector<float>{2.5F, 4.5F});
  CHECK(resize(GrayImage{2, 1, {0, 1}}, 4, 1, ResizeFilter::kBilinear).pixels ==
        std::vector<float>{0, 0.25F, 0.75F, 1});
  CHECK_THROWS_AS(resize(image, 0, 5), Error);
  CHECK_THROWS_AS(resize(GrayImage{}, 5, 5), Error);
  CHECK_THROWS_AS(resize(GrayImage{2, 2, {1}}, 5, 5), Error);
}

TEST_CASE("a picture of the right size passes through exactly", "[image]") {
  const GrayImage image = random_image(32, 32, 2);
  for (const Fit fit : kFits)
    for (const ResizeFilter filter : kFilters) {
      const auto values = preprocess(image, make_options(32, fit, filter));
      REQUIRE(values.size() == image.pixels.size());
      for (std::size_t i = 0; i < values.size(); ++i) REQUIRE(values[i] == image.pixels[i] * 2 - 1);
    }
}

TEST_CASE("placement keeps the aspect ratio and centres", "[image]") {
  const auto check = [](int width, int height, Fit fit, const std::vector<int>& expected) {
    const Placement p = placement(width, height, make_options(64, fit));
    CHECK(std::vector<int>{p.width, p.height, p.left, p.top} == expected);
  };
  check(200, 100, Fit::kLetterbox, {64, 32, 0, 16});
  check(100, 200, Fit::kLetterbox, {32, 64, 16, 0});
  check(200, 100, Fit::kCenterCrop, {128, 64, -32, 0});
  check(100, 200, Fit::kCenterCrop, {64, 128, 0, -32});
  check(200, 100, Fit::kStretch, {64, 64, 0, 0});
  check(4096, 1, Fit::kLetterbox, {64, 1, 0, 31});
  check(50, 50, Fit::kLetterbox, {64, 64, 0, 0});
}

TEST_CASE("letterbox bands are the pad, the rest is the resized picture", "[image]") {
  PreprocessOptions options = make_options(16, Fit::kLetterbox);
  const GrayImage image = random_image(30, 15, 3);
  const GrayImage small = resize(image, 16, 8, ResizeFilter::kBilinear);
  for (const float pad : {0.0F, 0.75F}) {
    options.pad = pad;
    const auto values = preprocess(image, options);
    for (int y = 0; y < 16; ++y)
      for (int x = 0; x < 16; ++x) {
        const float expected = y >= 4 && y < 12 ? small.at(x, y - 4) : pad;
        REQUIRE(values[static_cast<std::size_t>(16 * y + x)] == expected * 2 - 1);
      }
  }
}

TEST_CASE("a crop is a part of the resized picture", "[image]") {
  const GrayImage image = random_image(15, 40, 4);
  const GrayImage whole = resize(image, 12, 32, ResizeFilter::kBicubic);
  const auto values = preprocess(image, make_options(12, Fit::kCenterCrop, ResizeFilter::kBicubic));
  for (int y = 0; y < 12; ++y)
    for (int x = 0; x < 12; ++x)
      REQUIRE(values[static_cast<std::size_t>(12 * y + x)] == std::clamp(whole.at(x, y + 10) * 2 - 1, -1.0F, 1.0F));
}

TEST_CASE("extreme shapes and values", "[image]") {
  for (const Fit fit : kFits)
    for (const auto& [width, height] : std::vector<std::pair<int, int>>{{4096, 1}, {1, 4096}, {1, 1}, {16384, 1}}) {
      const auto values = preprocess(GrayImage::filled(width, height, 1), make_options(64, fit));
      REQUIRE(values.size() == 4096);
      CHECK(*std::max_element(values.begin(), values.end()) == Approx(1));
      CHECK(*std::min_element(values.begin(), values.end()) >= -1);
    }
  const auto sharp = preprocess(GrayImage{4, 1, {0, 1, 0, 1}}, make_options(64, Fit::kStretch, ResizeFilter::kLanczos));
  CHECK(*std::max_element(sharp.begin(), sharp.end()) == 1);
  CHECK(*std::min_element(sharp.begin(), sharp.end()) == -1);
  CHECK_THROWS_AS(preprocess(GrayImage{1, 1, {std::nanf("")}}), Error);
  CHECK_THROWS_AS(preprocess(GrayImage{}), Error);
  CHECK_THROWS_AS(preprocess(GrayImage::filled(2, 2), make_options(0, Fit::kStretch)), Error);
}

TEST_CASE("masks and boxes land where the picture lands", "[image]") {
  RandomStream random(2, 0, "boxes");
  for (int round = 0; round < 60; ++round) {
    const int width = 60 + static_cast<int>(random.below(200)), height = 60 + static_cast<int>(random.below(200));
    const PreprocessOptions options = make_options(48, kFits[static_cast<std::size_t>(round % 3)]);
    const int x0 = static_cast<int>(random.below(width / 2)), y0 = static_cast<int>(random.below(height / 2));
    const int x1 = x0 + width / 3, y1 = y0 + height / 3;
    GrayImage image = GrayImage::filled(width, height);
    for (int y = y0; y < y1; ++y)
      for (int x = x0; x < x1; ++x) image.at(x, y) = 1;
    const auto mask = preprocess_mask(image, options);
    const auto picture = preprocess(image, options);
    const Box box = map_box({double(x0), double(y0), double(x1 - x0), double(y1 - y0)}, width, height, options);
    int set = 0;
    for (int y = 0; y < 48; ++y)
      for (int x = 0; x < 48; ++x) {
        const auto i = static_cast<std::size_t>(48 * y + x);
        const bool inside = x >= box.x && x + 1 <= box.x + box.width && y >= box.y && y + 1 <= box.y + box.height;
        const bool outside = x + 1 <= box.x || x >= box.x + box.width || y + 1 <= box.y || y >= box.y + box.height;
        if (inside) REQUIRE(mask[i] == 1);
        if (outside) REQUIRE(mask[i] == 0);
        if (picture[i] == 1) REQUIRE(mask[i] == 1);
        if (picture[i] == -1) REQUIRE(mask[i] == 0);
        set += mask[i];
      }
    CHECK(set > 0);
    CHECK(std::abs(set - box.width * box.height) <= box.width + box.height + 1);
  }
}

TEST_CASE("boxes by hand", "[image]") {
  const auto check = [](const Box& box, const std::vector<double>& expected) {
    CHECK(std::vector<double>{box.x, box.y, box.width, box.height} == expected);
  };
  check(map_box({10, 20, 30, 40}, 200, 100, make_options(50, Fit::kLetterbox)), {2.5, 17, 7.5, 10});
  check(map_box({0, 0, 200, 100}, 200, 100, make_options(50, Fit::kCenterCrop)), {0, 0, 50, 50});
  check(map_box({0, 0, 40, 100}, 200, 100, make_options(50, Fit::kCenterCrop)), {0, 0, 0, 50});
  check(map_box({50, 25, 50, 25}, 200, 100, make_options(50, Fit::kStretch)), {12.5, 12.5, 12.5, 12.5});
  CHECK_THROWS_AS(map_box({0, 0, -1, 1}, 10, 10), Error);
}
