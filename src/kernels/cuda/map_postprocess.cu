#include <algorithm>
#include <cmath>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// Maps go in groups whose smoothed planes should stay in the device's cache: its memory is then read and written once.
// For a group: bounds of its images, where these are scaled; differences and their blur, a block a tile; the scale of
// every map, a block a map; the result. Sums have an order of their own, and where a quantile is asked for, whole
// numbers count.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kPlaneThreads = 1024;         ///< of a block that looks at all of a plane
constexpr int kDigits = 2 * kPlaneThreads;  ///< values of a digit: 11 bits
constexpr int kWarp = 32;

/// One group of a call.
struct Work {
  MapPostprocess p;
  int vertical_radius, horizontal_radius, row_taps, column_taps;
  const float *vertical, *horizontal;  ///< see MapTables
  const float *row_first, *row_weights, *column_first, *column_weights, *mean, *factor;
  unsigned rank;         ///< the quantile lies between the value of this rank, from 0,
  double fraction;       ///< and the next, so much of the way
  std::int64_t first;    ///< map of the call
  float2* x_bounds;      ///< lowest value and range of every x of the call
  float2* image_bounds;  ///< of every image of the group
  float2* scales;        ///< of every map of the group
  float2* extremes;      ///< lowest and highest value of every tile of every map of the group
  float* smoothed;       ///< the maps of the group
};

__device__ float2 no_extremes() { return make_float2(INFINITY, -INFINITY); }

/// Lowest and highest of both; NaN once there is one.
__device__ float2 joined(float2 a, float2 b) {
  return make_float2(b.x < a.x || b.x != b.x ? b.x : a.x, b.y > a.y || b.y != b.y ? b.y : a.y);
}

/// Of all threads of a block, for all of them.
__device__ float2 block_extremes(float2 mine) {
  __shared__ float2 parts[kWarp];
  for (int half = kWarp / 2; half > 0; half /= 2)
    mine = joined(mine, make_float2(__shfl_down_sync(~0U, mine.x, half), __shfl_down_sync(~0U, mine.y, half)));
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = mine;
  __syncthreads();
  mine = parts[0];
  for (unsigned i = 1; i < blockDim.x / kWarp; ++i) mine = joined(mine, parts[i]);
  return mine;
}

/// Lowest value and range of images of `size` floats, a block each.
__global__ void __launch_bounds__(kPlaneThreads) find_bounds(const float* images, std::int64_t size, float2* bounds) {
  const float* image = images + blockIdx.x * size;
  float2 mine = no_extremes();
  for (std::int64_t i = threadIdx.x; i < size; i += kPlaneThreads) mine = joined(mine, make_float2(image[i], image[i]));
  mine = block_extremes(mine);
  if (threadIdx.x == 0) bounds[blockIdx.x] = make_float2(mine.x, mine.y - mine.x);
}

/// kMapRun neighbouring values of a blur of what lies `step` floats apart.
__device__ void blur(const float* at, int step, int radius, const float* weights, float (&sums)[kMapRun]) {
  float before[kMapRun], after[kMapRun];
#pragma unroll
  for (int k = 0; k < kMapRun; ++k) {
    before[k] = after[k] = at[k * step];
    sums[k] = weights[0] * before[k];
  }
#pragma unroll 4
  for (int j = 1; j <= radius; ++j) {
    // Both windows move on by one value, so that a value is read twice and not once for each that it is part of.
#pragma unroll
    for (int k = kMapRun - 1; k > 0; --k) before[k] = before[k - 1];
    before[0] = at[-j * step];
#pragma unroll
    for (int k = 0; k + 1 < kMapRun; ++k) after[k] = after[k + 1];
    after[kMapRun - 1] = at[(kMapRun - 1 + j) * step];
    const float weight = weights[j];
#pragma unroll
    for (int k = 0; k < kMapRun; ++k) sums[k] = fmaf(weight, before[k] + after[k], sums[k]);
  }
}

/// What a smoothed pixel of a map is worth among the healthy values of its cell.
__device__ float calibrated(const MapPostprocess& p, std::int64_t map, int y, int x, float value) {
  if (value != value) return value;
  const int regions = static_cast<int>(p.regions), count = static_cast<int>(p.healthy_values);
  const int row = y * regions / static_cast<int>(p.height), column = x * regions / static_cast<int>(p.width);
  const float* healthy = p.healthy + ((map * regions + row) * regions + column) * count;
  return p.minus_log_p[count_below(healthy, count, value)];
}

/// Differences, blurred, and under kStandard and kCalibrated brought to their scale: grid (tiles, maps of the group).
__global__ void __launch_bounds__(kThreads) smooth(Work w) {
  extern __shared__ float differences[];
  const MapPostprocess& p = w.p;
  const int height = static_cast<int>(p.height), width = static_cast<int>(p.width);
  const int vertical = w.vertical_radius, horizontal = w.horizontal_radius;
  const int rows = kMapRows + 2 * vertical, columns = kMapColumns + 2 * horizontal;
  const int pitch = static_cast<int>(map_pitch(horizontal)), narrow = static_cast<int>(map_pitch(0));
  float* blurred = differences + rows * pitch;
  const int across = blocks_of(width, kMapColumns), tile = static_cast<int>(blockIdx.x);
  const int top = tile / across * kMapRows, left = tile % across * kMapColumns;
  const std::int64_t map = w.first + blockIdx.y, pixels = p.height * p.width, size = p.channels * pixels;
  const float* image = p.images + map * size;
  const float* x = p.x ? p.x + map / p.maps * size : nullptr;
  const bool scaled = x && p.scale_images, standard = p.scaling == MapScaling::kStandard;
  const float mean = standard ? w.mean[map % p.maps] : 0.0F, factor = standard ? w.factor[map % p.maps] : 1.0F;
  const float2 x_bounds = scaled ? w.x_bounds[map / p.maps] : make_float2(0, 1);
  const float2 bounds = scaled ? w.image_bounds[blockIdx.y] : make_float2(0, 1);
  for (int r = threadIdx.x / kWarp; r < rows; r += kThreads / kWarp) {
    const std::int64_t row = static_cast<std::int64_t>(reflected(top + r - vertical, vertical, height)) * width;
    for (int c = threadIdx.x % kWarp; c < columns; c += kWarp) {
      const std::int64_t pixel = row + reflected(left + c - horizontal, horizontal, width);
      float sum = x ? 0.0F : image[pixel];
      for (std::int64_t at = pixel; x && at < size; at += pixels) {
        float a = x[at], b = image[at];
        if (scaled) {
          a = (a - x_bounds.x) / x_bounds.y;
          b = (b - bounds.x) / bounds.y;
        }
        sum += fabsf(a - b);
      }
      differences[r * pitch + c] = sum;
    }
  }
  __syncthreads();
  float sums[kMapRun];
  // Neighbouring threads in neighbouring rows, whose pitch is odd, and below in neighbouring columns: no two of a warp
  // ask the same bank.
  for (int i = threadIdx.x; i < rows * (kMapColumns / kMapRun); i += kThreads) {
    const int r = i % rows, c = i / rows * kMapRun;
    blur(differences + r * pitch + horizontal + c, 1, horizontal, w.horizontal, sums);
#pragma unroll
    for (int k = 0; k < kMapRun; ++k) blurred[r * narrow + c + k] = sums[k];
  }
  __syncthreads();
  float2 mine = no_extremes();
  float* out = w.smoothed + blockIdx.y * pixels;
  for (int i = threadIdx.x; i < kMapColumns * (kMapRows / kMapRun); i += kThreads) {
    const int c = i % kMapColumns, r = i / kMapColumns * kMapRun;
    if (left + c >= width) continue;
    blur(blurred + (r + vertical) * narrow + c, narrow, vertical, w.vertical, sums);
#pragma unroll
    for (int k = 0; k < kMapRun; ++k) {
      if (top + r + k >= height) continue;
      float value = sums[k];
      mine = joined(mine, make_float2(value, value));
      if (standard) {
        value = (value - mean) * factor;
        value = value < -p.limit ? -p.limit : value > p.limit ? p.limit : value;  // so that a NaN stays one
      }
      if (p.scaling == MapScaling::kCalibrated) value = calibrated(p, map % p.maps, top + r + k, left + c, value);
      out[static_cast<std::int64_t>(top + r + k) * width + left + c] = value;
    }
  }
  if (p.scaling != MapScaling::kMinMax) return;
  mine = block_extremes(mine);
  if (threadIdx.x == 0) w.extremes[static_cast<std::int64_t>(blockIdx.y) * gridDim.x + tile] = mine;
}

/// Sum over the threads of a block that come before this one.
__device__ unsigned sum_before(unsigned mine) {
  __shared__ unsigned of_warps[kPlaneThreads / kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  unsigned sum = mine;
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const unsigned from = __shfl_up_sync(~0U, sum, step);
    if (lane >= step) sum += from;
  }
  if (lane == kWarp - 1) of_warps[warp] = sum;
  __syncthreads();
  sum -= mine;
  for (unsigned i = 0; i < warp; ++i) sum += of_warps[i];
  return sum;
}

/// The value of rank w.rank, and w.fraction of the way to the next one. Finds the bits of the former, 11 at a time, by
/// counting. A block of kPlaneThreads.
__device__ float quantile(const float* values, int count, const Work& w) {
  __shared__ unsigned counts[kDigits];
  __shared__ unsigned digit, rank_in_digit, with_digit, next;
  unsigned found = 0;      // leading bits
  unsigned rank = w.rank;  // among the values that begin with them
  for (int end = 32; end > 0;) {
    const int shift = end == 32 ? 21 : end == 21 ? 10 : 0;
    counts[threadIdx.x] = counts[threadIdx.x + kPlaneThreads] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kPlaneThreads) {
      const unsigned bits = ordered_bits(values[i]);
      if (static_cast<std::uint64_t>(bits) >> end == found)
        atomicAdd(&counts[bits >> shift & ((1U << (end - shift)) - 1)], 1U);
    }
    __syncthreads();
    const unsigned even = counts[2 * threadIdx.x], odd = counts[2 * threadIdx.x + 1];
    const unsigned before = sum_before(even + odd);
    if (before <= rank && rank < before + even + odd) {  // one thread's
      const bool second = rank >= before + even;
      digit = 2 * threadIdx.x + (second ? 1U : 0U);
      rank_in_digit = rank - before - (second ? even : 0U);
      with_digit = second ? odd : even;
    }
    if (threadIdx.x == 0) next = ~0U;
    __syncthreads();
    found = found << (end - shift) | digit;
    rank = rank_in_digit;
    end = shift;
  }
  const float value = from_ordered_bits(found);
  if (w.fraction == 0 || rank + 1 < with_digit) return value;
  unsigned least = ~0U;  // of the larger ones
  for (int i = threadIdx.x; i < count; i += kPlaneThreads) {
    const unsigned bits = ordered_bits(values[i]);
    if (bits > found && bits < least) least = bits;
  }
  atomicMin(&next, least);
  __syncthreads();
  const double low = value;
  return static_cast<float>(low + w.fraction * (static_cast<double>(from_ordered_bits(next)) - low));
}

/// Lowest value and range of the maps of a group, a block each.
__global__ void __launch_bounds__(kPlaneThreads) find_scales(Work w, int tiles) {
  const float2* of_tiles = w.extremes + static_cast<std::int64_t>(blockIdx.x) * tiles;
  float2 mine = no_extremes();
  for (int i = threadIdx.x; i < tiles; i += kPlaneThreads) mine = joined(mine, of_tiles[i]);
  mine = block_extremes(mine);
  const std::int64_t pixels = w.p.height * w.p.width;
  if (w.p.upper_quantile < 1 && mine.y > mine.x)  // false with a NaN
    mine.y = quantile(w.smoothed + blockIdx.x * pixels, static_cast<int>(pixels), w);
  if (threadIdx.x == 0) w.scales[blockIdx.x] = make_float2(mine.x, mine.y - mine.x);
}

/// The result: grid (tiles of kWarp columns, maps of the group). Weights add up to 1, so scaling may come last.
template <class T>
__global__ void __launch_bounds__(kThreads) resize(Work w, T* output) {
  const MapPostprocess& p = w.p;
  const int out_height = static_cast<int>(p.out_height), out_width = static_cast<int>(p.out_width);
  const int across = blocks_of(out_width, kWarp), tile = static_cast<int>(blockIdx.x);
  const int x = tile % across * kWarp + static_cast<int>(threadIdx.x % kWarp), top = tile / across * kResizedRows;
  if (x >= out_width) return;
  const int end = top + kResizedRows < out_height ? top + kResizedRows : out_height;
  const std::int64_t map = w.first + blockIdx.y;
  const float* columns = w.smoothed + blockIdx.y * p.height * p.width + static_cast<int>(w.column_first[x]);
  T* out = output + map / p.maps * p.output_stride + map % p.maps * p.out_height * p.out_width + x;
  const bool to_unit = p.scaling == MapScaling::kMinMax;
  const float2 scale = to_unit ? w.scales[blockIdx.y] : make_float2(0, 1);
  for (int y = top + static_cast<int>(threadIdx.x / kWarp); y < end; y += kThreads / kWarp) {
    const float* row = columns + static_cast<std::int64_t>(w.row_first[y]) * p.width;
    float sum = 0;
    for (int i = 0; i < w.row_taps; ++i, row += p.width) {
      float along = 0;
      for (int j = 0; j < w.column_taps; ++j) along = fmaf(w.column_weights[j * out_width + x], row[j], along);
      sum = fmaf(w.row_weights[y * w.row_taps + i], along, sum);
    }
    if (to_unit) {
      sum = scale.y > 0 ? (sum - scale.x) / scale.y : 0.0F;  // 0 with a NaN
      if (p.upper_quantile < 1 && sum > 1) sum = 1;
    }
    out[static_cast<std::int64_t>(y) * out_width] = from_float<T>(sum);
  }
}

/// The blocks of resize for `count` maps.
template <class T>
void launch_resize(const Work& w, unsigned count, T* output, Launches& launches) {
  const std::int64_t tiles = std::int64_t{blocks_of(w.p.out_height, kResizedRows)} * blocks_of(w.p.out_width, kWarp);
  resize<T><<<dim3(static_cast<unsigned>(tiles), count), kThreads, 0, launches.next("resize")>>>(w, output);
}

}  // namespace
}  // namespace cuda

std::int64_t map_postprocess_workspace(const MapPostprocess& p) {
  const std::int64_t pixels = p.height * p.width, at_once = cuda::maps_at_once(p.batch * p.maps, pixels);
  return 2 * (p.batch + at_once * (2 + cuda::map_tiles(p.height, p.width))) + at_once * pixels;
}

LaunchError map_postprocess_device(const MapPostprocess& p, const MapTables& tables, const float* values,
                                   float* workspace, void* output, Element element, const DeviceStream& where) {
  using namespace cuda;
  if (element == Element::kBfloat16) return "maps are written as float32 or float16";
  const std::int64_t maps = p.batch * p.maps, pixels = p.height * p.width, size = p.channels * pixels;
  if (maps == 0 || pixels == 0) return nullptr;
  if (!fits_map_postprocess(p.height, p.width, tables.vertical, tables.horizontal))
    return "a larger map or a wider blur than a launch takes";
  Launches launches(where);
  if (launches.error()) return launches.error();
  const std::int64_t at_once = maps_at_once(maps, pixels);
  const auto tiles = static_cast<int>(map_tiles(p.height, p.width));
  Work w{};
  w.p = p;
  w.vertical_radius = static_cast<int>(tables.vertical), w.horizontal_radius = static_cast<int>(tables.horizontal);
  w.row_taps = static_cast<int>(tables.row_taps), w.column_taps = static_cast<int>(tables.column_taps);
  w.vertical = values;
  w.horizontal = w.vertical + tables.vertical + 1;
  w.row_first = w.horizontal + tables.horizontal + 1;
  w.row_weights = w.row_first + p.out_height;
  w.column_first = w.row_weights + p.out_height * tables.row_taps;
  w.column_weights = w.column_first + p.out_width;
  w.mean = w.column_weights + p.out_width * tables.column_taps;
  w.factor = w.mean + p.maps;
  const double place = p.upper_quantile * static_cast<double>(pixels - 1);
  w.rank = static_cast<unsigned>(place);
  w.fraction = place - static_cast<double>(w.rank);
  w.x_bounds = reinterpret_cast<float2*>(workspace);
  w.image_bounds = w.x_bounds + p.batch;
  w.scales = w.image_bounds + at_once;
  w.extremes = w.scales + at_once;
  w.smoothed = reinterpret_cast<float*>(w.extremes + at_once * tiles);
  const bool scaled = p.x && p.scale_images;
  const auto shared = static_cast<std::size_t>(map_tile_floats(tables.vertical, tables.horizontal)) * sizeof(float);
  if (scaled)
    find_bounds<<<static_cast<unsigned>(p.batch), kPlaneThreads, 0, launches.next("find_bounds")>>>(p.x, size,
                                                                                                    w.x_bounds);
  for (; w.first < maps; w.first += at_once) {
    const auto count = static_cast<unsigned>(std::min(at_once, maps - w.first));
    if (scaled)
      find_bounds<<<count, kPlaneThreads, 0, launches.next("find_bounds")>>>(p.images + w.first * size, size,
                                                                             w.image_bounds);
    smooth<<<dim3(static_cast<unsigned>(tiles), count), kThreads, shared, launches.next("smooth")>>>(w);
    if (p.scaling == MapScaling::kMinMax)
      find_scales<<<count, kPlaneThreads, 0, launches.next("find_scales")>>>(w, tiles);
    if (element == Element::kFloat16)
      launch_resize(w, count, static_cast<__half*>(output), launches);
    else
      launch_resize(w, count, static_cast<float*>(output), launches);
  }
  return launches.error();
}

}  // namespace daug::kernels
