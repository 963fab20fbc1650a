#include <algorithm>

#include "kernels/cuda/group_norm.cuh"

// Four launches: sums of every chunk of a channel; what they make of the channels of each group; the result, from
// input and upstream gradient once more, as to write and read what the first launch had computed would take longer;
// weight and bias from all samples. Every sum has an order that depends on the shapes alone.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kMostPlaneChunks = 128;     ///< of a channel of [N, C, P]
constexpr int kMostPositionChunks = 256;  ///< of a sample of [N, P, C]: some for each multiprocessor of a large device
constexpr int kWarp = 32, kWarps = kThreads / kWarp;

/// What became of a channel of a sample: t = (x - center) gain + added, and xhat = (x - center + above) / deviation.
/// center is the mean less the offset, rounded: so a mean far above the deviation costs no accuracy.
struct Channel {
  float center, above, gain, added;
};

/// What a gradient is computed from.
template <class T>
struct Normed {
  Problem<T> problem;
  const float2* moments;  ///< [N, G]

  __device__ float weight(std::int64_t channel) const {
    return problem.p.weight ? problem.number(problem.p.weight, channel) : 1.0F;
  }
  __device__ float bias(std::int64_t channel) const {
    return problem.p.bias ? problem.number(problem.p.bias, channel) : 0.0F;
  }
  __device__ float factor(std::int64_t sample, std::int64_t channel) const {
    const auto& p = problem.p;
    return p.scale ? 1 + problem.number(p.scale, sample * p.scale_stride + channel) : 1.0F;
  }
  __device__ Channel channel(std::int64_t sample, std::int64_t number) const {
    const auto& p = problem.p;
    const std::int64_t group = number / problem.group_width;
    const float2 moment = moments[sample * p.groups + group];
    const float pivot = problem.pivot(sample, group) - problem.offset(sample, number);
    const float scale = factor(sample, number);
    Channel c;
    c.center = pivot + moment.x;
    // What rounding that sum added to it, itself without rounding (Knuth, The Art of Computer Programming, 4.2.2).
    const float of_moment = c.center - pivot;
    c.above = -((pivot - (c.center - of_moment)) + (moment.x - of_moment));
    c.gain = moment.y * weight(number) * scale;
    c.added = fmaf(c.above, c.gain, bias(number) * scale);
    if (p.shift) c.added += problem.number(p.shift, sample * p.shift_stride + number);
    return c;
  }
};

/// What a gradient is made of at a position: dx = gain ds - (x - center) slope - constant.
struct Coefficients {
  float center, gain, added, slope, constant;
};

/// ds / dy where SiLU is of t. The exponential is held, as infinities would meet zeros, and below 2^126, up to which a
/// fast division divides.
__device__ inline float silu_slope(float t) {
  const float e = __expf(-fminf(fmaxf(t, -87.0F), 87.0F)), s = __fdividef(1, 1 + e);
  // 1 - s as e s: the difference would lose the digits that t multiplies.
  return s * fmaf(t, e * s, 1.0F);
}

/// Sums over positions of a channel of a sample: of ds, ds (x - center) and x - center.
struct ChannelSums {
  float ds, product, x;

  __device__ void add(const ChannelSums& other) {
    ds += other.ds;
    product += other.product;
    x += other.x;
  }
  __device__ void add(const Channel& c, float value, float upstream, bool silu) {
    const float d = value - c.center;
    const float slope = silu ? upstream * silu_slope(fmaf(d, c.gain, c.added)) : upstream;
    ds += slope;
    product = fmaf(slope, d, product);
    x += d;
  }
};

/// Sums over the lanes of a warp, which all of them get.
__device__ inline ChannelSums warp_sum(ChannelSums sum) {
  for (int away = kWarp / 2; away > 0; away /= 2) {
    sum.ds += __shfl_xor_sync(~0U, sum.ds, away);
    sum.product += __shfl_xor_sync(~0U, sum.product, away);
    sum.x += __shfl_xor_sync(~0U, sum.x, away);
  }
  return sum;
}

/// Sums [N, chunks, C] of [N, C, P]: a warp takes a chunk of a channel, in packs.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    sum_gradient_planes(Normed<T> normed, const T* upstream, Chunks chunks, ChannelSums* partial) {
  const auto& p = normed.problem.p;
  const std::int64_t packs = p.positions / kWidth, units = p.batch * p.channels * chunks.count;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; unit < units;
       unit += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const std::int64_t plane = unit / chunks.count, chunk = unit % chunks.count;
    const std::int64_t sample = plane / p.channels, number = plane % p.channels;
    const Channel c = normed.channel(sample, number);
    const std::int64_t begin = chunk * chunks.size;
    const std::int64_t end = begin + chunks.size < packs ? begin + chunks.size : packs;
    ChannelSums sum = {0, 0, 0};
    for (std::int64_t pack = begin + lane; pack < end; pack += kWarp) {
      const std::int64_t at = plane * p.positions + pack * kWidth;
      const Floats<kWidth> x = load<kWidth>(normed.problem.input() + at), dy = load<kWidth>(upstream + at);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum.add(c, x[i], dy[i], p.silu);
    }
    sum = warp_sum(sum);
    if (lane == 0) partial[(sample * chunks.count + chunk) * p.channels + number] = sum;
  }
}

/// Elements of a load of the sums where channels lie last, if others load so many: what is known of eight channels, and
/// their sums, take so many registers that no third block fits on a multiprocessor.
constexpr int summed_width(int width) { return width == 8 ? 4 : width; }

/// Sums [N, chunks, C] of [N, P, C]: grid (chunks of positions, samples).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 3)
    sum_gradient_channels(Normed<T> normed, const T* upstream, Chunks chunks, RowBlock block, ChannelSums* partial) {
  __shared__ ChannelSums of_rows[kThreads * kWidth];  // [block.rows, channels], where a block has several rows
  const auto& p = normed.problem.p;
  const std::int64_t sample = blockIdx.y, columns = p.channels / kWidth;
  const int row = threadIdx.x / block.lanes, lane = threadIdx.x % block.lanes;
  const std::int64_t begin = blockIdx.x * chunks.size;
  const std::int64_t end = begin + chunks.size < p.positions ? begin + chunks.size : p.positions;
  ChannelSums* result = partial + (sample * chunks.count + blockIdx.x) * p.channels;
  ChannelSums* of_row = block.rows == 1 ? result : of_rows + row * p.channels;
  if (row < block.rows)
    for (std::int64_t column = lane; column < columns; column += block.lanes) {
      const std::int64_t first = column * kWidth;
      Channel c[kWidth];
      ChannelSums sum[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        c[i] = normed.channel(sample, first + i);
        sum[i] = {0, 0, 0};
      }
      for (std::int64_t position = begin + row; position < end; position += block.rows) {
        const std::int64_t at = (sample * p.positions + position) * p.channels + first;
        const Floats<kWidth> x = load<kWidth>(normed.problem.input() + at), dy = load<kWidth>(upstream + at);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum[i].add(c[i], x[i], dy[i], p.silu);
      }
#pragma unroll
      for (int i = 0; i < kWidth; ++i) of_row[first + i] = sum[i];
    }
  if (block.rows == 1) return;
  __syncthreads();
  for (std::int64_t number = threadIdx.x; number < p.channels; number += kThreads) {
    ChannelSums sum = of_rows[number];
    for (int other = 1; other < block.rows; ++other) sum.add(of_rows[other * p.channels + number]);
    result[number] = sum;
  }
}

/// From the sums of all chunks of a group, which end up in those of the first one, to all gradients but dx, and to
/// what that is made of; `terms` [N, C] are what the sample adds to weight and bias. Grid (groups, samples).
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_groups(Normed<T> normed, GroupNormGradientsOf<void> gradients, int chunks, ChannelSums* partial,
                  Coefficients* coefficients, float2* terms) {
  const auto& p = normed.problem.p;
  const std::int64_t width = normed.problem.group_width, group = blockIdx.x, sample = blockIdx.y;
  const std::int64_t first = group * width;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const float inverse = normed.moments[sample * p.groups + group].y;
  const auto positions = static_cast<float>(p.positions), count = static_cast<float>(width * p.positions);
  ChannelSums* sums = partial + sample * chunks * p.channels + first;
  // Of xhat ds.
  const auto sum_normed = [inverse](const Channel& c, const ChannelSums& sum) {
    return inverse * fmaf(c.above, sum.ds, sum.product);
  };
  float2 mean = {0, 0};  // of gain ds and gain ds xhat
  for (std::int64_t i = warp; i < width; i += kWarps) {
    ChannelSums sum = {0, 0, 0};
    for (int chunk = lane; chunk < chunks; chunk += kWarp) sum.add(sums[chunk * p.channels + i]);
    sum = warp_sum(sum);
    if (lane != 0) continue;
    sums[i] = sum;
    const Channel c = normed.channel(sample, first + i);
    mean.x += __fmul_rn(c.gain, sum.ds);
    mean.y += __fmul_rn(c.gain, sum_normed(c, sum));
  }
  mean = block_sum(mean);
  mean.x /= count;
  const float slope = inverse * (mean.y / count);
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
    const std::int64_t number = first + i, at = sample * p.channels + number;
    const ChannelSums sum = sums[i];
    const Channel c = normed.channel(sample, number);
    const float of_normed = sum_normed(c, sum), factor = normed.factor(sample, number);
    const float constant = fmaf(c.above, slope, mean.x);
    coefficients[at] = {c.center, c.gain, c.added, slope, constant};
    terms[at] = {factor * of_normed, factor * sum.ds};
    const auto put = [&](void* to, float value) {
      if (to) normed.problem.put(to, at, value);
    };
    put(gradients.shift_gradient, sum.ds);
    put(gradients.scale_gradient, fmaf(normed.weight(number), of_normed, normed.bias(number) * sum.ds));
    put(gradients.offset_gradient, __fmul_rn(c.gain, sum.ds) - fmaf(slope, sum.x, __fmul_rn(positions, constant)));
  }
}

/// dx of a value. The product is rounded as the one in the mean that is taken from it: of a single value nothing is
/// left.
__device__ inline float input_gradient(const Coefficients& c, float x, float dy, bool silu) {
  const float d = x - c.center, ds = silu ? dy * silu_slope(fmaf(d, c.gain, c.added)) : dy;
  return __fmul_rn(c.gain, ds) - fmaf(d, c.slope, c.constant);
}

/// dx of the pack at `at`, with the coefficients of(i) of its i-th value.
template <int kWidth, class T, class Of>
__device__ void differentiate(const Problem<T>& problem, const GroupNormGradientsOf<void>& gradients, std::int64_t at,
                              const Of& of) {
  const Floats<kWidth> x = load<kWidth>(problem.input() + at),
                       dy = load<kWidth>(static_cast<const T*>(gradients.output_gradient) + at);
  Floats<kWidth> dx;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) dx[i] = input_gradient(of(i), x[i], dy[i], problem.p.silu);
  store<kWidth>(static_cast<T*>(gradients.input_gradient) + at, dx);
}

/// [N, C, P]: a warp takes a chunk of a channel, in packs.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    differentiate_planes(Problem<T> problem, GroupNormGradientsOf<void> gradients, Chunks chunks,
                         const Coefficients* coefficients) {
  const auto& p = problem.p;
  const std::int64_t packs = p.positions / kWidth, units = p.batch * p.channels * chunks.count;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; unit < units;
       unit += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const std::int64_t plane = unit / chunks.count, begin = unit % chunks.count * chunks.size;
    const std::int64_t end = begin + chunks.size < packs ? begin + chunks.size : packs;
    const Coefficients c = coefficients[plane];
    for (std::int64_t pack = begin + lane; pack < end; pack += kWarp) {
      differentiate<kWidth>(problem, gradients, plane * p.positions + pack * kWidth,
                            [of = &c](int) -> const Coefficients& { return *of; });
    }
  }
}

/// [N, P, C]: grid (chunks of positions, samples).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    differentiate_channels(Problem<T> problem, GroupNormGradientsOf<void> gradients, Chunks chunks, RowBlock block,
                           const Coefficients* coefficients) {
  const auto& p = problem.p;
  const auto act = [&](std::int64_t at, const Coefficients* c, std::int64_t) {
    differentiate<kWidth>(problem, gradients, at, [c](int i) -> const Coefficients& { return c[i]; });
  };
  for_each_pack_of_channels<kWidth>(p, chunks, block, coefficients, act);
}

/// Gradients of weight and bias, unless they are null: a thread a channel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_samples(Problem<T> problem, GroupNormGradientsOf<void> gradients, const float2* terms) {
  const std::int64_t channels = problem.p.channels;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (channel >= channels) return;
  double weight = 0, bias = 0;
  for (std::int64_t sample = 0; sample < problem.p.batch; ++sample) {
    const float2 term = terms[sample * channels + channel];
    weight += term.x;
    bias += term.y;
  }
  if (gradients.weight_gradient) problem.put(gradients.weight_gradient, channel, static_cast<float>(weight));
  if (gradients.bias_gradient) problem.put(gradients.bias_gradient, channel, static_cast<float>(bias));
}

/// How a problem is cut up: packs of a channel, or positions where channels lie last.
struct Plan {
  int width = 1;
  Chunks sums, results;
  RowBlock sum_block, block;
};

Plan plan(const GroupNormSiluOf<void>& p, const GroupNormGradientsOf<void>& g, Element element) {
  constexpr int kLoads = 8;  ///< of a thread in a chunk, at least
  Plan plan;
  const std::int64_t row = p.channels_last ? p.channels : p.positions;
  const int bytes = bytes_of(element), whole = 16 / bytes;
  plan.width = vector_width(row, bytes, {p.input, g.output_gradient, g.input_gradient}) == whole ? whole : 1;
  if (p.channels_last) {
    plan.sum_block = row_block(p.channels, summed_width(plan.width));
    plan.block = row_block(p.channels, plan.width);
    plan.sums = chunks(p.positions, kLoads * plan.sum_block.rows, kMostPositionChunks);
    plan.results = chunks(p.positions, kLoads * plan.block.rows, 1 << 16);
  } else {
    plan.sums = chunks(p.positions / plan.width, kLoads * kWarp, kMostPlaneChunks);
    plan.results = chunks(p.positions / plan.width, kLoads * kWarp, 1 << 16);
  }
  return plan;
}

/// Blocks whose warps take so many units, some of them more than one.
unsigned blocks_for(std::int64_t units) {
  return static_cast<unsigned>(std::min<std::int64_t>((units + kWarps - 1) / kWarps, 1 << 20));
}

template <class T, int kWidth>
void launch(const Problem<T>& problem, const GroupNormGradientsOf<void>& gradients, const Plan& plan,
            const float* moments, float* workspace, Launches& launches) {
  const auto& p = problem.p;
  const Normed<T> normed{problem, reinterpret_cast<const float2*>(moments)};
  const auto* upstream = static_cast<const T*>(gradients.output_gradient);
  const std::int64_t rows = p.batch * p.channels;
  auto* terms = reinterpret_cast<float2*>(workspace);
  auto* coefficients = reinterpret_cast<Coefficients*>(terms + rows);
  auto* partial = reinterpret_cast<ChannelSums*>(coefficients + rows);
  const auto batch = static_cast<unsigned>(p.batch);
  if (p.channels_last) {
    const dim3 grid(static_cast<unsigned>(plan.sums.count), batch);
    sum_gradient_channels<T, summed_width(kWidth)><<<grid, kThreads, 0, launches.next("sum_gradient_channels")>>>(
        normed, upstream, plan.sums, plan.sum_block, partial);
  } else {
    const unsigned blocks = blocks_for(rows * plan.sums.count);
    sum_gradient_planes<T, kWidth>
        <<<blocks, kThreads, 0, launches.next("sum_gradient_planes")>>>(normed, upstream, plan.sums, partial);
  }
  const dim3 groups(static_cast<unsigned>(p.groups), batch);
  finish_groups<T><<<groups, kThreads, 0, launches.next("finish_groups")>>>(normed, gradients, plan.sums.count, partial,
                                                                            coefficients, terms);
  if (p.channels_last) {
    const dim3 grid(static_cast<unsigned>(plan.results.count), batch);
    differentiate_channels<T, kWidth><<<grid, kThreads, 0, launches.next("differentiate_channels")>>>(
        problem, gradients, plan.results, plan.block, coefficients);
  } else {
    const unsigned blocks = blocks_for(rows * plan.results.count);
    differentiate_planes<T, kWidth><<<blocks, kThreads, 0, launches.next("differentiate_planes")>>>(
        problem, gradients, plan.results, coefficients);
  }
  if (!gradients.weight_gradient && !gradients.bias_gradient) return;
  const auto blocks = static_cast<unsigned>((p.channels + kThreads - 1) / kThreads);
  add_samples<T><<<blocks, kThreads, 0, launches.next("add_samples")>>>(problem, gradients, terms);
}

}  // namespace
}  // namespace cuda

std::int64_t group_norm_silu_gradient_workspace(const GroupNormSiluOf<void>& forward,
                                                const GroupNormGradientsOf<void>& gradients,
                                                const MixedElements& elements) {
  using namespace cuda;
  const std::int64_t bytes = sizeof(float2) + sizeof(Coefficients) +
                             plan(forward, gradients, elements.values).sums.count * sizeof(ChannelSums);
  return forward.batch * forward.channels * bytes / static_cast<std::int64_t>(sizeof(float));
}

LaunchError group_norm_silu_gradient_device(const GroupNormSiluOf<void>& forward,
                                            const GroupNormGradientsOf<void>& gradients, const MixedElements& elements,
                                            const float* moments, float* workspace, const DeviceStream& where) {
  using namespace cuda;
  if (forward.batch == 0 || forward.channels == 0 || forward.positions == 0) return nullptr;
  if (!fits_group_norm(forward.batch, forward.channels, forward.groups, forward.channels_last))
    return "more samples, groups or channels than a launch takes";
  if (!fits_elements(elements)) return kOtherElements;
  Launches launches(where);
  if (launches.error()) return launches.error();
  const Plan how = plan(forward, gradients, elements.values);
  with_element(elements.values, how.width, [&](auto* type, auto of_width) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = decltype(of_width)::value;
    if constexpr (kWidth == 1 || kWidth * sizeof(T) == 16)
      launch<T, kWidth>(typed<T>(forward, elements), gradients, how, moments, workspace, launches);
  });
  return launches.error();
}

}  // namespace daug::kernels
