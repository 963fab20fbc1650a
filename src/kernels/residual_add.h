#pragma once
// The end of a residual block in one pass: what its last convolutions leave out, and the skip connection.

#include <cstdint>

namespace daug::kernels {

/// output = input + skip + bias of the channel, in float32 and rounded once, of arrays [N, C, P] or channels last, [N,
/// P, C], without gaps; on request as an image of twice the height and width, [N, C, 4 P] or [N, 4 P, C], each sum at 2
/// x 2 pixels. What elements are is said apart.
struct ResidualAdd {
  std::int64_t batch = 0;      ///< samples N, may be 0
  std::int64_t channels = 0;   ///< C, may be 0
  std::int64_t positions = 0;  ///< pixels P of a sample, may be 0
  bool channels_last = false;  ///< arrays are [N, P, C] instead of [N, C, P]
  std::int64_t width = 0;      ///< pixels of a row of input and skip, of which P has whole ones: doubled; 0: as it is

  const void* input = nullptr;
  const void* skip = nullptr;
  const void* bias = nullptr;  ///< [C]; null: 0
  void* output = nullptr;      ///< not doubled it may be the input or skip; otherwise overlaps nothing
};

}  // namespace daug::kernels
