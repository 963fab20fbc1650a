#pragma once
/// @file
/// A check to run on a model and a few labelled images before its maps are believed: healthy and diseased have been
/// swapped in published work by nothing more than the order of two folders.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace daug {

/// Images whose findings are known, at least in part.
struct LabelledBatch {
  at::Tensor x;                      ///< [B, C, H, W] in [-1, 1]
  at::Tensor states;                 ///< [B, F], the model's findings: +1 present, -1 absent, 0 unknown
  std::vector<std::uint64_t> items;  ///< B ids, which fix the noise of each image
};

/// What images with and without each finding say about a model, in the order of its findings.
struct PolarityTest {
  /// Difference of the mean score of images with and without the finding, in standard errors (Welch's t). Not a number
  /// when fewer than two images are known on either side.
  std::vector<double> separation;
  std::vector<std::string> swapped;    ///< findings below -2: presence and absence are very likely exchanged
  std::vector<std::string> undecided;  ///< findings between -2 and 2, or without enough labels: nothing is shown

  /// Nothing is swapped.
  bool passed() const { return swapped.empty(); }
};

/// Result of DiffusionTranslator::self_test; a part that the translator does not have is empty and passes.
struct SelfTest {
  PolarityTest denoiser;    ///< of the conditions; the score is what speaks for presence: see evidence_maps
  PolarityTest classifier;  ///< of the guide's gradients; the score is the log-odds of presence they add up to

  /// Neither has a finding swapped.
  bool passed() const { return denoiser.passed() && classifier.passed(); }
};

}  // namespace daug
