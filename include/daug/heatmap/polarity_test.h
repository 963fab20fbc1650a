#pragma once
/// @file
/// A check to run on a model and a few labelled images before its maps are believed: healthy and diseased have been
/// swapped in published work by nothing more than the order of two folders.

#include <cstdint>
#include <string>
#include <vector>

#include "daug/heatmap/maps.h"

namespace daug {

/// What polarity_test found about each finding, in the model's order.
struct PolarityTest {
  /// Difference of the mean signed evidence of images with and without the finding, in standard errors (Welch's t). Not
  /// a number when fewer than two images are known on either side.
  std::vector<double> separation;
  std::vector<std::string> swapped;    ///< findings below -2: presence and absence are very likely exchanged
  std::vector<std::string> undecided;  ///< findings between -2 and 2, or without enough labels: nothing is shown

  /// Nothing is swapped.
  bool passed() const { return swapped.empty(); }
};

/// Compares what a conditional model calls evidence for a finding with known states [B, F] (+1 present, -1 absent, 0
/// unknown) of images x [B, C, H, W]. `findings` name the F columns; items and options as for evidence_maps. Costs what
/// evidence_maps costs. Throws kInvalidArgument for shapes that do not agree. A model that learned nothing passes with
/// every finding undecided.
PolarityTest polarity_test(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                           const at::Tensor& states, const std::vector<std::uint64_t>& items,
                           const std::vector<std::string>& findings, const EvidenceOptions& options = {});

}  // namespace daug
