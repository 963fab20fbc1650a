#pragma once
// What the group norm and its gradient share.

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

namespace daug::kernels::cuda {

/// GroupNormSilu of values of type T, whose other numbers are few (number_at).
template <class T>
struct Problem {
  GroupNormSiluOf<void> p;
  std::int64_t group_width;  ///< channels of a group
  bool wide;

  __host__ __device__ const T* input() const { return static_cast<const T*>(p.input); }
  __host__ __device__ T* output() const { return static_cast<T*>(p.output); }
  /// One of weight, bias, offset, scale and shift.
  __device__ float number(const void* numbers, std::int64_t at) const { return number_at<T>(numbers, at, wide); }
  /// Writes one of their gradients.
  __device__ void put(void* numbers, std::int64_t at, float value) const {
    if (wide)
      static_cast<float*>(numbers)[at] = value;
    else
      static_cast<T*>(numbers)[at] = from_float<T>(value);
  }
  __device__ float offset(std::int64_t sample, std::int64_t channel) const {
    return p.offset ? number(p.offset, sample * p.offset_stride + channel) : 0.0F;
  }
  /// The value that the sums of a group are taken about: its first.
  __device__ float pivot(std::int64_t sample, std::int64_t group) const {
    const std::int64_t channel = group * group_width;
    const std::int64_t at =
        p.channels_last ? sample * p.positions * p.channels + channel : (sample * p.channels + channel) * p.positions;
    return to_float(input()[at]) + offset(sample, channel);
  }
};

__device__ inline void add_to(float2& sum, const float2& part) {
  sum.x += part.x;
  sum.y += part.y;
}

/// Sums over a block, in an order that is always the same. Once a kernel, as the memory is used by all calls.
__device__ inline float2 block_sum(float2 value) {
  __shared__ float2 sums[kThreads];
  sums[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) add_to(sums[threadIdx.x], sums[threadIdx.x + half]);
    __syncthreads();
  }
  return sums[0];
}

/// act(at, c, position) on every pack of a chunk of positions of [N, P, C]: `at` is where it begins, and `c` are the
/// coefficients [N, C] of its channels. Grid (chunks of positions, samples).
template <int kWidth, class Coefficient, class Act>
__device__ void for_each_pack_of_channels(const GroupNormSiluOf<void>& p, const Chunks& chunks, const RowBlock& block,
                                          const Coefficient* coefficients, const Act& act) {
  const std::int64_t sample = blockIdx.y, columns = p.channels / kWidth;
  const int row = threadIdx.x / block.lanes, lane = threadIdx.x % block.lanes;
  const std::int64_t begin = blockIdx.x * chunks.size;
  const std::int64_t end = begin + chunks.size < p.positions ? begin + chunks.size : p.positions;
  if (row >= block.rows) return;
  for (std::int64_t column = lane; column < columns; column += block.lanes) {
    const std::int64_t first = column * kWidth;
    Coefficient c[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) c[i] = coefficients[sample * p.channels + first + i];
    for (std::int64_t position = begin + row; position < end; position += block.rows)
      act((sample * p.positions + position) * p.channels + first, c, position);
  }
}

template <class T>
Problem<T> typed(const GroupNormSiluOf<void>& p, const MixedElements& elements) {
  return {p, p.channels / p.groups, elements.parameters == Element::kFloat32};
}

}  // namespace daug::kernels::cuda
