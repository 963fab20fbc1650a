#pragma once
/// @file
/// Do heatmaps light up where the finding is? Figures for one map [H, W] against a mask [H, W] or boxes, and for one
/// translated image against its true counterfactual.
///
/// Conventions of the whole file. Maps and images are row-major float32 and finite (kNumeric otherwise). A mask is
/// uint8, any non-zero value is inside. A figure that does not exist (empty mask, nothing outside it) is std::nullopt.
/// Averages over images are the caller's: mean over the images positive for a finding, then over findings. Wrong
/// lengths throw kInvalidArgument. Float64 arithmetic, deterministic.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "daug/core/box.h"
#include "daug/core/error.h"
#include "daug/metrics/precision_recall.h"
#include "daug/metrics/roc.h"
#include "daug/metrics/view.h"

namespace daug {

/// Area of the intersection over area of the union, `IoU = w h / (|a| + |b| - w h)` with
/// `w = max(0, min(a.x + a.width, b.x + b.width) - max(a.x, b.x))` and h the same of y and height. In [0, 1]; 0 when
/// both boxes are empty.
inline double box_iou(const Box& a, const Box& b) {
  const double width = std::min(a.x + a.width, b.x + b.width) - std::max(a.x, b.x);
  const double height = std::min(a.y + a.height, b.y + b.height) - std::max(a.y, b.y);
  const double intersection = std::max(width, 0.0) * std::max(height, 0.0);
  const double together = a.area() + b.area() - intersection;
  return together > 0 ? intersection / together : 0;
}

/// Mask [height, width] of the pixels whose centre lies in any of the boxes: 1 at (row r, column c) where some box
/// contains `(c + 1/2, r + 1/2)`, else 0. Boxes may reach outside the image.
inline std::vector<std::uint8_t> box_mask(ArrayView<Box> boxes, std::size_t height, std::size_t width) {
  std::vector<std::uint8_t> mask(height * width, 0);
  for (const Box& box : boxes) {
    for (double edge : {box.x, box.y, box.width, box.height})
      if (!std::isfinite(edge)) fail(ErrorCode::kNumeric, "box_mask", "boxes", "finite edges", edge);
    for (std::size_t row = 0; row < height; ++row)
      for (std::size_t column = 0; column < width; ++column)
        if (box.contains(static_cast<double>(column) + 0.5, static_cast<double>(row) + 0.5))
          mask[row * width + column] = 1;
  }
  return mask;
}

/// Smallest box that covers every pixel inside the mask [height, width]; nothing when the mask is empty.
inline std::optional<Box> bounding_box(ArrayView<std::uint8_t> mask, std::size_t height, std::size_t width) {
  const MatrixView<std::uint8_t> pixels(mask, height, width);
  std::size_t top = height, bottom = 0, left = width, right = 0;
  for (std::size_t row = 0; row < height; ++row)
    for (std::size_t column = 0; column < width; ++column) {
      if (!pixels(row, column)) continue;
      top = std::min(top, row);
      bottom = row + 1;
      left = std::min(left, column);
      right = std::max(right, column + 1);
    }
  if (bottom == 0) return std::nullopt;
  return Box{static_cast<double>(left), static_cast<double>(top), static_cast<double>(right - left),
             static_cast<double>(bottom - top)};
}

namespace detail {

inline void require_map(const char* function, const char* argument, ArrayView<float> map,
                        ArrayView<std::uint8_t> mask) {
  require_same_size(function, argument, mask, map);
  for (float value : map)
    if (!std::isfinite(value)) fail(ErrorCode::kNumeric, function, argument, "finite values", value);
}

inline std::vector<std::uint8_t> zero_or_one(ArrayView<std::uint8_t> mask) {
  std::vector<std::uint8_t> labels(mask.size());
  std::transform(mask.begin(), mask.end(), labels.begin(), [](std::uint8_t value) { return value != 0; });
  return labels;
}

/// Mean |a - b| over the pixels inside (or outside) the mask; nothing when there are none.
inline std::optional<double> mean_distance(ArrayView<float> a, ArrayView<float> b, ArrayView<std::uint8_t> mask,
                                           bool inside) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    if ((mask[i] != 0) != inside) continue;
    sum += std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    ++count;
  }
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

}  // namespace detail

/// Pointing game (Zhang et al., arXiv 1608.00507, without their tolerance): 1 when the map's maximum lies inside the
/// mask B, 0 when not. Pixels that tie for the maximum share the point:
/// `#{i in B : m_i = max_j m_j} / #{i : m_i = max_j m_j}`, so a constant map scores the mask's share of the image.
/// Nothing when the mask is empty.
inline std::optional<double> pointing_game(ArrayView<float> map, ArrayView<std::uint8_t> mask) {
  detail::require_map("pointing_game", "map", map, mask);
  if (std::all_of(mask.begin(), mask.end(), [](std::uint8_t value) { return value == 0; })) return std::nullopt;
  const float maximum = *std::max_element(map.begin(), map.end());
  double tied = 0, inside = 0;
  for (std::size_t i = 0; i < map.size(); ++i) {
    if (map[i] != maximum) continue;
    ++tied;
    inside += mask[i] != 0;
  }
  return inside / tied;
}

/// Pointing game against boxes on a map [height, width]: the same formula with `B = box_mask(boxes, height, width)`.
/// Nothing when no box holds a pixel.
inline std::optional<double> pointing_game(ArrayView<float> map, std::size_t height, std::size_t width,
                                           ArrayView<Box> boxes) {
  return pointing_game(map, box_mask(boxes, height, width));
}

/// AUROC of the pixels, positive inside the mask B:
/// `sum_{i in B, j not in B} ([m_i > m_j] + [m_i = m_j] / 2) / (|B| (H W - |B|))`. Proves little on its own: findings
/// sit where findings sit, so the mean training mask already scores high. Nothing when the mask is empty or covers
/// everything.
inline std::optional<double> pixel_auroc(ArrayView<float> map, ArrayView<std::uint8_t> mask) {
  detail::require_map("pixel_auroc", "map", map, mask);
  return auroc(map, detail::zero_or_one(mask));
}

/// Average precision of the pixels, positive inside the mask B (step form, see `average_precision`): over the distinct
/// values t_i of the map, falling, with `A_i` the pixels with map >= t_i, `sum_i (R_i - R_{i-1}) P_i`,
/// `R_i = |A_i n B| / |B|`, `P_i = |A_i n B| / |A_i|`. Chance level is the mask's share of the image, `|B| / (H W)`.
/// Nothing when the mask is empty.
inline std::optional<double> pixel_average_precision(ArrayView<float> map, ArrayView<std::uint8_t> mask) {
  detail::require_map("pixel_average_precision", "map", map, mask);
  return average_precision(map, detail::zero_or_one(mask));
}

/// Agreement of the pixels A that a threshold marks with the mask B.
struct Overlap {
  double iou;   ///< `|A n B| / |A u B|`, in [0, 1]
  double dice;  ///< `2 |A n B| / (|A| + |B|)`, in [0, 1]
};

/// Overlap of the pixels A with map >= threshold and the mask B: `IoU = |A n B| / |A u B|`,
/// `Dice = 2 |A n B| / (|A| + |B|)`. Nothing when both are empty.
inline std::optional<Overlap> overlap_at_threshold(ArrayView<float> map, ArrayView<std::uint8_t> mask,
                                                   double threshold) {
  detail::require_map("overlap_at_threshold", "map", map, mask);
  require(!std::isnan(threshold), "overlap_at_threshold", "threshold", "a number", threshold);
  double both = 0, marked = 0, inside = 0;
  for (std::size_t i = 0; i < map.size(); ++i) {
    const bool above = static_cast<double>(map[i]) >= threshold;
    marked += above;
    inside += mask[i] != 0;
    both += above && mask[i] != 0;
  }
  if (marked + inside == 0) return std::nullopt;
  return Overlap{both / (marked + inside - both), 2 * both / (marked + inside)};
}

/// An overlap and the threshold that gave it.
struct BestOverlap {
  double threshold;  ///< marks the pixels with map >= threshold
  Overlap overlap;   ///< at that threshold
};

/// The best overlap over all thresholds, `max_t IoU(t)` over the distinct values t of the map with `IoU(t)` that of
/// `overlap_at_threshold`, and equally `max_t Dice(t)` (`Dice = 2 IoU / (1 + IoU)` rises with it); among equals the
/// highest threshold. Chosen with the answer in hand: an upper bound, not a result. To report one, fix the threshold
/// on validation images with `best_common_threshold`. Nothing when the mask is empty. O(n log n).
inline std::optional<BestOverlap> best_overlap(ArrayView<float> map, ArrayView<std::uint8_t> mask) {
  detail::require_map("best_overlap", "map", map, mask);
  const auto counts = detail::ranked_counts("best_overlap", map, detail::zero_or_one(mask), {});
  if (counts.empty() || counts.back().positives == 0) return std::nullopt;
  const double inside = counts.back().positives;
  BestOverlap best{0, {-1, -1}};
  for (const auto& count : counts) {
    const double iou = count.positives / (inside + count.negatives);
    if (iou > best.overlap.iou)
      best = {count.score, {iou, 2 * count.positives / (count.positives + count.negatives + inside)}};
  }
  return best;
}

/// A map and its mask, of one length.
struct MapAndMask {
  ArrayView<float> map;          ///< [H, W]
  ArrayView<std::uint8_t> mask;  ///< [H, W]
};

/// One threshold for all images: of the candidates t the first with the highest mean `sum_i Dice_i(t) / n` of
/// `overlap_at_threshold` over the n images whose mask is not empty. Its IoU and Dice are both such means:
/// `sum_i IoU_i(t) / n`, `sum_i Dice_i(t) / n`. Nothing when there is no such image or no candidate.
inline std::optional<BestOverlap> best_common_threshold(ArrayView<MapAndMask> images, ArrayView<double> candidates) {
  std::optional<BestOverlap> best;
  for (double threshold : candidates) {
    Overlap mean{0, 0};
    double count = 0;
    for (const auto& [map, mask] : images) {
      if (std::all_of(mask.begin(), mask.end(), [](std::uint8_t value) { return value == 0; })) continue;
      const Overlap overlap = *overlap_at_threshold(map, mask, threshold);
      mean.iou += overlap.iou;
      mean.dice += overlap.dice;
      ++count;
    }
    if (count == 0) return std::nullopt;
    mean = {mean.iou / count, mean.dice / count};
    if (!best || mean.dice > best->overlap.dice) best = BestOverlap{threshold, mean};
  }
  return best;
}

/// How much of the lesion is left: with translated image y, input x and true counterfactual h (`healthy`), inside the
/// mask B `sum_{i in B} |y_i - h_i| / sum_{i in B} |x_i - h_i|`. 0 is a perfect removal, 1 an untouched image, above 1
/// a worse one. Nothing when the mask is empty or the input already equals the counterfactual inside it.
inline std::optional<double> in_mask_distance_ratio(ArrayView<float> translated, ArrayView<float> input,
                                                    ArrayView<float> healthy, ArrayView<std::uint8_t> mask) {
  detail::require_map("in_mask_distance_ratio", "translated", translated, mask);
  detail::require_map("in_mask_distance_ratio", "input", input, mask);
  detail::require_map("in_mask_distance_ratio", "healthy", healthy, mask);
  const auto before = detail::mean_distance(input, healthy, mask, true);
  if (!before || *before == 0) return std::nullopt;
  return *detail::mean_distance(translated, healthy, mask, true) / *before;
}

/// Collateral damage: with translated image y and input x, outside the mask B
/// `sum_{i not in B} |y_i - x_i| / (H W - |B|)`, in the images' unit. Nothing when the mask covers everything.
inline std::optional<double> outside_mask_change(ArrayView<float> translated, ArrayView<float> input,
                                                 ArrayView<std::uint8_t> mask) {
  detail::require_map("outside_mask_change", "translated", translated, mask);
  detail::require_map("outside_mask_change", "input", input, mask);
  return detail::mean_distance(translated, input, mask, false);
}

}  // namespace daug
