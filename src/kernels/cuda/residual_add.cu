#include <algorithm>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/half_size.cuh"
#include "kernels/cuda/launch_plan.h"

namespace daug::kernels {
namespace cuda {
namespace {

/// How a problem is cut up. Its rows are planes or, where channels lie last, the channels of a position.
struct Plan {
  int width = 1;
  std::int64_t rows = 0;
  std::int64_t columns = 0;  ///< packs of a row
  RowBlock block;
  Chunks chunks;       ///< of rows
  unsigned along = 1;  ///< blocks that share a row
};

Plan plan(const ResidualAdd& p, Element element) {
  constexpr int kLoads = 4;  ///< of a thread in a chunk, at least
  Plan plan;
  const std::int64_t length = p.channels_last ? p.channels : p.positions;
  // Two widths are enough: whole 16 bytes, or single elements for odd sizes.
  const int whole = 16 / bytes_of(element);
  // A pack of a plane that is doubled lies in one row of pixels.
  const std::int64_t row = p.width > 0 && !p.channels_last ? p.width : length;
  plan.width = vector_width(row, bytes_of(element), {p.input, p.skip, p.output}) == whole ? whole : 1;
  plan.rows = p.batch * (p.channels_last ? p.positions : p.channels);
  plan.columns = length / plan.width;
  plan.block = row_block(length, plan.width);
  plan.chunks = chunks(plan.rows, kLoads * plan.block.rows, static_cast<int>(kMostInGrid));
  plan.along = static_cast<unsigned>((plan.columns + plan.block.lanes - 1) / plan.block.lanes);
  return plan;
}

/// Grid (blocks along a row, chunks of rows).
template <class T, int kWidth, bool kLast, bool kDoubled>
__global__ void __launch_bounds__(kThreads) add(ResidualAdd p, bool wide, Plan plan) {
  const int of_row = threadIdx.x / plan.block.lanes, lane = threadIdx.x % plan.block.lanes;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * plan.block.lanes + lane;
  if (of_row >= plan.block.rows || column >= plan.columns) return;
  const std::int64_t begin = blockIdx.y * plan.chunks.size;
  const std::int64_t end = begin + plan.chunks.size < plan.rows ? begin + plan.chunks.size : plan.rows;
  Floats<kWidth> bias;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) bias[i] = kLast && p.bias ? number_at<T>(p.bias, column * kWidth + i, wide) : 0.0F;
  for (std::int64_t row = begin + of_row; row < end; row += plan.block.rows) {
    if (!kLast && p.bias) {
      const float of_plane = number_at<T>(p.bias, row % p.channels, wide);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) bias[i] = of_plane;
    }
    const std::int64_t at = (row * plan.columns + column) * kWidth;
    Floats<kWidth> sum = load<kWidth>(static_cast<const T*>(p.input) + at);
    const Floats<kWidth> skip = load<kWidth>(static_cast<const T*>(p.skip) + at);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] = sum[i] + bias[i] + skip[i];
    T* output = static_cast<T*>(p.output);
    if constexpr (kDoubled) {
      const std::int64_t large_width = 2 * p.width, first = first_of_four(kLast ? row : at, p.width, large_width);
      output += kLast ? first * p.channels + column * kWidth : first;
      FourPacks<kWidth, kLast>(large_width, p.channels).store_doubled(output, sum);
    } else {
      store<kWidth>(output + at, sum);
    }
  }
}

template <class T, int kWidth, bool kDoubled>
void launch(const ResidualAdd& p, bool wide, const Plan& plan, Launches& launches) {
  const dim3 grid(plan.along, static_cast<unsigned>(plan.chunks.count));
  if (p.channels_last)
    add<T, kWidth, true, kDoubled><<<grid, kThreads, 0, launches.next("add")>>>(p, wide, plan);
  else
    add<T, kWidth, false, kDoubled><<<grid, kThreads, 0, launches.next("add")>>>(p, wide, plan);
}

}  // namespace
}  // namespace cuda

LaunchError residual_add_device(const ResidualAdd& p, const MixedElements& elements, const DeviceStream& where) {
  using namespace cuda;
  if (p.batch == 0 || p.channels == 0 || p.positions == 0) return nullptr;
  if (!fits_elements(elements)) return kOtherElements;
  Launches launches(where);
  if (launches.error()) return launches.error();
  const Plan how = plan(p, elements.values);
  const bool wide = elements.parameters == Element::kFloat32;
  with_element(elements.values, how.width, [&](auto* type, auto of_width) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = decltype(of_width)::value;
    if constexpr (kWidth == 1 || kWidth * sizeof(T) == 16) {
      if (p.width > 0)
        launch<T, kWidth, true>(p, wide, how, launches);
      else
        launch<T, kWidth, false>(p, wide, how, launches);
    }
  });
  return launches.error();
}

}  // namespace daug::kernels
