#pragma once
/// @file
/// Decision curves (Vickers & Elkin, Medical Decision Making, 2006): is acting on a model worth more than treating
/// everybody, or nobody, at the risk from which one would treat?

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/roc.h"
#include "daug/metrics/view.h"

namespace daug {

/// Net benefits at one threshold probability, in true positives per row.
struct NetBenefit {
  double threshold = 0;     ///< t, in (0, 1)
  double model = 0;         ///< `TP / n - FP / n * t / (1 - t)`, treating rows with p >= t; at most the prevalence
  double treat_all = 0;     ///< the same when every row is treated; treating nobody has 0
  double standardized = 0;  ///< `model / prevalence`; at most 1
  double avoided = 0;       ///< `(model - treat_all) * (1 - t) / t`: treatments avoided per row without missing more
};

/// The decision curve of `probabilities` [N] (contiguous float or double, in [0, 1]) against `labels` [N], one entry
/// for each of `thresholds`, each in (0, 1), in their order.
///
/// Net benefit supposes calibrated probabilities; look at `calibration_bins` first. Nothing without a positive.
/// O(N log N + T log N). Throws kInvalidArgument for anything out of its range.
template <class Probabilities>
std::optional<std::vector<NetBenefit>> decision_curve(const Probabilities& probabilities,
                                                      ArrayView<std::uint8_t> labels, ArrayView<double> thresholds) {
  constexpr const char* kFunction = "decision_curve";
  for (double threshold : thresholds)
    require(threshold > 0 && threshold < 1, kFunction, "thresholds", "values in (0, 1)", threshold);
  for (auto probability : ArrayView(probabilities)) require_range(probability, 0, 1, kFunction, "probabilities");
  const auto counts = detail::ranked_counts(kFunction, probabilities, labels, {});
  if (counts.empty() || counts.back().positives == 0) return std::nullopt;

  const auto [lowest, positives, negatives] = counts.back();
  const double rows = positives + negatives;
  std::vector<NetBenefit> curve;
  for (double threshold : thresholds) {
    const auto below = std::partition_point(counts.begin(), counts.end(),
                                            [threshold](const auto& count) { return count.score >= threshold; });
    const auto treated = below == counts.begin() ? detail::RankedCount{0, 0, 0} : *(below - 1);
    const double odds = threshold / (1 - threshold);
    NetBenefit point;
    point.threshold = threshold;
    point.model = (treated.positives - treated.negatives * odds) / rows;
    point.treat_all = (positives - negatives * odds) / rows;
    point.standardized = point.model / (positives / rows);
    point.avoided = (point.model - point.treat_all) / odds;
    curve.push_back(point);
  }
  return curve;
}

}  // namespace daug
