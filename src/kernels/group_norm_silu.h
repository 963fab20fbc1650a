#pragma once
// Group normalisation with what a residual block does before and after it, in one pass over the statistics and one
// over the result.

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

/// Sums of squares are taken about a value near the mean and added up in float64, so that a mean far above the
/// deviation costs no accuracy. The result does not depend on `parallel`; between instruction sets it differs by
/// rounding.
void group_norm_silu(const GroupNormSilu& problem, const Parallel& parallel);

}  // namespace daug::kernels
