#include "daug/image/colormap.h"

#include <cmath>

#include "daug/core/error.h"
#include "support/catch.h"

using namespace daug;

namespace {

/// CIE 1976 lightness of an sRGB colour, 0 to 100.
double lightness(Rgb colour) {
  const double weights[] = {0.2126, 0.7152, 0.0722};
  double luminance = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const double v = colour[i] / 255.0;
    luminance += weights[i] * (v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4));
  }
  return luminance > 0.008856 ? 116 * std::cbrt(luminance) - 16 : 903.3 * luminance;
}

}  // namespace

TEST_CASE("colour maps rise evenly in lightness", "[image]") {
  for (const Colormap map : {Colormap::kGray, Colormap::kViridis, Colormap::kInferno}) {
    const double first = lightness(colormap_at(map, 0)), last = lightness(colormap_at(map, 1));
    CHECK(last - first > 70);
    for (int i = 0; i <= 20; ++i) {
      const double expected = first + (last - first) * i / 20;
      CHECK(std::abs(lightness(colormap_at(map, i / 20.0)) - expected) < 6);
      if (i > 0) CHECK(lightness(colormap_at(map, i / 20.0)) > lightness(colormap_at(map, (i - 1) / 20.0)));
    }
  }
}

TEST_CASE("the diverging map is equally light on both sides", "[image]") {
  for (int i = 0; i <= 10; ++i) {
    const Rgb low = colormap_at(Colormap::kDiverging, i / 20.0), high = colormap_at(Colormap::kDiverging, 1 - i / 20.0);
    CHECK(std::abs(lightness(low) - lightness(high)) < 4);
    if (i < 10) CHECK(low[2] > low[0]);
    if (i < 10) CHECK(high[0] > high[2]);
  }
}

TEST_CASE("values map to colours between low and high", "[image]") {
  const RgbImage image = apply_colormap({-5, 0, 1, 2, 9}, 5, 1, 0, 2, Colormap::kGray);
  const std::vector<int> expected = {0, 0, 128, 255, 255};
  for (int x = 0; x < 5; ++x)
    for (const int channel : image.at(x, 0)) CHECK(channel == expected[static_cast<std::size_t>(x)]);
  CHECK(apply_colormap({3, 3}, 2, 1, 3, 3).at(1, 0) == colormap_at(Colormap::kInferno, 0));
  CHECK_THROWS_AS(apply_colormap({1}, 1, 1, 2, 1), Error);
  CHECK_THROWS_AS(apply_colormap({1}, 2, 1, 0, 1), Error);
  CHECK_THROWS_AS(apply_colormap({std::nanf("")}, 1, 1, 0, 1), Error);
  CHECK_THROWS_AS(apply_colormap({std::nanf("")}, 1, 1, 1, 1), Error);
}

TEST_CASE("blending and overlays", "[image]") {
  const GrayImage gray{3, 1, {0, 0.5F, 1}};
  const RgbImage base = to_rgb(gray);
  CHECK(base.at(1, 0) == Rgb{128, 128, 128});
  CHECK(blend(base, RgbImage::filled(3, 1, {100, 200, 50}), 0.5).at(0, 0) == Rgb{50, 100, 25});
  CHECK(blend(base, RgbImage::filled(3, 1), 0).pixels == base.pixels);
  CHECK_THROWS_AS(blend(base, RgbImage::filled(1, 3), 0.5), Error);
  CHECK_THROWS_AS(blend(base, base, 1.5), Error);

  const RgbImage over = overlay_map(gray, {0, 0, 1}, 0, 1, Colormap::kInferno, 1);
  CHECK(over.at(0, 0) == base.at(0, 0));
  CHECK(over.at(1, 0) == base.at(1, 0));
  CHECK(over.at(2, 0) == colormap_at(Colormap::kInferno, 1));
}

TEST_CASE("an outline is the mask's inner border", "[image]") {
  RgbImage image = RgbImage::filled(6, 5);
  const std::vector<std::uint8_t> mask = {0, 0, 0, 0, 0, 0,  //
                                          0, 1, 1, 1, 0, 1,  //
                                          0, 1, 1, 1, 0, 1,  //
                                          0, 1, 1, 1, 0, 1,  //
                                          0, 0, 0, 0, 0, 0};
  draw_outline(image, mask, {9, 8, 7});
  for (int y = 0; y < 5; ++y)
    for (int x = 0; x < 6; ++x) {
      const bool border = mask[static_cast<std::size_t>(6 * y + x)] != 0 && !(x == 2 && y == 2);
      CHECK(image.at(x, y) == (border ? Rgb{9, 8, 7} : Rgb{0, 0, 0}));
    }
  CHECK_THROWS_AS(draw_outline(image, {1, 2}), Error);
}
