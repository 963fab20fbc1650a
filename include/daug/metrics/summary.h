#pragma once
/// @file
/// Averages over findings that leave out, and count, the findings for which a figure does not exist.

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace daug {

/// One figure per finding and its averages.
struct FindingSummary {
  std::vector<std::optional<double>> finding;  ///< [K]; nothing where the figure is undefined
  std::vector<std::size_t> weight;             ///< [K]; how many positives (classification) or queries (retrieval)
  std::optional<double> macro;                 ///< plain mean over the defined findings; nothing when there are none
  std::optional<double> weighted;              ///< mean over the defined findings, weighted by `weight`
  std::size_t left_out = 0;                    ///< findings without a figure: in neither average
};

/// Averages `finding` [K] plainly and with `weight` [K]. Deterministic; never throws for equal lengths.
inline FindingSummary summarize_findings(std::vector<std::optional<double>> finding, std::vector<std::size_t> weight) {
  FindingSummary summary;
  double sum = 0, weighted_sum = 0, total_weight = 0;
  for (std::size_t f = 0; f < finding.size(); ++f) {
    if (!finding[f]) {
      ++summary.left_out;
      continue;
    }
    sum += *finding[f];
    weighted_sum += *finding[f] * static_cast<double>(weight[f]);
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
