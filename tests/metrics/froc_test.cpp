#include "daug/metrics/froc.h"

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Mask = std::vector<std::uint8_t>;

/// Sensitivity and false alarms per image at a threshold, counted from the definition.
std::pair<double, double> brute_point(const std::vector<FrocImage>& images, double threshold) {
  double lesions = 0, found = 0, alarms = 0;
  for (const FrocImage& image : images) {
    lesions += static_cast<double>(image.lesions);
    for (std::size_t lesion = 0; lesion < image.lesions; ++lesion) {
      bool hit = false;
      for (const Detection& d : image.detections)
        hit = hit || (d.score >= threshold && d.lesion == static_cast<std::int64_t>(lesion));
      found += hit;
    }
    for (const Detection& d : image.detections) alarms += d.score >= threshold && d.lesion < 0;
  }
  return {found / lesions, alarms / static_cast<double>(images.size())};
}

}  // namespace

TEST_CASE("regions of a mask touch, diagonals included", "[metrics]") {
  const Mask mask{1, 0, 0, 7,  //
                  0, 1, 0, 0,  //
                  0, 0, 0, 2,  //
                  1, 1, 0, 2};
  const MaskRegions regions = mask_regions(mask, 4, 4);
  CHECK(regions.label == std::vector<std::uint32_t>{1, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 3, 4, 4, 0, 3});
  REQUIRE(regions.boxes.size() == 4);
  CHECK(regions.boxes[0].area() == 4);
  CHECK(regions.boxes[2].x == 3);
  CHECK(regions.boxes[2].y == 2);
  CHECK(regions.boxes[2].width == 1);
  CHECK(regions.boxes[2].height == 2);
  CHECK(mask_regions(Mask(6, 0), 2, 3).boxes.empty());
  CHECK(mask_regions(Mask(6, 1), 2, 3).boxes.size() == 1);
  CHECK(mask_regions(Mask{}, 0, 0).boxes.empty());
  CHECK_THROWS_AS(mask_regions(Mask(5, 0), 2, 3), Error);
}

TEST_CASE("regions agree with spreading labels until nothing changes", "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(23, item, "regions");
    const int height = 1 + static_cast<int>(random.below(9)), width = 1 + static_cast<int>(random.below(9));
    const auto at = [&](int r, int c) { return static_cast<std::size_t>(r * width + c); };
    Mask mask;
    for (int i = 0; i < height * width; ++i) mask.push_back(random.uniform() < 0.4);
    std::vector<std::size_t> root(mask.size());
    for (std::size_t i = 0; i < root.size(); ++i) root[i] = i;
    for (bool changed = true; changed;) {
      changed = false;
      for (int r = 0; r < height; ++r)
        for (int c = 0; c < width; ++c)
          for (int dr = -1; dr <= 1; ++dr)
            for (int dc = -1; dc <= 1; ++dc) {
              const int nr = r + dr, nc = c + dc;
              if (nr < 0 || nc < 0 || nr >= height || nc >= width || !mask[at(r, c)] || !mask[at(nr, nc)]) continue;
              if (root[at(nr, nc)] >= root[at(r, c)]) continue;
              root[at(r, c)] = root[at(nr, nc)];
              changed = true;
            }
    }
    const MaskRegions regions = mask_regions(mask, static_cast<std::size_t>(height), static_cast<std::size_t>(width));
    std::set<std::size_t> roots;
    for (std::size_t i = 0; i < mask.size(); ++i) {
      CHECK((regions.label[i] != 0) == (mask[i] != 0));
      if (mask[i]) roots.insert(root[i]);
      for (std::size_t j = 0; j < i; ++j)
        if (mask[i] && mask[j]) CHECK((regions.label[i] == regions.label[j]) == (root[i] == root[j]));
    }
    CHECK(roots.size() == regions.boxes.size());
  }
}

TEST_CASE("the candidates of a map are the peaks of what lies above the threshold", "[metrics]") {
  const std::vector<float> map{0.5F, 0.9F, 0, 0,     //
                               0,    0,    0, 0.6F,  //
                               0,    0,    0, 0.6F};
  const auto candidates = map_candidates(map, 3, 4, 0.5);
  REQUIRE(candidates.size() == 2);
  CHECK(candidates[0].score == Approx(0.9));
  CHECK(candidates[0].x == 1.5);
  CHECK(candidates[0].y == 0.5);
  CHECK(candidates[0].box.width == 2);
  CHECK(candidates[1].y == 1.5);  // the first of equal peaks
  CHECK(candidates[1].box.height == 2);
  CHECK(map_candidates(map, 3, 4, 0.8).size() == 1);
  CHECK(map_candidates(map, 3, 4, 2).empty());
  const std::vector<float> negative{-3, -1, -2};
  CHECK(map_candidates(negative, 1, 3, -5)[0].score == -1);
  CHECK_THROWS_AS(map_candidates(map, 3, 5, 0.5), Error);
  CHECK_THROWS_AS(map_candidates(map, 3, 4, std::nan("")), Error);
  CHECK_THROWS_AS(map_candidates(std::vector<float>{NAN}, 1, 1, 0), Error);
}

TEST_CASE("candidates are matched to boxes and masks", "[metrics]") {
  const std::vector<Box> boxes{{0, 0, 4, 4}, {2, 2, 4, 4}};
  const std::vector<Candidate> candidates{{0.9, 1, 1, {0, 0, 4, 4}},   // the first box exactly
                                          {0.8, 3, 3, {2, 2, 4, 3}},   // its point in both, its box nearer the second
                                          {0.7, 9, 9, {0, 0, 4, 4}},   // its point in neither, its box the first
                                          {0.6, 5, 5, {5, 5, 9, 9}}};  // its point in the second, hardly overlapping
  const auto lesions = [](const FrocImage& image) {
    std::vector<std::int64_t> found;
    for (const Detection& detection : image.detections) found.push_back(detection.lesion);
    return found;
  };
  const FrocImage by_point = match_boxes(candidates, boxes, BoxMatch::kPoint);
  CHECK(by_point.lesions == 2);
  CHECK(lesions(by_point) == std::vector<std::int64_t>{0, 1, -1, 1});
  CHECK(by_point.detections[1].score == 0.8);
  CHECK(lesions(match_boxes(candidates, boxes, BoxMatch::kIou)) == std::vector<std::int64_t>{0, 1, 0, -1});
  CHECK(lesions(match_boxes(candidates, boxes, BoxMatch::kIou, 1)) == std::vector<std::int64_t>{0, -1, 0, -1});

  const Mask mask{1, 0, 0, 0, 0, 1};
  const std::vector<Candidate> points{
      {3, 0.5, 0.5, {}}, {2, 2.9, 1.9, {}}, {1, 2.5, 0.5, {}}, {1, -0.5, 0.5, {}}, {1, 3, 0.5, {}}};
  const FrocImage by_mask = match_mask(points, mask, 2, 3);
  CHECK(by_mask.lesions == 2);
  CHECK(lesions(by_mask) == std::vector<std::int64_t>{0, 1, -1, -1, -1});

  CHECK_THROWS_AS(match_boxes(candidates, boxes, BoxMatch::kIou, 0), Error);
  CHECK_THROWS_AS(match_boxes(std::vector<Candidate>{{NAN, 0, 0, {}}}, boxes, BoxMatch::kPoint), Error);
  CHECK_THROWS_AS(match_mask(std::vector<Candidate>{{1, NAN, 0, {}}}, mask, 2, 3), Error);
  CHECK_THROWS_AS(match_mask(points, mask, 3, 3), Error);
}

TEST_CASE("matches agree with asking every box and every pixel", "[metrics]") {
  constexpr std::size_t kHeight = 5, kWidth = 6;
  for (std::uint64_t item = 0; item < 40; ++item) {
    RandomStream random(67, item, "matches");
    const auto random_box = [&] {  // on half pixels, so that there are equal overlaps
      return Box{random.below(8) / 2.0, random.below(6) / 2.0, random.below(7) / 2.0, random.below(7) / 2.0};
    };
    std::vector<Box> boxes;
    for (std::uint32_t n = random.below(4); n > 0; --n) boxes.push_back(random_box());
    std::vector<Candidate> candidates;
    for (int n = 0; n < 12; ++n)
      candidates.push_back({random.normal(), random.uniform(-1, 7), random.uniform(-1, 6), random_box()});
    Mask mask;
    for (std::size_t i = 0; i < kHeight * kWidth; ++i) mask.push_back(static_cast<std::uint8_t>(random.below(3) == 0));
    const MaskRegions regions = mask_regions(mask, kHeight, kWidth);
    const FrocImage by_point = match_boxes(candidates, boxes, BoxMatch::kPoint);
    const FrocImage by_overlap = match_boxes(candidates, boxes, BoxMatch::kIou, 0.3);
    const FrocImage by_mask = match_mask(candidates, mask, kHeight, kWidth);
    REQUIRE(by_mask.lesions == regions.boxes.size());
    for (std::size_t c = 0; c < candidates.size(); ++c) {
      const Candidate& one = candidates[c];
      const auto overlap = [&](std::size_t b) { return box_iou(one.box, boxes[b]); };
      std::int64_t point = -1, most = -1, region = -1;
      for (std::size_t b = boxes.size(); b-- > 0;) {  // from the last: the first of equals stays
        const Box& box = boxes[b];
        const bool inside = box.x <= one.x && one.x < box.x + box.width && box.y <= one.y && one.y < box.y + box.height;
        const auto beats = [&](std::int64_t other) {
          return other < 0 || overlap(b) >= overlap(static_cast<std::size_t>(other));
        };
        if (inside && beats(point)) point = static_cast<std::int64_t>(b);
        if (overlap(b) >= 0.3 && beats(most)) most = static_cast<std::int64_t>(b);
      }
      for (std::size_t i = 0; i < mask.size(); ++i) {
        const auto column = static_cast<double>(i % kWidth), row = static_cast<double>(i / kWidth);
        if (column <= one.x && one.x < column + 1 && row <= one.y && one.y < row + 1)
          region = static_cast<std::int64_t>(regions.label[i]) - 1;
      }
      INFO("item " << item << " candidate " << c);
      CHECK(by_point.detections[c].lesion == point);
      CHECK(by_overlap.detections[c].lesion == most);
      CHECK(by_mask.detections[c].lesion == region);
      CHECK(by_mask.detections[c].score == one.score);
    }
  }
}

TEST_CASE("the FROC curve of a hand-computed example", "[metrics]") {
  // Two images: two lesions, one of them hit twice, and a false alarm; and a normal image with two false alarms.
  const std::vector<FrocImage> images{{2, {{0.9, 0}, {0.5, 0}, {0.7, -1}, {0.4, 1}}}, {0, {{0.8, -1}, {0.4, -1}}}};
  const FrocCurve curve = froc_curve(images).value();
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(curve.thresholds == std::vector<double>{infinity, 0.9, 0.8, 0.7, 0.4});
  CHECK(curve.sensitivity == std::vector<double>{0, 0.5, 0.5, 0.5, 1});
  CHECK(curve.false_positives == std::vector<double>{0, 0, 0.5, 1, 1.5});
  CHECK(sensitivity_at_false_positives(curve, 0) == 0.5);
  CHECK(sensitivity_at_false_positives(curve, 1.49) == 0.5);
  CHECK(sensitivity_at_false_positives(curve, 1.5) == 1);
  CHECK(froc_score(curve).value() == Approx((4 * 0.5 + 3 * 1) / 7));
  CHECK(froc_score(curve, {1}).value() == 0.5);
  CHECK_FALSE(froc_score(curve, {}));
  CHECK_THROWS_AS(sensitivity_at_false_positives(curve, -1), Error);
}

TEST_CASE("the FROC curve agrees with its definition at every threshold", "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(29, item, "froc");
    std::vector<FrocImage> images(1 + random.below(6));
    std::set<double> scores;
    for (FrocImage& image : images) {
      image.lesions = random.below(4);
      for (std::uint32_t d = random.below(7); d > 0; --d) {
        const double score = item % 2 ? random.below(5) : random.uniform();
        image.detections.push_back(
            {score, static_cast<std::int64_t>(random.below(static_cast<std::uint32_t>(image.lesions) + 1)) - 1});
        scores.insert(score);
      }
    }
    images[0].lesions += 1;
    const FrocCurve curve = froc_curve(images).value();
    for (std::size_t i = 1; i < curve.thresholds.size(); ++i) {
      const auto [sensitivity, alarms] = brute_point(images, curve.thresholds[i]);
      CHECK(curve.sensitivity[i] == Approx(sensitivity).epsilon(1e-12));
      CHECK(curve.false_positives[i] == Approx(alarms).epsilon(1e-12));
    }
    for (double rate : {0.0, 0.3, 1.0, 5.0}) {
      double best = 0;
      for (double threshold : scores) {
        const auto [sensitivity, alarms] = brute_point(images, threshold);
        if (alarms <= rate) best = std::max(best, sensitivity);
      }
      CHECK(sensitivity_at_false_positives(curve, rate) == Approx(best).epsilon(1e-12));
    }
  }
}

TEST_CASE("FROC needs a lesion and refuses bad detections", "[metrics]") {
  CHECK_FALSE(froc_curve(std::vector<FrocImage>{}));
  CHECK_FALSE(froc_curve(std::vector<FrocImage>{{0, {{1, -1}}}}));
  CHECK(froc_curve(std::vector<FrocImage>{{1, {}}})->sensitivity == std::vector<double>{0});
  CHECK_THROWS_AS(froc_curve(std::vector<FrocImage>{{1, {{1, 1}}}}), Error);
  CHECK_THROWS_AS(froc_curve(std::vector<FrocImage>{{1, {{1, -2}}}}), Error);
  CHECK_THROWS_AS(froc_curve(std::vector<FrocImage>{{1, {{NAN, 0}}}}), Error);
}

}  // namespace daug
