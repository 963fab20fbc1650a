#pragma once
/// @file
/// Occlusion maps of any classifier: the plain baseline that maps of a diffusion model have to beat.

#include <cstdint>
#include <functional>

namespace at {
class Tensor;
}

namespace daug {

/// Settings of occlusion_maps.
struct OcclusionOptions {
  std::int64_t window = 8;       ///< side of the hidden square, pixels, >= 1, at most the image's shorter side
  std::int64_t stride = 4;       ///< between neighbouring squares, pixels, in [1, window]
  std::int64_t max_batch = 256;  ///< most images handed to the classifier at once, >= 1

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Scores [N, K] of images [N, C, H, W].
using ImageScores = std::function<at::Tensor(const at::Tensor& images)>;

/// How much each of K scores falls when a part of the image is hidden (Zeiler and Fergus, arXiv 1311.2901).
///
/// A square slides over the image and is filled with the image's mean, channel by channel; the last row and column of
/// squares end at the border. Each pixel gets the mean fall over the squares that cover it: positive where the score
/// rests on it. x [B, C, H, W] -> [B, K, H, W], in x's dtype and on its device, wherever the scores are. One evaluation
/// an image, and one for every square. Deterministic when `scores` is. Throws kInvalidArgument for options and shapes,
/// kMismatch when `scores` returns another number of rows than it was given.
at::Tensor occlusion_maps(const at::Tensor& x, const ImageScores& scores, const OcclusionOptions& options = {});

}  // namespace daug
