#include <algorithm>

#include "kernels/cuda/elements.cuh"
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
  plan.width = vector_width(length, bytes_of(element), {p.input, p.skip, p.output}) == whole ? whole : 1;
  plan.rows = p.batch * (p.channels_last ? p.positions : p.channels);
  plan.columns = length / plan.width;
  plan.block = row_block(length, plan.width);
  plan.chunks = chunks(plan.rows, kLoads * plan.block.rows, static_cast<int>(kMostInGrid));
  plan.along = static_cast<unsigned>((plan.columns + plan.block.lanes - 1) / plan.block.lanes);
  return plan;
}

/// Grid (blocks along a row, chunks of rows).
template <class T, int kWidth, bool kLast>
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
    store<kWidth>(static_cast<T*>(p.output) + at, sum);
  }
}

template <class T, int kWidth>
void launch(const ResidualAdd& p, bool wide, const Plan& plan, Launches& launches) {
  const dim3 grid(plan.along, static_cast<unsigned>(plan.chunks.count));
  if (p.channels_last)
    add<T, kWidth, true><<<grid, kThreads, 0, launches.next("add")>>>(p, wide, plan);
  else
    add<T, kWidth, false><<<grid, kThreads, 0, launches.next("add")>>>(p, wide, plan);
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
    if constexpr (kWidth == 1 || kWidth * sizeof(T) == 16) launch<T, kWidth>(p, wide, how, launches);
  });
  return launches.error();
}

}  // namespace daug::kernels
