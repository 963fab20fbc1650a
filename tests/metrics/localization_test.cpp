#include "daug/metrics/localization.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
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

TEST_CASE("box overlap agrees with counting quarter pixels", "[metrics]") {
  for (std::uint64_t item = 0; item < 60; ++item) {
    RandomStream random(47, item, "box overlap");
    std::array<Box, 2> boxes;
    for (Box& box : boxes)
      box = {random.below(16) / 4.0 - 2, random.below(16) / 4.0 - 2, random.below(12) / 4.0, random.below(12) / 4.0};
    double both = 0, either = 0;
    for (int row = -8; row < 20; ++row)
      for (int column = -8; column < 20; ++column) {
        const auto inside = [&](const Box& box) {
          const double x = (column + 0.5) / 4, y = (row + 0.5) / 4;
          return box.x < x && x < box.x + box.width && box.y < y && y < box.y + box.height;
        };
        both += inside(boxes[0]) && inside(boxes[1]);
        either += inside(boxes[0]) || inside(boxes[1]);
      }
    INFO("item " << item);
    CHECK(box_iou(boxes[0], boxes[1]) == Approx(either > 0 ? both / either : 0).epsilon(1e-12));
  }
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

TEST_CASE("the pointing game agrees with comparing every pixel to every other", "[metrics]") {
  constexpr std::size_t kHeight = 4, kWidth = 5;
  for (std::uint64_t item = 0; item < 60; ++item) {
    RandomStream random(53, item, "pointing");
    Map map;
    for (std::size_t i = 0; i < kHeight * kWidth; ++i)
      map.push_back(static_cast<float>(random.below(item % 2 ? 4 : 1000)) - 2.0F);
    std::vector<Box> boxes;
    for (std::uint32_t n = random.below(3); n > 0; --n)
      boxes.push_back({random.uniform(-1, 4), random.uniform(-1, 3), random.uniform(0, 4), random.uniform(0, 3)});
    Mask mask;
    for (std::size_t i = 0; i < map.size(); ++i) {
      const double x = static_cast<double>(i % kWidth) + 0.5, y = static_cast<double>(i / kWidth) + 0.5;
      std::uint8_t inside = 0;
      for (const Box& box : boxes)
        if (x >= box.x && x < box.x + box.width && y >= box.y && y < box.y + box.height) inside = 7;
      mask.push_back(inside);
    }
    double best = 0, hits = 0, size = 0;
    for (std::size_t i = 0; i < map.size(); ++i) {
      bool beaten = false;
      for (const float other : map) beaten = beaten || other > map[i];
      size += mask[i] ? 1 : 0;
      best += beaten ? 0 : 1;
      hits += !beaten && mask[i] ? 1 : 0;
    }
    INFO("item " << item);
    const auto by_mask = pointing_game(map, mask), by_boxes = pointing_game(map, kHeight, kWidth, boxes);
    REQUIRE(by_mask.has_value() == (size > 0));
    REQUIRE(by_boxes.has_value() == (size > 0));
    if (!by_mask) continue;
    CHECK(*by_mask == Approx(hits / best).epsilon(1e-12));
    CHECK(*by_boxes == Approx(hits / best).epsilon(1e-12));
  }
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
      CHECK(both.dice == Approx(2 * both.iou / (1 + both.iou)).epsilon(1e-12));
    }
  }
}

TEST_CASE("overlaps at one and at the best common threshold agree with counting pixels", "[metrics]") {
  const auto counted = [](const Map& map, const Mask& mask, double threshold) -> std::optional<Overlap> {
    double both = 0, either = 0, sizes = 0;
    for (std::size_t i = 0; i < map.size(); ++i) {
      const bool marked = static_cast<double>(map[i]) >= threshold, inside = mask[i] != 0;
      both += marked && inside;
      either += marked || inside;
      sizes += (marked ? 1 : 0) + (inside ? 1 : 0);
    }
    if (either == 0) return std::nullopt;
    return Overlap{both / either, 2 * both / sizes};
  };
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(59, item, "common threshold");
    std::vector<Map> maps(1 + random.below(5));
    std::vector<Mask> masks(maps.size());
    std::vector<MapAndMask> images;
    for (std::size_t i = 0; i < maps.size(); ++i) {
      const bool healthy = random.below(3) == 0;
      for (int pixel = 0; pixel < 12; ++pixel) {
        maps[i].push_back(static_cast<float>(random.below(item % 2 ? 4 : 1000)) / (item % 2 ? 4.0F : 1000.0F));
        masks[i].push_back(static_cast<std::uint8_t>(healthy ? 0 : random.below(3)));
      }
      images.push_back({maps[i], masks[i]});
    }
    std::vector<double> candidates;
    for (int t = 0; t < 6; ++t) candidates.push_back(random.uniform(-0.1, 1.2));
    // The means over the images whose mask is not empty, and how many these are.
    const auto mean = [&](double threshold) {
      Overlap sum{0, 0};
      double count = 0;
      for (std::size_t i = 0; i < maps.size(); ++i) {
        double inside = 0;
        for (const std::uint8_t pixel : masks[i]) inside += pixel;
        if (inside == 0) continue;
        const Overlap one = counted(maps[i], masks[i], threshold).value();
        sum = {sum.iou + one.iou, sum.dice + one.dice};
        ++count;
      }
      return std::pair(Overlap{sum.iou / std::max(count, 1.0), sum.dice / std::max(count, 1.0)}, count);
    };
    INFO("item " << item);
    double highest = 0;
    for (const double threshold : candidates) {
      highest = std::max(highest, mean(threshold).first.dice);
      for (std::size_t i = 0; i < maps.size(); ++i) {
        const auto found = overlap_at_threshold(maps[i], masks[i], threshold);
        const auto expected = counted(maps[i], masks[i], threshold);
        REQUIRE(found.has_value() == expected.has_value());
        if (!found) continue;
        CHECK(found->iou == Approx(expected->iou).epsilon(1e-12));
        CHECK(found->dice == Approx(expected->dice).epsilon(1e-12));
      }
    }
    const auto best = best_common_threshold(images, candidates);
    REQUIRE(best.has_value() == (mean(0).second > 0));
    if (!best) continue;
    CHECK(std::count(candidates.begin(), candidates.end(), best->threshold) == 1);
    CHECK(best->overlap.dice == Approx(highest).epsilon(1e-12));
    CHECK(best->overlap.dice == Approx(mean(best->threshold).first.dice).epsilon(1e-12));
    CHECK(best->overlap.iou == Approx(mean(best->threshold).first.iou).epsilon(1e-12));
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

TEST_CASE("removal and change agree with sums over pixels", "[metrics]") {
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(61, item, "removal");
    Map healthy, input, translated;
    Mask mask;
    double left = 0, before = 0, change = 0, outside = 0;
    for (int pixel = 0; pixel < 24; ++pixel) {
      for (Map* image : {&healthy, &input, &translated}) image->push_back(static_cast<float>(random.normal()));
      mask.push_back(static_cast<std::uint8_t>(random.below(item % 5 == 0 ? 1 : 3)));  // every fifth is empty
      const auto y = static_cast<double>(translated.back()), x = static_cast<double>(input.back());
      const auto h = static_cast<double>(healthy.back());
      if (mask.back() != 0) {
        left += std::abs(y - h);
        before += std::abs(x - h);
      } else {
        change += std::abs(y - x);
        ++outside;
      }
    }
    INFO("item " << item);
    const auto ratio = in_mask_distance_ratio(translated, input, healthy, mask);
    REQUIRE(ratio.has_value() == (before > 0));
    if (ratio) CHECK(*ratio == Approx(left / before).epsilon(1e-12));
    const auto changed = outside_mask_change(translated, input, mask);
    REQUIRE(changed.has_value() == (outside > 0));
    if (changed) CHECK(*changed == Approx(change / outside).epsilon(1e-12));
  }
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
    CHECK(found.overlap.iou == Approx(expected.iou).epsilon(1e-12));
    CHECK(found.overlap.dice == Approx(expected.dice).epsilon(1e-12));
    CHECK(overlap_at_threshold(random_map, random_mask, found.threshold)->iou == Approx(expected.iou).epsilon(1e-12));
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
  // At 0.45 the same pixels are marked as at 0.5: the first of equals.
  CHECK(best_common_threshold(images, std::vector<double>{0.3, 0.45, 0.5})->threshold == 0.45);
  CHECK_FALSE(best_common_threshold(images, std::vector<double>{}));
  CHECK_FALSE(best_common_threshold(std::vector<MapAndMask>{{normal, none}}, std::vector<double>{0.5}));
  CHECK_THROWS_AS(best_common_threshold(images, std::vector<double>{std::nan("")}), Error);
}

}  // namespace daug
