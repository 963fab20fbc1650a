#include "daug/metrics/localization.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Map = std::vector<float>;
using Mask = std::vector<std::uint8_t>;

}  // namespace

TEST_CASE("boxes, masks and back", "[metrics]") {
  const std::vector<Box> boxes{{1, 0, 2, 1}};
  CHECK(box_mask(boxes, 2, 4) == Mask{0, 1, 1, 0, 0, 0, 0, 0});
  SECTION("a pixel is inside when its centre is, edges are half-open") {
    CHECK(box_mask(std::vector<Box>{{0.5, 0, 1, 1}}, 1, 3) == Mask{1, 0, 0});
    CHECK(box_mask(std::vector<Box>{{0.6, 0, 1, 1}}, 1, 3) == Mask{0, 1, 0});
  }
  SECTION("boxes join, and may leave the image") {
    CHECK(box_mask(std::vector<Box>{{-5, -5, 6, 6}, {1, 1, 9, 9}}, 2, 2) == Mask{1, 0, 0, 1});
    CHECK(box_mask(std::vector<Box>{{7, 7, 1, 1}}, 2, 2) == Mask{0, 0, 0, 0});
    CHECK_THROWS_AS(box_mask(std::vector<Box>{{std::nan(""), 0, 1, 1}}, 2, 2), Error);
  }
  SECTION("the bounding box of a box's mask is the box") {
    const Box box{3, 2, 4, 5};
    const Box found = bounding_box(box_mask(std::vector<Box>{box}, 10, 12), 10, 12).value();
    CHECK(found.x == box.x);
    CHECK(found.y == box.y);
    CHECK(found.width == box.width);
    CHECK(found.height == box.height);
    CHECK_FALSE(bounding_box(Mask(6, 0), 2, 3));
    CHECK_THROWS_AS(bounding_box(Mask(5, 0), 2, 3), Error);
  }
  SECTION("scaling moves a box with its image") {
    const Box scaled = Box{2, 4, 6, 8}.scaled(0.5, 2);
    CHECK(scaled.x == 1);
    CHECK(scaled.y == 8);
    CHECK(scaled.width == 3);
    CHECK(scaled.height == 16);
  }
}

TEST_CASE("box overlap", "[metrics]") {
  const Box unit{0, 0, 2, 2};
  CHECK(box_iou(unit, unit) == 1);
  CHECK(box_iou(unit, {1, 1, 2, 2}) == Approx(1 / 7.0));
  CHECK(box_iou(unit, {2, 0, 2, 2}) == 0);
  CHECK(box_iou(unit, {5, 5, 1, 1}) == 0);
  CHECK(box_iou(Box{}, Box{}) == 0);
}

TEST_CASE("the pointing game shares the point among tied maxima", "[metrics]") {
  const Mask mask{0, 255, 1, 0};
  CHECK(pointing_game(Map{0, 3, 1, 2}, mask).value() == 1);
  CHECK(pointing_game(Map{9, 3, 1, 2}, mask).value() == 0);
  CHECK(pointing_game(Map{9, 9, 9, 2}, mask).value() == Approx(2 / 3.0));
  CHECK(pointing_game(Map{-1, -1, -1, -1}, mask).value() == 0.5);
  CHECK_FALSE(pointing_game(Map{0, 3, 1, 2}, Mask(4, 0)));
  CHECK_FALSE(pointing_game(Map{}, Mask{}));
  CHECK(pointing_game(Map{0, 3, 1, 2}, 2, 2, std::vector<Box>{{1, 0, 1, 1}}).value() == 1);
  CHECK(pointing_game(Map{0, 3, 1, 2}, 2, 2, std::vector<Box>{{0, 1, 2, 1}}).value() == 0);
  CHECK_FALSE(pointing_game(Map{0, 3, 1, 2}, 2, 2, std::vector<Box>{}));
  CHECK_THROWS_WITH(pointing_game(Map{0, 3}, mask), "pointing_game: map: expected 4, got 2");
  CHECK_THROWS_AS(pointing_game(Map{0, std::nanf(""), 1, 2}, mask), Error);
}

TEST_CASE("pixel AUROC and average precision are those of the pixels as rows", "[metrics]") {
  const Mask mask{0, 255, 7, 0};
  const Map map{0.2F, 0.9F, 0.1F, 0.2F};
  CHECK(pixel_auroc(map, mask).value() == 0.5);
  CHECK(pixel_average_precision(map, mask).value() == Approx(0.5 + 0.5 * 0.5));
  CHECK_FALSE(pixel_auroc(map, Mask(4, 0)));
  CHECK_FALSE(pixel_auroc(map, Mask(4, 1)));
  CHECK_FALSE(pixel_average_precision(map, Mask(4, 0)));
  CHECK_THROWS_AS(pixel_auroc(map, Mask(3, 0)), Error);
  CHECK_THROWS_AS(pixel_average_precision(map, Mask(5, 0)), Error);
  const Map bad{0, std::nanf(""), 1, 2};
  CHECK_THROWS_WITH(pixel_auroc(bad, mask), "pixel_auroc: map: expected finite values, got nan");
  CHECK_THROWS_WITH(pixel_average_precision(bad, mask),
                    "pixel_average_precision: map: expected finite values, got nan");

  SECTION("a constant map is at chance: one half, and the mask's share") {
    CHECK(pixel_auroc(Map(4, 1.0F), mask).value() == 0.5);
    CHECK(pixel_average_precision(Map(4, 1.0F), mask).value() == 0.5);
  }
  SECTION("a large map separates two shifted normals as theory says") {
    constexpr std::size_t kPixels = 256 * 256;
    Map large;
    Mask inside;
    RandomStream random(8, 0, "pixels");
    for (std::size_t i = 0; i < kPixels; ++i) {
      inside.push_back(i % 20 == 0);
      large.push_back(static_cast<float>(random.normal() + inside.back()));
    }
    // P(N(1,1) > N(0,1)) = Phi(1 / sqrt 2)
    CHECK(pixel_auroc(large, inside).value() == Approx(0.5 * std::erfc(-0.5)).margin(0.01));
    CHECK(pixel_average_precision(large, inside).value() > 0.1);
  }
}

TEST_CASE("overlap at a threshold", "[metrics]") {
  const Mask mask{1, 1, 0, 0};
  const Map map{0.9F, 0.1F, 0.5F, 0.2F};
  const Overlap overlap = overlap_at_threshold(map, mask, 0.5).value();
  CHECK(overlap.iou == Approx(1 / 3.0));
  CHECK(overlap.dice == Approx(2 / 4.0));
  CHECK(overlap_at_threshold(map, mask, 0).value().iou == 0.5);
  CHECK(overlap_at_threshold(map, mask, 5).value().dice == 0);
  CHECK_FALSE(overlap_at_threshold(map, Mask(4, 0), 5));
  CHECK_THROWS_AS(overlap_at_threshold(map, mask, std::nan("")), Error);
  SECTION("IoU and Dice are two forms of one number") {
    RandomStream random(9, 0, "overlap");
    for (int trial = 0; trial < 20; ++trial) {
      Map values;
      Mask inside;
      for (int i = 0; i < 30; ++i) {
        values.push_back(static_cast<float>(random.uniform()));
        inside.push_back(random.below(2));
      }
      const auto both = overlap_at_threshold(values, inside, 0.3).value();
      CHECK(both.dice == Approx(2 * both.iou / (1 + both.iou)));
    }
  }
}

TEST_CASE("removal inside the mask and change outside it", "[metrics]") {
  const Mask mask{1, 1, 0, 0};
  const Map healthy{0, 0, 0.5F, 0.5F}, input{1, 0.5F, 0.5F, 0.5F}, translated{0.25F, -0.5F, 0.5F, 1};
  CHECK(in_mask_distance_ratio(translated, input, healthy, mask).value() == Approx(0.75 / 1.5));
  CHECK(in_mask_distance_ratio(input, input, healthy, mask).value() == 1);
  CHECK(in_mask_distance_ratio(healthy, input, healthy, mask).value() == 0);
  CHECK(outside_mask_change(translated, input, mask).value() == Approx(0.25));
  CHECK(outside_mask_change(input, input, mask).value() == 0);
  CHECK_FALSE(in_mask_distance_ratio(translated, input, healthy, Mask(4, 0)));
  CHECK_FALSE(in_mask_distance_ratio(translated, healthy, healthy, mask));
  CHECK_FALSE(outside_mask_change(translated, input, Mask(4, 9)));
  CHECK_THROWS_AS(in_mask_distance_ratio(translated, input, Map{0}, mask), Error);
  CHECK_THROWS_AS(outside_mask_change(translated, Map(4, std::numeric_limits<float>::infinity()), mask), Error);
}

TEST_CASE("the best overlap is the best over every threshold", "[metrics]") {
  const Map map{0.9F, 0.1F, 0.5F, 0.4F};
  const Mask mask{1, 0, 1, 1};
  const BestOverlap best = best_overlap(map, mask).value();
  CHECK(best.threshold == Approx(0.4));
  CHECK(best.overlap.iou == 1);
  CHECK(best.overlap.dice == 1);
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(43, item, "best overlap");
    Map random_map;
    Mask random_mask;
    for (int i = 0; i < 30; ++i) {
      random_map.push_back(static_cast<float>(random.below(item % 2 ? 4 : 1000)) - 2.0F);
      random_mask.push_back(i == 0 || random.uniform() < 0.3);
    }
    Overlap expected{-1, -1};
    for (float threshold : random_map) {
      const Overlap overlap = overlap_at_threshold(random_map, random_mask, threshold).value();
      expected = {std::max(expected.iou, overlap.iou), std::max(expected.dice, overlap.dice)};
    }
    const BestOverlap found = best_overlap(random_map, random_mask).value();
    CHECK(found.overlap.iou == Approx(expected.iou));
    CHECK(found.overlap.dice == Approx(expected.dice));
    CHECK(overlap_at_threshold(random_map, random_mask, found.threshold)->iou == Approx(expected.iou));
  }
  CHECK_FALSE(best_overlap(map, Mask(4, 0)));
  CHECK_FALSE(best_overlap(Map{}, Mask{}));
  CHECK_THROWS_AS(best_overlap(map, Mask(3, 1)), Error);
  CHECK_THROWS_WITH(best_overlap(Map{NAN}, Mask{1}), "best_overlap: map: expected finite values, got nan");
}

TEST_CASE("a common threshold is best on average", "[metrics]") {
  const Map first{0.9F, 0.6F, 0.1F}, second{0.5F, 0.4F, 0.2F}, normal{1, 1, 1};
  const Mask left{1, 0, 0}, none{0, 0, 0};
  const std::vector<MapAndMask> images{{first, left}, {second, left}, {normal, none}};
  // At 0.3 Dice is 2/3 and 2/3, at 0.5 it is 2/3 and 1, at 0.7 it is 1 and 0; the normal image does not count.
  const auto best = best_common_threshold(images, std::vector<double>{0.3, 0.5, 0.7}).value();
  CHECK(best.threshold == 0.5);
  CHECK(best.overlap.dice == Approx((2 / 3.0 + 1) / 2));
  CHECK(best.overlap.iou == Approx((1 / 2.0 + 1) / 2));
  CHECK_FALSE(best_common_threshold(images, std::vector<double>{}));
  CHECK_FALSE(best_common_threshold(std::vector<MapAndMask>{{normal, none}}, std::vector<double>{0.5}));
  CHECK_THROWS_AS(best_common_threshold(images, std::vector<double>{std::nan("")}), Error);
}

}  // namespace daug
