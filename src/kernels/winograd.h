#pragma once
// 3 x 3 convolutions in fewer products than their definition has.
//
// By Winograd's F(2 x 2, 3 x 3) every 2 x 2 outputs come from a patch of 4 x 4 inputs with 16 products a pair of
// channels in place of 36 (Lavin & Gray, arXiv 1509.09308, section 4.1). For a filter g, a patch d and G, B, A as
// there,
//     outputs = A^T [(G g G^T) .* (B^T d B)] A,
// and over all channels the products .* are 16 matrix products, of [patches, in] and [in, out].

#include <cstdint>

#include "kernels/parallel.h"

namespace daug::kernels {

/// Floats of the filters that `winograd_filters` makes; both counts >= 1.
std::int64_t winograd_filter_floats(std::int64_t in, std::int64_t out);

/// G g G^T of filters [out, in, 3, 3] with any strides, negative ones as well: for each of the 16 entries and every 32
/// outputs (the last ones with zeros behind them) [in, 32]. Bit-equal whatever `parallel` is.
void winograd_filters(const float* filters, const std::int64_t strides[4], std::int64_t in, std::int64_t out,
                      float* transformed, const Parallel& parallel);

/// A convolution with padding 1 and stride 1. Images lie channels last without gaps.
struct WinogradConv {
  std::int64_t batch = 0, height = 0, width = 0;  ///< may be 0
  std::int64_t in = 0, out = 0;                   ///< >= 1
  const float* input = nullptr;                   ///< [batch, height, width, in]
  const float* filters = nullptr;                 ///< of `winograd_filters`
  const float* bias = nullptr;                    ///< [out], or null
  float* output = nullptr;                        ///< [batch, height, width, out], apart from the input
};

/// Errors are about twice those of the definition in float32. Bit-equal whatever `parallel` is and whatever other
/// images the batch has. Every thread keeps its workspace for the next call: half a megabyte, more from 700 channels
/// (in and out) on; the calling one up to 4 MB where the transformed filters take more than 1 MB.
void winograd_conv(const WinogradConv& conv, const Parallel& parallel);

/// What such a convolution's filters and bias have to do with a change of its outputs. The gradient to its input is a
/// convolution again, of `output_gradient` with the filters' transposes upside down.
struct WinogradFilterGradient {
  std::int64_t batch = 0, height = 0, width = 0;  ///< may be 0
  std::int64_t in = 0, out = 0;                   ///< >= 1
  const float* input = nullptr;                   ///< [batch, height, width, in]
  const float* output_gradient = nullptr;         ///< [batch, height, width, out]
  float* sums = nullptr;                          ///< winograd_filter_floats(in, out), whatever they hold
  float* gradient = nullptr;                      ///< [out, in, 3, 3] with
  std::int64_t strides[4] = {};                   ///< these strides
  float* bias_gradient = nullptr;                 ///< [out], or null
};

/// The adjoint of `winograd_conv` in its filters: with e the 2 x 2 gradients of a patch's outputs,
///     gradient = G^T [sum over patches of (A e A^T) .* (B^T d B)] G.
/// Adds up in float32, blocks of patches after another. Bit-equal whatever `parallel` is. The calling thread keeps a
/// workspace of up to 4 MB, the one of `winograd_conv`.
void winograd_filter_gradient(const WinogradFilterGradient& conv, const Parallel& parallel);

}  // namespace daug::kernels
