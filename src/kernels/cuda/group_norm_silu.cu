#include <algorithm>

#include "kernels/cuda/group_norm.cuh"
#include "kernels/cuda/half_size.cuh"

// Three launches: sums of every chunk of a group; a factor and a summand for every channel of a sample, from the sums
// of its group; the result, of the input's size or of another one. Every sum has an order that depends on the shapes
// alone.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kMostPlaneChunks = 64;      ///< of a group of [N, C, P]
constexpr int kMostPositionChunks = 512;  ///< of a sample of [N, P, C]: some for each multiprocessor of a large device

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
  // Followed from pack to pack, as to divide for each would take longer than all else that is done with it.
  std::int64_t channel = first_channel + (begin + threadIdx.x) / packs_per_plane;
  std::int64_t in_plane = (begin + threadIdx.x) % packs_per_plane;
  const std::int64_t further = kThreads / packs_per_plane, beyond = kThreads % packs_per_plane;
  float2 sum = {0, 0};
  for (std::int64_t pack = begin + threadIdx.x; pack < end; pack += kThreads) {
    const Floats<kWidth> x = load<kWidth>(values + pack * kWidth);
    const float shift = problem.offset(sample, channel) - pivot;
    channel += further;
    in_plane += beyond;
    if (in_plane >= packs_per_plane) {
      in_plane -= packs_per_plane;
      ++channel;
    }
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
  for (std::int64_t channel = threadIdx.x; channel < p.channels; channel += kThreads) {
    float2 sum = sums[channel];
    for (int other = 1; other < block.rows; ++other) add_to(sum, sums[other * p.channels + channel]);
    sums[channel] = sum;
  }
  __syncthreads();
  for (std::int64_t group = threadIdx.x; group < p.groups; group += kThreads) {
    float2 sum = {0, 0};
    for (std::int64_t i = 0; i < problem.group_width; ++i) add_to(sum, sums[group * problem.group_width + i]);
    partial[(sample * p.groups + group) * chunks.count + blockIdx.x] = sum;
  }
}

/// What every value of a channel of a group is multiplied with and what is added then, from the sums of the group's
/// chunks, and its moments unless those are null: grid (groups, samples).
template <class T>
__global__ void __launch_bounds__(kThreads)
    make_factors(Problem<T> problem, int chunks, const float2* partial, float2* factors, float2* moments) {
  const auto& p = problem.p;
  const std::int64_t group = blockIdx.x, sample = blockIdx.y, of_group = sample * p.groups + group;
  float2 sum = {0, 0};
  for (int i = static_cast<int>(threadIdx.x); i < chunks; i += kThreads) add_to(sum, partial[of_group * chunks + i]);
  sum = block_sum(sum);
  const auto count = static_cast<float>(problem.group_width * p.positions);
  const float away = sum.x / count, spread = sum.y / count - away * away;
  // Written so that a NaN stays one.
  const float deviation = rsqrtf((spread < 0 ? 0.0F : spread) + static_cast<float>(p.eps));
  if (moments && threadIdx.x == 0) moments[of_group] = {away, deviation};
  const float pivot = problem.pivot(sample, group);
  for (std::int64_t i = threadIdx.x; i < problem.group_width; i += kThreads) {
    const std::int64_t channel = group * problem.group_width + i;
    float factor = deviation * (p.weight ? problem.number(p.weight, channel) : 1.0F);
    float added =
        (problem.offset(sample, channel) - pivot - away) * factor + (p.bias ? problem.number(p.bias, channel) : 0.0F);
    if (p.scale) {
      const float scale = 1 + problem.number(p.scale, sample * p.scale_stride + channel);
      factor *= scale;
      added *= scale;
    }
    if (p.shift) added += problem.number(p.shift, sample * p.shift_stride + channel);
    factors[sample * p.channels + channel] = {factor, added};
  }
}

/// SiLU, of NaN and of infinities as with an exact division: NaN, and of +inf that. From -87.3 down to -88.7, where it
/// is between -1.1e-36 and -2.6e-37, the fast one makes it 0.
__device__ inline float silu(float t) { return __fdividef(t, 1 + __expf(-t)); }

/// Values as they are after norm and activation; f: the factor and the summand of each.
template <int kWidth>
__device__ Floats<kWidth> normed(Floats<kWidth> x, const float2* f, bool activated) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float t = fmaf(x[i], f[i].x, f[i].y);
    x[i] = activated ? silu(t) : t;
  }
  return x;
}

/// act(at, f, plane, position) on every pack of [N, C, P]: `at` is where it begins, `position` where in its plane, and
/// `f` are the factors [N, C] of its values. Grid (chunks of a plane, samples and channels).
template <int kWidth, class Act>
__device__ void for_each_pack_of_planes(const GroupNormSiluOf<void>& p, const float2* factors, const Act& act) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads, packs = p.positions / kWidth;
  for (std::int64_t plane = blockIdx.y; plane < p.batch * p.channels; plane += gridDim.y) {
    float2 f[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) f[i] = factors[plane];
    for (std::int64_t pack = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; pack < packs;
         pack += step) {
      const std::int64_t position = pack * kWidth;
      act(plane * p.positions + position, f, plane, position);
    }
  }
}

/// [N, C, P]: grid (chunks of a plane, samples and channels).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) apply_planes(Problem<T> problem, const float2* factors) {
  const auto& p = problem.p;
  for_each_pack_of_planes<kWidth>(p, factors, [&](std::int64_t at, const float2* f, std::int64_t, std::int64_t) {
    store<kWidth>(problem.output() + at, normed(load<kWidth>(problem.input() + at), f, p.silu));
  });
}

/// [N, P, C]: grid (chunks of positions, samples).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    apply_channels(Problem<T> problem, Chunks chunks, RowBlock block, const float2* factors) {
  const auto& p = problem.p;
  for_each_pack_of_channels<kWidth>(p, chunks, block, factors, [&](std::int64_t at, const float2* f, std::int64_t) {
    store<kWidth>(problem.output() + at, normed(load<kWidth>(problem.input() + at), f, p.silu));
  });
}

/// Input and results of a norm that changes its size: one of them is small, the other large.
struct Sizes {
  std::int64_t small_width, large_width;          ///< pixels of a row
  std::int64_t small_positions, large_positions;  ///< pixels of a plane

  /// Where a pack of the large image begins whose like in the small one begins at `at`, pixel `pixel` of `plane`, when
  /// a pixel has so many elements.
  __device__ std::int64_t large_at(std::int64_t at, std::int64_t plane, std::int64_t pixel,
                                   std::int64_t elements) const {
    const std::int64_t first = first_of_four(pixel, small_width, large_width);
    return at + (plane * (large_positions - small_positions) + first - pixel) * elements;
  }
};

/// What becomes of a pack of the small image, which begins at `small`, and of the four of the large one from `large`
/// on; f: of its values.
template <bool kHalved, bool kLast, int kWidth, class T>
__device__ void resize(const Problem<T>& problem, T* resized_input, const Sizes& sizes, std::int64_t small,
                       std::int64_t large, const float2* f) {
  using Four = FourPacks<kWidth, kLast>;
  const auto& p = problem.p;
  const Four four(sizes.large_width, p.channels);
  if constexpr (kHalved) {
    Floats<kWidth> x[4], y[4];
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      x[part] = four.load_part(problem.input() + large, part);
      y[part] = normed(x[part], f, p.silu);
    }
    store<kWidth>(problem.output() + small, Four::mean(y));
    store<kWidth>(resized_input + small, Four::mean(x));
  } else {
    const Floats<kWidth> x = load<kWidth>(problem.input() + small);
    four.store_doubled(problem.output() + large, normed(x, f, p.silu));
    four.store_doubled(resized_input + large, x);
  }
}

/// [N, C, P]: grid (chunks of a small plane, samples and channels).
template <bool kHalved, int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    resize_planes(Problem<T> problem, T* resized_input, Sizes sizes, const float2* factors) {
  GroupNormSiluOf<void> small = problem.p;
  small.positions = sizes.small_positions;
  const auto act = [&](std::int64_t at, const float2* f, std::int64_t plane, std::int64_t pixel) {
    resize<kHalved, false, kWidth>(problem, resized_input, sizes, at, sizes.large_at(at, plane, pixel, 1), f);
  };
  for_each_pack_of_planes<kWidth>(small, factors, act);
}

/// [N, P, C]: grid (chunks of small positions, samples).
template <bool kHalved, int kWidth, class T>
__global__ void __launch_bounds__(kThreads) resize_channels(Problem<T> problem, T* resized_input, Sizes sizes,
                                                            Chunks chunks, RowBlock block, const float2* factors) {
  GroupNormSiluOf<void> small = problem.p;
  small.positions = sizes.small_positions;
  const auto act = [&](std::int64_t at, const float2* f, std::int64_t pixel) {
    const std::int64_t large = sizes.large_at(at, blockIdx.y, pixel, small.channels);
    resize<kHalved, true, kWidth>(problem, resized_input, sizes, at, large, f);
  };
  for_each_pack_of_channels<kWidth>(small, chunks, block, factors, act);
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
    plan.sums = chunks(p.positions, kLoads * plan.block.rows, kMostPositionChunks);
    plan.results = chunks(p.positions, kLoads * plan.block.rows, 1 << 16);
  } else {
    plan.sums = chunks(p.channels / p.groups * (p.positions / plan.width), kLoads * kThreads, kMostPlaneChunks);
  }
  return plan;
}

/// The factors [N, C], which lie in the workspace.
template <int kWidth, class T>
const float2* launch_factors(const Problem<T>& problem, const Plan& plan, float* workspace, float* moments,
                             Launches& launches) {
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
  make_factors<T><<<dim3(groups, batch), kThreads, 0, launches.next("make_factors")>>>(
      problem, plan.sums.count, partial, factors, reinterpret_cast<float2*>(moments));
  return factors;
}

/// Blocks for planes of so many packs.
dim3 grid_of_planes(const GroupNormSiluOf<void>& p, std::int64_t packs) {
  const auto along = static_cast<unsigned>(std::min<std::int64_t>((packs + kThreads - 1) / kThreads, 1 << 16));
  return {along, static_cast<unsigned>(std::min(p.batch * p.channels, kMostInGrid))};
}

template <int kWidth, class T>
void launch_results(const Problem<T>& problem, const Plan& plan, const float2* factors, Launches& launches) {
  const auto& p = problem.p;
  if (p.channels_last) {
    const dim3 grid(static_cast<unsigned>(plan.results.count), static_cast<unsigned>(p.batch));
    apply_channels<T, kWidth>
        <<<grid, kThreads, 0, launches.next("apply_channels")>>>(problem, plan.results, plan.block, factors);
  } else {
    const dim3 grid = grid_of_planes(p, p.positions / kWidth);
    apply_planes<T, kWidth><<<grid, kThreads, 0, launches.next("apply_planes")>>>(problem, factors);
  }
}

Sizes sizes_of(const ResizedGroupNormSilu& r) {
  const std::int64_t width = r.width, height = r.norm.positions / width, positions = r.norm.positions;
  return r.change == SizeChange::kHalved ? Sizes{width / 2, width, (height / 2) * (width / 2), positions}
                                         : Sizes{width, 2 * width, positions, 4 * positions};
}

template <bool kHalved, int kWidth, class T>
void launch_resized(const Problem<T>& problem, void* resized_input, const Sizes& sizes, const float2* factors,
                    Launches& launches) {
  constexpr int kPacks = 4;  ///< of a thread in a chunk, at least
  const auto& p = problem.p;
  auto* beside = static_cast<T*>(resized_input);
  if (p.channels_last) {
    const RowBlock block = row_block(p.channels, kWidth);
    const Chunks results = chunks(sizes.small_positions, kPacks * block.rows, 1 << 16);
    const dim3 grid(static_cast<unsigned>(results.count), static_cast<unsigned>(p.batch));
    resize_channels<kHalved, kWidth, T>
        <<<grid, kThreads, 0, launches.next("resize_channels")>>>(problem, beside, sizes, results, block, factors);
  } else {
    const dim3 grid = grid_of_planes(p, sizes.small_positions / kWidth);
    resize_planes<kHalved, kWidth, T>
        <<<grid, kThreads, 0, launches.next("resize_planes")>>>(problem, beside, sizes, factors);
  }
}

/// Why a norm of some values is not launched; null: it may be.
const char* refusal(const GroupNormSiluOf<void>& p, const MixedElements& elements) {
  if (!fits_group_norm(p.batch, p.channels, p.groups, p.channels_last))
    return "more samples, groups or channels than a launch takes";
  return fits_elements(elements) ? nullptr : kOtherElements;
}

/// function(problem, width) of its type, with loads of whole 16 bytes or of single elements.
template <class Function>
void with_problem(const GroupNormSiluOf<void>& p, const MixedElements& elements, int width, const Function& function) {
  with_element(elements.values, width, [&](auto* type, auto of_width) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = decltype(of_width)::value;
    if constexpr (kWidth == 1 || kWidth * sizeof(T) == 16) function(typed<T>(p, elements), of_width);
  });
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
  if (const char* refused = refusal(p, elements)) return refused;
  Launches launches(where);
  if (launches.error()) return launches.error();
  const Plan how = plan(p, elements.values);
  with_problem(p, elements, how.width, [&](const auto& problem, auto of_width) {
    constexpr int kWidth = decltype(of_width)::value;
    launch_results<kWidth>(problem, how, launch_factors<kWidth>(problem, how, workspace, moments, launches), launches);
  });
  return launches.error();
}

LaunchError group_norm_silu_resized_device(const ResizedGroupNormSilu& r, const MixedElements& elements,
                                           float* workspace, const DeviceStream& where) {
  using namespace cuda;
  const GroupNormSiluOf<void>& p = r.norm;
  const Sizes sizes = sizes_of(r);
  if (p.batch == 0 || p.channels == 0 || sizes.small_positions == 0) return nullptr;
  if (const char* refused = refusal(p, elements)) return refused;
  Launches launches(where);
  if (launches.error()) return launches.error();
  const Plan how = plan(p, elements.values);
  const float2* factors = nullptr;
  with_problem(p, elements, how.width, [&](const auto& problem, auto of_width) {
    factors = launch_factors<decltype(of_width)::value>(problem, how, workspace, nullptr, launches);
  });
  // A pack of a plane lies in one row of pixels, in both sizes.
  const std::int64_t row = p.channels_last ? p.channels : sizes.small_width;
  const std::int64_t large_row = p.channels_last ? p.channels : sizes.large_width;
  const int bytes = bytes_of(elements.values), whole = 16 / bytes;
  const int width = vector_width(row, bytes, {p.input, p.output, r.resized_input}, {large_row});
  with_problem(p, elements, width == whole ? whole : 1, [&](const auto& problem, auto of_width) {
    constexpr int kWidth = decltype(of_width)::value;
    if (r.change == SizeChange::kHalved)
      launch_resized<true, kWidth>(problem, r.resized_input, sizes, factors, launches);
    else
      launch_resized<false, kWidth>(problem, r.resized_input, sizes, factors, launches);
  });
  return launches.error();
}

bool device_kernels_compiled() { return true; }

}  // namespace daug::kernels
