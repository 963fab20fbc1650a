#pragma once
// Images and others of half their height and width, of which each pixel stands for 2 x 2.

#include "kernels/cuda/elements.cuh"

namespace daug::kernels::cuda {

/// The first of the four pixels of a large image that `pixel` of the small one stands for. Large widths are twice the
/// small ones, or one more. Images of even heights may lie one below the other as one.
__device__ inline std::int64_t first_of_four(std::int64_t pixel, std::int64_t small_width, std::int64_t large_width) {
  return 2 * (pixel / small_width * large_width + pixel % small_width);
}

/// The four packs of a large image that a pack of the small one stands for: those of four pixels where channels lie
/// last (kLast), else left and right halves of pieces of two rows.
template <int kWidth, bool kLast>
struct FourPacks {
  std::int64_t beside, below;  ///< elements from the first pack to its neighbours

  __device__ FourPacks(std::int64_t large_width, std::int64_t channels)
      : beside(kLast ? channels : kWidth), below(large_width * (kLast ? channels : 1)) {}

  /// Writes each value of the small pack to its four pixels; `to` is where the first pack begins.
  template <class T>
  __device__ void store_doubled(T* to, const Floats<kWidth>& small) const {
#pragma unroll
    for (int right = 0; right < 2; ++right) {
      Floats<kWidth> part = small;
      if constexpr (!kLast) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) part[i] = small[(right * kWidth + i) / 2];
      }
      store<kWidth>(to + right * beside, part);
      store<kWidth>(to + below + right * beside, part);
    }
  }

  /// One of the four: 0 and 1 lie above 2 and 3.
  template <class T>
  __device__ Floats<kWidth> load_part(const T* from, int part) const {
    return load<kWidth>(from + part / 2 * below + part % 2 * beside);
  }

  /// The small pack of which each value is the mean of its four, added up row by row as LibTorch does.
  __device__ static Floats<kWidth> mean(const Floats<kWidth> (&parts)[4]) {
    Floats<kWidth> result;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const auto value = [&](int lower, int right) {
        const int place = 2 * i + right;  // in the row's piece
        return kLast ? parts[2 * lower + right][i] : parts[2 * lower + place / kWidth][place % kWidth];
      };
      result[i] = (value(0, 0) + value(0, 1) + value(1, 0) + value(1, 1)) / 4;
    }
    return result;
  }
};

}  // namespace daug::kernels::cuda
