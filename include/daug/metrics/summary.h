#pragma once
/// @file
/// Averages over findings that leave out, and count, the findings for which a figure does not exist.

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"

namespace daug {

/// What a figure becomes that the data do not define.
enum class Compat {
  kNone,       ///< left out of every average, and counted
  kPublished,  ///< the number published code puts there: NaN or 0, see each function
};

/// One figure per finding and its averages.
struct FindingSummary {
  std::vector<std::optional<double>> finding;  ///< [K]; nothing where the figure is undefined
  std::vector<std::size_t> weight;             ///< [K]; how many positives (classification) or queries (retrieval)
  std::optional<double> macro;                 ///< plain mean over the defined findings; nothing when there are none
  std::optional<double> weighted;              ///< mean over the defined findings, weighted by `weight`
  std::size_t left_out = 0;                    ///< findings without a figure: in neither average
};

/// Averages `finding` [K] plainly, `macro = sum_f x_f / #defined`, and with `weight` [K],
/// `weighted = sum_f w_f x_f / sum_f w_f` over the defined findings. Deterministic; kInvalidArgument for unequal
/// lengths.
inline FindingSummary summarize_findings(std::vector<std::optional<double>> finding, std::vector<std::size_t> weight) {
  require(weight.size() == finding.size(), "summarize_findings", "weight", finding.size(), weight.size());
  FindingSummary summary;
  double sum = 0, weighted_sum = 0, total_weight = 0;
  for (std::size_t f = 0; f < finding.size(); ++f) {
    if (!finding[f]) {
      ++summary.left_out;
      continue;
    }
    sum += *finding[f];
    // A figure without weight has no say, not even when it is NaN (Compat::kPublished).
    if (weight[f] > 0) weighted_sum += *finding[f] * static_cast<double>(weight[f]);
    total_weight += static_cast<double>(weight[f]);
  }
  const std::size_t defined = finding.size() - summary.left_out;
  if (defined > 0) summary.macro = sum / static_cast<double>(defined);
  if (total_weight > 0) summary.weighted = weighted_sum / total_weight;
  summary.finding = std::move(finding);
  summary.weight = std::move(weight);
  return summary;
}

}  // namespace daug
