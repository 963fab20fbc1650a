#pragma once
/// @file
/// Free-response ROC: how many lesions are found at how many false alarms per image, for candidates against boxes or
/// masks.
///
/// A candidate hits at most one lesion. A lesion is found at threshold t when a candidate with score >= t hits it;
/// further candidates that hit it are neither found lesions nor false alarms; a candidate that hits none is a false
/// alarm.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "daug/core/box.h"
#include "daug/core/error.h"
#include "daug/metrics/localization.h"
#include "daug/metrics/regions.h"
#include "daug/metrics/view.h"

namespace daug {

/// A candidate after matching.
struct Detection {
  double score = 0;          ///< higher is surer
  std::int64_t lesion = -1;  ///< the lesion of its image that it hits, -1 for none
};

/// What was found in an image.
struct FrocImage {
  std::size_t lesions = 0;            ///< how many there are; 0 for a normal image, whose candidates all are false
  std::vector<Detection> detections;  ///< in any order
};

/// When a candidate hits a box.
enum class BoxMatch {
  kPoint,  ///< its point lies inside; of several boxes the one with the largest overlap with its own, then the first
  kIou,    ///< `box_iou` of both boxes >= the least overlap; of several the largest, then the first
};

/// Matches `candidates` of one image to its lesions' `boxes`. `least_overlap` in (0, 1] is used by kIou alone. Throws
/// kInvalidArgument for an overlap out of range, kNumeric for a score that is not finite.
inline FrocImage match_boxes(ArrayView<Candidate> candidates, ArrayView<Box> boxes, BoxMatch rule,
                             double least_overlap = 0.5) {
  constexpr const char* kFunction = "match_boxes";
  require(least_overlap > 0 && least_overlap <= 1, kFunction, "least_overlap", "a value in (0, 1]", least_overlap);
  FrocImage image{boxes.size(), {}};
  for (const Candidate& candidate : candidates) {
    if (!std::isfinite(candidate.score))
      fail(ErrorCode::kNumeric, kFunction, "candidates", "finite scores", candidate.score);
    Detection detection{candidate.score, -1};
    double largest = -1;
    for (std::size_t b = 0; b < boxes.size(); ++b) {
      const double overlap = box_iou(candidate.box, boxes[b]);
      const bool hit = rule == BoxMatch::kIou ? overlap >= least_overlap : boxes[b].contains(candidate.x, candidate.y);
      if (!hit || overlap <= largest) continue;
      largest = overlap;
      detection.lesion = static_cast<std::int64_t>(b);
    }
    image.detections.push_back(detection);
  }
  return image;
}

/// Matches `candidates` of one image to the regions of its `mask` [height, width]: a candidate hits the region its
/// point lies in. Candidates outside the image hit nothing. Errors as in `match_boxes` and `mask_regions`.
inline FrocImage match_mask(ArrayView<Candidate> candidates, ArrayView<std::uint8_t> mask, std::size_t height,
                            std::size_t width) {
  const MaskRegions regions = mask_regions(mask, height, width);
  FrocImage image{regions.boxes.size(), {}};
  for (const Candidate& candidate : candidates) {
    for (double number : {candidate.score, candidate.x, candidate.y})
      if (!std::isfinite(number)) fail(ErrorCode::kNumeric, "match_mask", "candidates", "finite numbers", number);
    Detection detection{candidate.score, -1};
    if (Box{0, 0, static_cast<double>(width), static_cast<double>(height)}.contains(candidate.x, candidate.y)) {
      const auto row = static_cast<std::size_t>(candidate.y), column = static_cast<std::size_t>(candidate.x);
      detection.lesion = static_cast<std::int64_t>(regions.label[row * width + column]) - 1;
    }
    image.detections.push_back(detection);
  }
  return image;
}

/// Point i counts the candidates with score >= thresholds[i].
struct FrocCurve {
  std::vector<double> false_positives;  ///< false alarms per image, rising from 0
  std::vector<double> sensitivity;      ///< share of all lesions found, rising from 0
  std::vector<double> thresholds;       ///< falling from +infinity
};

namespace detail {

/// What moves the curve: a lesion found by the surest candidate that hits it, or a false alarm.
struct FrocEvent {
  double score;
  std::size_t image;
  bool hit;
};

/// The events of all images, highest score first. Errors as in `froc_curve`.
inline std::vector<FrocEvent> froc_events(ArrayView<FrocImage> images) {
  std::vector<FrocEvent> events;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const std::size_t lesions = images[i].lesions;
    std::vector<double> best(lesions, -std::numeric_limits<double>::infinity());
    for (const Detection& detection : images[i].detections) {
      const bool known = detection.lesion >= -1 && detection.lesion < static_cast<std::int64_t>(lesions);
      if (!known)
        fail(ErrorCode::kInvalidArgument, "froc_curve", "lesion", concat("-1 or below ", lesions), detection.lesion);
      if (!std::isfinite(detection.score))
        fail(ErrorCode::kNumeric, "froc_curve", "detections", "finite scores", detection.score);
      if (detection.lesion < 0) {
        events.push_back({detection.score, i, false});
      } else {
        double& score = best[static_cast<std::size_t>(detection.lesion)];
        score = std::max(score, detection.score);
      }
    }
    for (double score : best)
      if (std::isfinite(score)) events.push_back({score, i, true});
  }
  std::sort(events.begin(), events.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  return events;
}

}  // namespace detail

/// The FROC curve over all images, one point for each distinct score and the origin:
/// `sensitivity(t) = lesions hit by a candidate with score >= t / lesions`,
/// `false_positives(t) = candidates with score >= t that hit nothing / images`.
///
/// Nothing without a lesion. Throws kInvalidArgument for a detection of a lesion its image lacks, kNumeric for a score
/// that is not finite. O(D log D).
inline std::optional<FrocCurve> froc_curve(ArrayView<FrocImage> images) {
  const std::vector<detail::FrocEvent> events = detail::froc_events(images);
  std::size_t lesions = 0;
  for (const FrocImage& image : images) lesions += image.lesions;
  if (lesions == 0) return std::nullopt;

  FrocCurve curve{{0}, {0}, {std::numeric_limits<double>::infinity()}};
  std::size_t found = 0, alarms = 0;
  for (std::size_t i = 0; i < events.size(); ++i) {
    ++(events[i].hit ? found : alarms);
    if (i + 1 < events.size() && events[i + 1].score == events[i].score) continue;
    curve.false_positives.push_back(static_cast<double>(alarms) / static_cast<double>(images.size()));
    curve.sensitivity.push_back(static_cast<double>(found) / static_cast<double>(lesions));
    curve.thresholds.push_back(events[i].score);
  }
  return curve;
}

/// Largest sensitivity at no more than `rate` false alarms per image, without interpolation:
/// `S(rate) = max_t sensitivity(t) subject to false_positives(t) <= rate`. `rate` >= 0 (kInvalidArgument otherwise).
inline double sensitivity_at_false_positives(const FrocCurve& curve, double rate) {
  require(rate >= 0, "sensitivity_at_false_positives", "rate", "a value >= 0", rate);
  const auto beyond = std::upper_bound(curve.false_positives.begin(), curve.false_positives.end(), rate);
  if (beyond == curve.false_positives.begin()) return 0;
  return curve.sensitivity[static_cast<std::size_t>(beyond - curve.false_positives.begin()) - 1];
}

/// 1/8, 1/4, ..., 8 false alarms per image: the rates of the competition performance metric (Niemeijer et al., 2011).
inline std::vector<double> froc_rates() { return {0.125, 0.25, 0.5, 1, 2, 4, 8}; }

/// Mean of `sensitivity_at_false_positives` over the n `rates`, `sum_i S(rate_i) / n`; nothing without rates. At the
/// default rates that is the competition performance metric, which interpolates linearly where this does not.
inline std::optional<double> froc_score(const FrocCurve& curve, const std::vector<double>& rates = froc_rates()) {
  if (rates.empty()) return std::nullopt;
  double sum = 0;
  for (double rate : rates) sum += sensitivity_at_false_positives(curve, rate);
  return sum / static_cast<double>(rates.size());
}

}  // namespace daug
