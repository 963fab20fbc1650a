#pragma once
// Group normalisation with what a residual block does before and after it, in one pass over the statistics and one
// over the result, and its gradient.

#include <cstdint>

#include "kernels/parallel.h"

namespace daug::kernels {

/// y = act(norm(x + offset) * (1 + scale) + shift), norm(h) = (h - mean) / sqrt(variance + eps) * weight + bias, mean
/// and (biased) variance over each sample's group of channels / groups neighbouring channels and all positions; act is
/// SiLU, y * sigmoid(y), or nothing. (Wu and He, arXiv 1803.08494; the modulation: guided-diffusion, arXiv 2105.05233.)
///
/// Null pointers stand for 1 (weight) and 0 (the others). A group that holds a value which is not finite becomes NaN.
/// T: the elements' type, or void where it is said apart (device kernels).
template <class T>
struct GroupNormSiluOf {
  std::int64_t batch = 0;      ///< samples N, may be 0
  std::int64_t positions = 0;  ///< pixels P of a sample, may be 0
  std::int64_t channels = 0;   ///< C, a multiple of groups
  std::int64_t groups = 1;     ///< >= 1
  bool channels_last = false;  ///< input and output are [N, P, C] instead of [N, C, P], without gaps
  double eps = 1e-5;           ///< added to the variance, > 0
  bool silu = true;

  const T* input = nullptr;
  T* output = nullptr;             ///< may be the input; otherwise does not overlap it
  const T* weight = nullptr;       ///< [C]
  const T* bias = nullptr;         ///< [C]
  const T* offset = nullptr;       ///< [N, C], added before the norm
  const T* scale = nullptr;        ///< [N, C]
  const T* shift = nullptr;        ///< [N, C]
  std::int64_t offset_stride = 0;  ///< elements between the rows of offset
  std::int64_t scale_stride = 0;   ///< of scale
  std::int64_t shift_stride = 0;   ///< of shift
};
using GroupNormSilu = GroupNormSiluOf<float>;

/// How an image becomes one of half its height and width, rounded down (means of 2 x 2 pixels; of an odd height or
/// width the last row or column is left out), or of twice both (each pixel at 2 x 2).
enum class SizeChange { kHalved, kDoubled };

/// A group norm whose result changes its size: of the activated values in float32, and rounded once. Devices' alone. So
/// does its input, without offset, for the skip connection around it.
struct ResizedGroupNormSilu {
  GroupNormSiluOf<void> norm;  ///< its output is the changed result, which overlaps nothing
  SizeChange change = SizeChange::kHalved;
  std::int64_t width = 1;         ///< pixels >= 1 of a row of the input, of which its positions are whole ones
  void* resized_input = nullptr;  ///< laid as the output, and overlaps nothing
};

/// What a gradient needs of the statistics, [N, G] each; not written where there are no positions. float64, because a
/// mean far above the deviation is rounded in float32 by more than that.
struct GroupMoments {
  double* mean = nullptr;               ///< of x + offset; null: neither is wanted
  double* inverse_deviation = nullptr;  ///< 1 / sqrt(variance + eps)
};

/// Sums of squares are taken about a value near the mean and added up in float64, so that a mean far above the
/// deviation costs no accuracy. The result does not depend on `parallel`; between instruction sets it differs by
/// rounding.
void group_norm_silu(const GroupNormSilu& problem, const Parallel& parallel, const GroupMoments& moments = {});

/// From the gradient dy of a loss with respect to y, those with respect to all that y is made of. With
/// xhat = (x + offset - mean) / deviation, n = xhat weight + bias, t = n (1 + scale) + shift and
/// ds = dy d act(t) / dt (of SiLU s (1 + t (1 - s)), s = sigmoid(t)):
///
///     d shift  = sum_p ds
///     d scale  = sum_p n ds
///     d bias   = sum_np (1 + scale) ds
///     d weight = sum_np (1 + scale) xhat ds
///     dx       = (g ds - mean(g ds) - xhat mean(g ds xhat)) / deviation,  g = weight (1 + scale)
///     d offset = sum_p dx,
///
/// sums over positions p and samples n, means over a group. Arrays are without gaps; null: not wanted.
template <class T>
struct GroupNormGradientsOf {
  const T* output_gradient = nullptr;  ///< dy, laid as the input
  T* input_gradient = nullptr;         ///< dx, laid as the input; wanted, and apart from all others
  T* weight_gradient = nullptr;        ///< [C]
  T* bias_gradient = nullptr;          ///< [C]
  T* offset_gradient = nullptr;        ///< [N, C]
  T* scale_gradient = nullptr;         ///< [N, C]
  T* shift_gradient = nullptr;         ///< [N, C]
};

/// What the gradient on the CPU is computed from, and where it goes.
struct GroupNormSiluGradient : GroupNormGradientsOf<float> {
  GroupNormSilu forward;                      ///< as it was computed; its output is not read
  const double* mean = nullptr;               ///< [N, G], of GroupMoments
  const double* inverse_deviation = nullptr;  ///< [N, G]
};

/// Two passes: the exponentials are computed in the first, which leaves ds in the memory of dx. Sums are kept in
/// float32 for as few rows as those of `group_norm_silu` and added up in float64, weight and bias sample by sample in
/// order. No result depends on `parallel`, and a sample's (all but those of weight and bias) not on the batch around
/// it; between instruction sets they differ by rounding. The dx of a group that holds a value which is not finite are
/// NaN.
void group_norm_silu_gradient(const GroupNormSiluGradient& problem, const Parallel& parallel);

}  // namespace daug::kernels
