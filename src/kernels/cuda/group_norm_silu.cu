#include <algorithm>

#include "kernels/cuda/group_norm.cuh"

// Three launches: sums of every chunk of a group; a factor and a summand for every channel of a sample, from the sums
// of its group; the result. Every sum has an order that depends on the shapes alone.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kMostChunks = 64;

/// Sums of one chunk of a group of [N, C, P]: grid (chunks, groups, samples).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) sum_planes(Problem<T> problem, Chunks chunks, float2* partial) {
  const auto& p = problem.p;
  const std::int64_t group = blockIdx.y, sample = blockIdx.z, first_channel = group * problem.group_width;
  const float pivot = problem.pivot(sample, group);
  const T* values = problem.input() + (sample * p.channels + first_channel) * p.positions;
  // The chunk counts packs; a pack lies in one channel.
  const std::int64_t packs_per_plane = p.positions / kWidth, packs = problem.group_width * packs_per_plane;
  const std::int64_t begin = blockIdx.x * chunks.size;
  const std::int64_t end = begin + chunks.size < packs ? begin + chunks.size : packs;
  float2 sum = {0, 0};
  for (std::int64_t pack = begin + threadIdx.x; pack < end; pack += kThreads) {
    const Floats<kWidth> x = load<kWidth>(values + pack * kWidth);
    const float shift = problem.offset(sample, first_channel + pack / packs_per_plane) - pivot;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float away = x[i] + shift;
      sum.x += away;
      sum.y = fmaf(away, away, sum.y);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[((sample * p.groups) + group) * chunks.count + blockIdx.x] = sum;
}

/// Sums of one chunk of positions of all groups of [N, P, C]: grid (chunks, samples). Shared memory: two floats a
/// channel and row of the block.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    sum_channels(Problem<T> problem, Chunks chunks, RowBlock block, float2* partial) {
  extern __shared__ float2 sums[];  // [block.rows, channels]
  const auto& p = problem.p;
  const std::int64_t sample = blockIdx.y, columns = p.channels / kWidth;
  const int row = threadIdx.x / block.lanes, lane = threadIdx.x % block.lanes;
  const std::int64_t begin = blockIdx.x * chunks.size;
  const std::int64_t end = begin + chunks.size < p.positions ? begin + chunks.size : p.positions;
  if (row < block.rows)
    for (std::int64_t column = lane; column < columns; column += block.lanes) {
      const std::int64_t channel = column * kWidth;
      Floats<kWidth> shift;
      float2 sum[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        shift[i] = problem.offset(sample, channel + i) - problem.pivot(sample, (channel + i) / problem.group_width);
        sum[i] = {0, 0};
      }
      const T* values = problem.input() + sample * p.positions * p.channels + channel;
      for (std::int64_t position = begin + row; position < end; position += block.rows) {
        const Floats<kWidth> x = load<kWidth>(values + position * p.channels);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const float away = x[i] + shift[i];
          sum[i].x += away;
          sum[i].y = fmaf(away, away, sum[i].y);
        }
      }
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sums[row * p.channels + channel + i] = sum[i];
    }
  __syncthreads();
  for (std::int64_t group = threadIdx.x; group < p.groups; group += kThreads) {
    float2 sum = {0, 0};
    for (int of_row = 0; of_row < block.rows; ++of_row)
      for (std::int64_t i = 0; i < problem.group_width; ++i) {
        const float2 part = sums[of_row * p.channels + group * problem.group_width + i];
        sum.x += part.x;
        sum.y += part.y;
      }
    partial[(sample * p.groups + group) * chunks.count + blockIdx.x] = sum;
  }
}

/// What every value of a channel is multiplied with and what is added then, and the moments of groups unless that is
/// null: grid covers [N, C].
template <class T>
__global__ void __launch_bounds__(kThreads)
    make_factors(Problem<T> problem, int chunks, const float2* partial, float2* factors, float2* moments) {
  const auto& p = problem.p;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= p.batch * p.channels) return;
  const std::int64_t sample = at / p.channels, channel = at % p.channels, group = channel / problem.group_width;
  float2 sum = {0, 0};
  const float2* parts = partial + (sample * p.groups + group) * chunks;
  for (int i = 0; i < chunks; ++i) {
    sum.x += parts[i].x;
    sum.y += parts[i].y;
  }
  const auto count = static_cast<float>(problem.group_width * p.positions);
  const float away = sum.x / count, spread = sum.y / count - away * away;
  // Written so that a NaN stays one.
  const float deviation = rsqrtf((spread < 0 ? 0.0F : spread) + static_cast<float>(p.eps));
  if (moments && channel % problem.group_width == 0) moments[sample * p.groups + group] = {away, deviation};
  float factor = deviation * (p.weight ? problem.number(p.weight, channel) : 1.0F);
  float added = (problem.offset(sample, channel) - problem.pivot(sample, group) - away) * factor +
                (p.bias ? problem.number(p.bias, channel) : 0.0F);
  if (p.scale) {
    const float scale = 1 + problem.number(p.scale, sample * p.scale_stride + channel);
    factor *= scale;
    added *= scale;
  }
  if (p.shift) added += problem.number(p.shift, sample * p.shift_stride + channel);
  factors[at] = {factor, added};
}

__device__ inline float activated(float x, bool silu) { return silu ? x / (1 + __expf(-x)) : x; }

/// [N, C, P]: grid (chunks of a plane, samples and channels).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) apply_planes(Problem<T> problem, const float2* factors) {
  const auto& p = problem.p;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads, packs = p.positions / kWidth;
  for (std::int64_t plane = blockIdx.y; plane < p.batch * p.channels; plane += gridDim.y) {
    const float2 f = factors[plane];
    for (std::int64_t pack = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; pack < packs;
         pack += step) {
      const std::int64_t at = plane * p.positions + pack * kWidth;
      Floats<kWidth> x = load<kWidth>(problem.input() + at);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) x[i] = activated(fmaf(x[i], f.x, f.y), p.silu);
      store<kWidth>(problem.output() + at, x);
    }
  }
}

/// [N, P, C]: grid (chunks of positions, samples).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    apply_channels(Problem<T> problem, Chunks chunks, RowBlock block, const float2* factors) {
  const auto& p = problem.p;
  for_each_pack_of_channels<kWidth>(p, chunks, block, factors, [&](std::int64_t at, const float2* f) {
    Floats<kWidth> x = load<kWidth>(problem.input() + at);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i] = activated(fmaf(x[i], f[i].x, f[i].y), p.silu);
    store<kWidth>(problem.output() + at, x);
  });
}

/// How a problem is cut up.
struct Plan {
  int width = 1;
  Chunks sums;     ///< of packs of a group, or of positions
  Chunks results;  ///< of positions, channels last
  RowBlock block;
};

Plan plan(const GroupNormSiluOf<void>& p, Element element) {
  constexpr int kLoads = 8;  ///< of a thread in a chunk, at least
  Plan plan;
  const std::int64_t row = p.channels_last ? p.channels : p.positions;
  const int whole = 16 / bytes_of(element);
  plan.width = vector_width(row, bytes_of(element), {p.input, p.output}) == whole ? whole : 1;
  if (p.channels_last) {
    plan.block = row_block(p.channels, plan.width);
    plan.sums = chunks(p.positions, kLoads * plan.block.rows, kMostChunks);
    plan.results = chunks(p.positions, kLoads * plan.block.rows, 1 << 16);
  } else {
    plan.sums = chunks(p.channels / p.groups * (p.positions / plan.width), kLoads * kThreads, kMostChunks);
  }
  return plan;
}

template <class T, int kWidth>
void launch(const Problem<T>& problem, const Plan& plan, float* workspace, float* moments, Launches& launches) {
  const auto& p = problem.p;
  auto* partial = reinterpret_cast<float2*>(workspace);
  float2* factors = partial + p.batch * p.groups * plan.sums.count;
  const auto batch = static_cast<unsigned>(p.batch), groups = static_cast<unsigned>(p.groups);
  const auto sum_chunks = static_cast<unsigned>(plan.sums.count);
  if (p.channels_last) {
    const auto shared = static_cast<std::size_t>(plan.block.rows * p.channels) * sizeof(float2);
    sum_channels<T, kWidth><<<dim3(sum_chunks, batch), kThreads, shared, launches.next("sum_channels")>>>(
        problem, plan.sums, plan.block, partial);
  } else {
    sum_planes<T, kWidth>
        <<<dim3(sum_chunks, groups, batch), kThreads, 0, launches.next("sum_planes")>>>(problem, plan.sums, partial);
  }
  const std::int64_t rows = p.batch * p.channels;
  make_factors<T>
      <<<static_cast<unsigned>((rows + kThreads - 1) / kThreads), kThreads, 0, launches.next("make_factors")>>>(
          problem, plan.sums.count, partial, factors, reinterpret_cast<float2*>(moments));
  if (p.channels_last) {
    const dim3 grid(static_cast<unsigned>(plan.results.count), batch);
    apply_channels<T, kWidth>
        <<<grid, kThreads, 0, launches.next("apply_channels")>>>(problem, plan.results, plan.block, factors);
  } else {
    const std::int64_t packs = p.positions / kWidth;
    const auto along = static_cast<unsigned>(std::min<std::int64_t>((packs + kThreads - 1) / kThreads, 1 << 16));
    const dim3 grid(along, static_cast<unsigned>(std::min(rows, kMostInGrid)));
    apply_planes<T, kWidth><<<grid, kThreads, 0, launches.next("apply_planes")>>>(problem, factors);
  }
}

}  // namespace
}  // namespace cuda

std::int64_t group_norm_silu_workspace(const GroupNormSiluOf<void>& p, const MixedElements& elements) {
  return 2 * p.batch * (p.groups * cuda::plan(p, elements.values).sums.count + p.channels);
}

LaunchError group_norm_silu_device(const GroupNormSiluOf<void>& p, const MixedElements& elements, float* workspace,
                                   const DeviceStream& where, float* moments) {
  using namespace cuda;
  if (p.batch == 0 || p.channels == 0 || p.positions == 0) return nullptr;
  if (!fits_group_norm(p.batch, p.channels, p.groups, p.channels_last))
    return "more samples, groups or channels than a launch takes";
  if (!fits_elements(elements)) return kOtherElements;
  Launches launches(where);
  if (launches.error()) return launches.error();
  const Plan how = plan(p, elements.values);
  with_element(elements.values, how.width, [&](auto* type, auto of_width) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = decltype(of_width)::value;
    if constexpr (kWidth == 1 || kWidth * sizeof(T) == 16)
      launch<T, kWidth>(typed<T>(p, elements), how, workspace, moments, launches);
  });
  return launches.error();
}

bool device_kernels_compiled() { return true; }

}  // namespace daug::kernels
