#include <algorithm>
#include <cmath>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// Maps go in groups whose smoothed planes should stay in the device's cache: its memory is then read and written once.
// For a group: bounds of its images, where these are scaled; differences and their blur, a block a tile, in kernels
// that know a small radius beforehand and one for all others; the scale of every map, a block a map; the result. Sums
// have an order of their own, and where a quantile is asked for, whole numbers count.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kPlaneThreads = 1024;         ///< of a block that looks at all of a plane
constexpr int kDigits = 2 * kPlaneThreads;  ///< values of a digit: 11 bits
constexpr int kWarp = 32, kWarps = kThreads / kWarp;

using Run = Floats<kMapRun>;

/// One group of a call.
struct Work {
  MapPostprocess p;
  int vertical_radius, horizontal_radius, tile_rows, row_taps, column_taps;
  float weights[kMostFixedRadius + 1];  ///< of a blur whose kernel knows the radius, in both directions
  bool aligned, aligned_output;         ///< whether all pixels can be loaded, and stored, a run at once
  ResizedTile resized;
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

/// Lowest and highest of both; NaN once there is one.
__device__ float2 joined(float2 a, float2 b) {
  return make_float2(b.x < a.x || b.x != b.x ? b.x : a.x, b.y > a.y || b.y != b.y ? b.y : a.y);
}

/// The extremes of what one thread looks at.
struct Extremes {
  float low = INFINITY, high = -INFINITY;
  bool nan = false;

  __device__ void add(float value) {
    low = fminf(low, value), high = fmaxf(high, value);
    nan = nan || value != value;
  }
  /// Lowest and highest, or NaN.
  __device__ float2 found() const { return nan ? make_float2(NAN, NAN) : make_float2(low, high); }
};

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

/// Calls look(value) for all of `count` floats, shared out among a block of kPlaneThreads. Of what begins at 16 bytes,
/// as all planes do whose size is a multiple of four, eight values of a thread are on their way together.
template <class Look>
__device__ void for_each_float(const float* values, std::int64_t count, const Look& look) {
  constexpr int kWidth = 4;
  std::int64_t at = threadIdx.x;
  if (reinterpret_cast<std::uintptr_t>(values) % (kWidth * sizeof(float)) == 0) {
    const std::int64_t packs = count / kWidth;
    for (; at < packs; at += 2 * kPlaneThreads) {
      const bool both = at + kPlaneThreads < packs;
      const Floats<kWidth> first = load<kWidth>(values + at * kWidth);
      const Floats<kWidth> second = load<kWidth>(values + (both ? at + kPlaneThreads : at) * kWidth);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) look(first[i]);
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        if (both) look(second[i]);
    }
    at = packs * kWidth + threadIdx.x;
  }
  for (; at < count; at += kPlaneThreads) look(values[at]);
}

/// Lowest value and range of images of `size` floats, a block each.
__global__ void __launch_bounds__(kPlaneThreads) find_bounds(const float* images, std::int64_t size, float2* bounds) {
  const float* image = images + blockIdx.x * size;
  Extremes seen;
  for_each_float(image, size, [&](float value) { seen.add(value); });
  const float2 mine = block_extremes(seen.found());
  if (threadIdx.x == 0) bounds[blockIdx.x] = make_float2(mine.x, mine.y - mine.x);
}

/// Differences from the lowest value as shares of a range.
struct Shares {
  float low, range, inverse;
  bool ordinary;  ///< whether products below neither overflow nor vanish

  __device__ explicit Shares(float2 bounds)
      : low(bounds.x), range(bounds.y), inverse(1 / range), ordinary(range > 1e-30F && range < 1e30F) {}

  /// difference / range, of one that is not many times as large.
  __device__ float of(float difference) const {
    if (!ordinary) return difference / range;
    // Rounded as a division rounds: the inverse was, and the quotient is corrected by what it leaves over.
    const float quotient = difference * inverse;
    return fmaf(fmaf(-quotient, range, difference), inverse, quotient);
  }
};

/// Where the pixels of a map come from.
struct Source {
  const float *x, *image;  ///< x null: the image is the map
  std::int64_t plane;      ///< floats from channel to channel
  int channels;
  bool scaled;  ///< each to [0, 1], by
  Shares x_shares, shares;
};

/// Pixels of a map, kWidth neighbouring ones at each of kCount places, whose loads are all on their way together.
template <int kWidth, int kCount>
__device__ void find_differences(const Source& from, const int (&at)[kCount], Floats<kWidth> (&sums)[kCount]) {
  const float *x = from.x, *image = from.image;
#pragma unroll
  for (int n = 0; n < kCount; ++n) sums[n] = {};
  for (int channel = 0; channel < from.channels; ++channel) {
    Floats<kWidth> a[kCount], b[kCount];
#pragma unroll
    for (int n = 0; n < kCount; ++n) b[n] = load<kWidth>(image + at[n]);
    if (!x) {
#pragma unroll
      for (int n = 0; n < kCount; ++n) sums[n] = b[n];
      return;
    }
#pragma unroll
    for (int n = 0; n < kCount; ++n) a[n] = load<kWidth>(x + at[n]);
#pragma unroll
    for (int n = 0; n < kCount; ++n)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (from.scaled) {
          a[n][i] = from.x_shares.of(a[n][i] - from.x_shares.low);
          b[n][i] = from.shares.of(b[n][i] - from.shares.low);
        }
        sums[n][i] += fabsf(a[n][i] - b[n][i]);
      }
    x += from.plane, image += from.plane;
  }
}

/// The part of a map that a block blurs, in its memory.
struct Tile {
  float* pixels;  ///< rows are `pitch` apart; (top, left) of the map lies in row `vertical`, column `pad`
  int pitch, pad;
  int top, left;
  int rows, columns;         ///< in whole runs; `vertical` rows and `pad` columns more at both ends
  int vertical, horizontal;  ///< radii of the blur
  int height, width;         ///< of the map
};

/// Fills a tile. Every pixel that the blur reads is written, those beyond a border as reflected ones.
__device__ void fill(const Tile& tile, const Source& from, bool aligned) {
  constexpr int kRows = 3;  ///< of a warp at a time
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int rows = tile.rows + 2 * tile.vertical, beside = 2 * tile.pad;
  float* inside = tile.pixels + tile.pad;
  const auto row_at = [&](int r) {
    return reflected(tile.top + r - tile.vertical, tile.vertical, tile.height) * tile.width;
  };
  const auto column_at = [&](int c) { return reflected(tile.left + c, tile.horizontal, tile.width); };
  if (aligned) {
    const int c = kMapRun * lane;
    for (int first = warp; c < tile.columns && first < rows; first += kRows * kWarps) {
      int at[kRows];
#pragma unroll
      for (int n = 0; n < kRows; ++n) at[n] = row_at(first + n * kWarps) + tile.left + c;
      Run sums[kRows];
      find_differences(from, at, sums);
#pragma unroll
      for (int n = 0; n < kRows; ++n)
        if (first + n * kWarps < rows) store<kMapRun>(inside + (first + n * kWarps) * tile.pitch + c, sums[n]);
    }
  } else {
    for (int r = warp; r < rows; r += kWarps) {
      int at[kMapRun];
#pragma unroll
      for (int n = 0; n < kMapRun; ++n) at[n] = row_at(r) + column_at(lane + n * kWarp);
      Floats<1> sums[kMapRun];
      find_differences(from, at, sums);
#pragma unroll
      for (int n = 0; n < kMapRun; ++n)
        if (lane + n * kWarp < tile.columns) inside[r * tile.pitch + lane + n * kWarp] = sums[n][0];
    }
  }
  const int count = rows * beside;
  for (int first = static_cast<int>(threadIdx.x); first < count; first += kMapRun * kThreads) {
    int at[kMapRun], to[kMapRun];
#pragma unroll
    for (int n = 0; n < kMapRun; ++n) {
      const int i = first + n * kThreads < count ? first + n * kThreads : first, r = i / beside, side = i % beside;
      const int c = side < tile.pad ? side - tile.pad : side - tile.pad + tile.columns;
      at[n] = row_at(r) + column_at(c), to[n] = r * tile.pitch + c;
    }
    Floats<1> sums[kMapRun];
    find_differences(from, at, sums);
#pragma unroll
    for (int n = 0; n < kMapRun; ++n)
      if (first + n * kThreads < count) inside[to[n]] = sums[n][0];
  }
}

/// A run along a row of a tile, blurred. kRadius, or where it is kAnyRadius `radius`.
template <int kRadius>
__device__ Run blur_along(const float* at, int radius, const float* weights) {
  Run sums{};
  if constexpr (kRadius == kAnyRadius) {
    Run near_before = load<kMapRun>(at), near_after = near_before;
#pragma unroll
    for (int k = 0; k < kMapRun; ++k) sums[k] = weights[0] * near_before[k];
#pragma unroll 2
    for (int passed = 0; passed < radius; passed += kMapRun) {
      // In whole runs, as threads that read single values a run apart would meet in a bank.
      const Run far_before = load<kMapRun>(at - passed - kMapRun), far_after = load<kMapRun>(at + passed + kMapRun);
#pragma unroll
      for (int i = 0; i < kMapRun; ++i) {
        if (passed + i >= radius) continue;
        const float weight = weights[passed + i + 1];
#pragma unroll
        for (int k = 0; k < kMapRun; ++k) {
          const float before = k > i ? near_before[k - i - 1] : far_before[kMapRun + k - i - 1];
          const float after = k + i + 1 < kMapRun ? near_after[k + i + 1] : far_after[k + i + 1 - kMapRun];
          sums[k] = fmaf(weight, before + after, sums[k]);
        }
      }
      near_before = far_before, near_after = far_after;
    }
  } else {
    constexpr int kPad = whole_runs(kRadius);
    float window[kMapRun + 2 * kPad];
#pragma unroll
    for (int j = 0; j < kMapRun + 2 * kPad; j += kMapRun) {
      const Run run = load<kMapRun>(at - kPad + j);
#pragma unroll
      for (int k = 0; k < kMapRun; ++k) window[j + k] = run[k];
    }
#pragma unroll
    for (int j = -kRadius; j <= kRadius; ++j)
#pragma unroll
      for (int k = 0; k < kMapRun; ++k) sums[k] = fmaf(weights[j < 0 ? -j : j], window[kPad + k + j], sums[k]);
  }
  return sums;
}

/// Runs in kMapRun rows, blurred across the rows, which begin `pitch` floats apart.
template <int kRadius>
__device__ void blur_across(const float* at, int pitch, int any_radius, const float* weights, Run (&sums)[kMapRun]) {
  const int radius = kRadius == kAnyRadius ? any_radius : kRadius;
#pragma unroll
  for (int k = 0; k < kMapRun; ++k) sums[k] = {};
#pragma unroll
  for (int j = -radius; j < kMapRun + radius; ++j) {
    const Run row = load<kMapRun>(at + j * pitch);
#pragma unroll
    for (int k = 0; k < kMapRun; ++k) {
      const int distance = j < k ? k - j : j - k;
      if (distance > radius) continue;
      const float weight = weights[distance];
#pragma unroll
      for (int i = 0; i < kMapRun; ++i) sums[k][i] = fmaf(weight, row[i], sums[k][i]);
    }
  }
}

/// What a thread does to its smoothed pixels before they are written.
struct Scaling {
  const MapPostprocess& p;
  int of_image;  ///< which map of its image
  int column;    ///< of the map, the first of the thread's run
  float mean, factor;
  Extremes seen{};
  int cells[kMapRun] = {};  ///< of kCalibrated: where the values of a pixel's cell begin among those of its row

  __device__ Scaling(const Work& w, int number, int first)
      : p(w.p),
        of_image(number),
        column(first),
        mean(p.scaling == MapScaling::kStandard ? w.mean[of_image] : 0.0F),
        factor(p.scaling == MapScaling::kStandard ? w.factor[of_image] : 1.0F) {
    if (p.scaling != MapScaling::kCalibrated) return;
    const int regions = static_cast<int>(p.regions), width = static_cast<int>(p.width);
#pragma unroll
    for (int i = 0; i < kMapRun; ++i) {
      const int x = column + i < width ? column + i : width - 1;
      cells[i] = x * regions / width * static_cast<int>(p.healthy_values);
    }
  }

  /// To a run in row y.
  __device__ void apply(int y, Run& run) {
    if (p.scaling == MapScaling::kMinMax) {
#pragma unroll
      for (int i = 0; i < kMapRun; ++i)
        if (column + i < static_cast<int>(p.width)) seen.add(run[i]);
    } else if (p.scaling == MapScaling::kStandard) {
#pragma unroll
      for (int i = 0; i < kMapRun; ++i) {
        const float value = (run[i] - mean) * factor;
        run[i] = value < -p.limit ? -p.limit : value > p.limit ? p.limit : value;  // so that a NaN stays one
      }
    } else if (p.scaling == MapScaling::kCalibrated) {
      const int regions = static_cast<int>(p.regions), count = static_cast<int>(p.healthy_values);
      const int row = y * regions / static_cast<int>(p.height);
      const float* healthy = p.healthy + (std::int64_t{of_image} * regions + row) * regions * count;
      const float* rising[kMapRun];
#pragma unroll
      for (int i = 0; i < kMapRun; ++i) rising[i] = healthy + cells[i];
      int below[kMapRun];
      count_below(rising, count, run.value, below);
#pragma unroll
      for (int i = 0; i < kMapRun; ++i)
        if (run[i] == run[i]) run[i] = p.minus_log_p[below[i]];  // a NaN stays one here, too
    }
  }
};

/// Differences, blurred, and under kStandard and kCalibrated brought to their scale: grid (tiles, maps of the group).
/// kRadius: see fixed_radius. Four blocks a multiprocessor fit without spilling, and hide each other's loads; of wide
/// blurs it may have memory for fewer.
template <int kRadius>
__global__ void __launch_bounds__(kThreads, 4) smooth(Work w) {
  extern __shared__ float4 packs[];
  const MapPostprocess& p = w.p;
  const bool any = kRadius == kAnyRadius;
  Tile tile;
  tile.pixels = reinterpret_cast<float*>(packs);
  tile.height = static_cast<int>(p.height), tile.width = static_cast<int>(p.width);
  tile.vertical = any ? w.vertical_radius : kRadius, tile.horizontal = any ? w.horizontal_radius : kRadius;
  tile.pad = whole_runs(tile.horizontal), tile.pitch = kMapColumns + 2 * tile.pad;
  const int across = blocks_of(tile.width, kMapColumns), number = static_cast<int>(blockIdx.x);
  tile.top = number / across * w.tile_rows, tile.left = number % across * kMapColumns;
  const int below = tile.height - tile.top, rows = below < w.tile_rows ? below : w.tile_rows;
  const int columns = tile.width - tile.left;
  tile.rows = whole_runs(rows);
  tile.columns = whole_runs(columns < kMapColumns ? columns : kMapColumns);

  const std::int64_t map = w.first + blockIdx.y, image = map / p.maps, plane = p.height * p.width;
  const bool scaled = p.x && p.scale_images;
  const Source from{p.x ? p.x + image * p.channels * plane : nullptr,
                    p.images + map * p.channels * plane,
                    plane,
                    static_cast<int>(p.channels),
                    scaled,
                    Shares(scaled ? w.x_bounds[image] : make_float2(0, 1)),
                    Shares(scaled ? w.image_bounds[blockIdx.y] : make_float2(0, 1))};
  fill(tile, from, w.aligned);
  __syncthreads();

  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int column = kMapRun * lane;
  float* inside = tile.pixels + tile.pad + column;
  if constexpr (kRadius != 0) {
    // A row is one warp's, which reads all of it before it writes.
    for (int r = warp; r < tile.rows + 2 * tile.vertical; r += kWarps) {
      float* at = inside + r * tile.pitch;
      Run blurred{};
      if (column < tile.columns) blurred = blur_along<kRadius>(at, tile.horizontal, any ? w.horizontal : w.weights);
      __syncwarp();
      if (column < tile.columns) store<kMapRun>(at, blurred);
    }
    __syncthreads();
  }
  Scaling scaling(w, static_cast<int>(map - image * p.maps), tile.left + column);
  float* out = w.smoothed + blockIdx.y * plane + tile.left + column;
  for (int r = warp * kMapRun; column < tile.columns && r < tile.rows; r += kWarps * kMapRun) {
    Run runs[kMapRun];
    blur_across<kRadius>(inside + (r + tile.vertical) * tile.pitch, tile.pitch, tile.vertical,
                         any ? w.vertical : w.weights, runs);
#pragma unroll
    for (int k = 0; k < kMapRun; ++k) {
      if (r + k >= rows) continue;
      scaling.apply(tile.top + r + k, runs[k]);
      float* to = out + static_cast<std::int64_t>(tile.top + r + k) * tile.width;
      if (w.aligned) {
        store<kMapRun>(to, runs[k]);
      } else {
#pragma unroll
        for (int i = 0; i < kMapRun; ++i)
          if (column + i < columns) to[i] = runs[k][i];
      }
    }
  }
  if (p.scaling != MapScaling::kMinMax) return;
  const float2 mine = block_extremes(scaling.seen.found());
  if (threadIdx.x == 0) w.extremes[static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = mine;
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
    for_each_float(values, count, [&](float value) {
      const unsigned bits = ordered_bits(value);
      if (static_cast<std::uint64_t>(bits) >> end == found)
        atomicAdd(&counts[bits >> shift & ((1U << (end - shift)) - 1)], 1U);
    });
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
  for_each_float(values, count, [&](float other) {
    const unsigned bits = ordered_bits(other);
    if (bits > found && bits < least) least = bits;
  });
  atomicMin(&next, least);
  __syncthreads();
  const double low = value;
  return static_cast<float>(low + w.fraction * (static_cast<double>(from_ordered_bits(next)) - low));
}

/// Lowest value and range of the maps of a group, a block each.
__global__ void __launch_bounds__(kPlaneThreads) find_scales(Work w, int tiles) {
  const float2* of_tiles = w.extremes + static_cast<std::int64_t>(blockIdx.x) * tiles;
  float2 mine = make_float2(INFINITY, -INFINITY);
  for (int i = threadIdx.x; i < tiles; i += kPlaneThreads) mine = joined(mine, of_tiles[i]);
  mine = block_extremes(mine);
  const std::int64_t pixels = w.p.height * w.p.width;
  if (w.p.upper_quantile < 1 && mine.y > mine.x)  // false with a NaN
    mine.y = quantile(w.smoothed + blockIdx.x * pixels, static_cast<int>(pixels), w);
  if (threadIdx.x == 0) w.scales[blockIdx.x] = make_float2(mine.x, mine.y - mine.x);
}

/// Goes through the radii that kernels are compiled for.
template <int kRadius = kMostFixedRadius>
void launch_smooth(const MapTile& tile, const Work& w, const dim3& grid, Launches& launches) {
  if constexpr (kRadius > kAnyRadius)
    if (kRadius != tile.fixed) return launch_smooth<kRadius - 1>(tile, w, grid, launches);
  const auto shared = static_cast<std::size_t>(tile.floats) * sizeof(float);
  smooth<kRadius><<<grid, kThreads, shared, launches.next("smooth")>>>(w);
}

/// The result: grid (tiles of w.resized, maps of the group). A block resamples, along the rows, all source rows that
/// its tile is made of into its memory, and then these along the columns. Weights add up to 1, so scaling may come
/// last. kTaps: source pixels of one of the result along both axes, or 0: as w says.
template <class T, int kTaps, int kRun>
__global__ void __launch_bounds__(kThreads) resize(Work w, T* output) {
  extern __shared__ float4 packs[];
  constexpr int kColumns = kRun * kWarp;
  const MapPostprocess& p = w.p;
  float* along = reinterpret_cast<float*>(packs);  // [source rows, kColumns]
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int width = static_cast<int>(p.width);
  const int out_height = static_cast<int>(p.out_height), out_width = static_cast<int>(p.out_width);
  const int across = blocks_of(out_width, kColumns), number = static_cast<int>(blockIdx.x);
  const int left = number % across * kColumns, top = number / across * w.resized.rows;
  const int end = top + w.resized.rows < out_height ? top + w.resized.rows : out_height;
  const int row_taps = kTaps > 0 ? kTaps : w.row_taps;
  const int first = static_cast<int>(w.row_first[top]);
  const int count = static_cast<int>(w.row_first[end - 1]) + row_taps - first;
  // A warp's lanes take neighbouring columns here; what lies beyond the last one is made like it, and read by nobody.
  int columns[kRun], begins[kRun];
  [[maybe_unused]] float weights[kRun][kTaps > 0 ? kTaps : 1];
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    const int column = left + k * kWarp + lane;
    columns[k] = column < out_width ? column : out_width - 1;
    begins[k] = static_cast<int>(w.column_first[columns[k]]);
#pragma unroll
    for (int j = 0; j < kTaps; ++j) weights[k][j] = w.column_weights[j * out_width + columns[k]];
  }
  const float* source = w.smoothed + (blockIdx.y * p.height + first) * p.width;
  for (int r = warp; r < count; r += kWarps) {
    const float* row = source + static_cast<std::int64_t>(r) * width;
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      const float* pixels = row + begins[k];
      float sum = 0;
      if constexpr (kTaps > 0) {
#pragma unroll
        for (int j = 0; j < kTaps; ++j) sum = fmaf(weights[k][j], pixels[j], sum);
      } else {
        for (int j = 0; j < w.column_taps; ++j)
          sum = fmaf(w.column_weights[j * out_width + columns[k]], pixels[j], sum);
      }
      along[r * kColumns + k * kWarp + lane] = sum;
    }
  }
  __syncthreads();
  // And runs of neighbouring columns here.
  const int column = kRun * lane;
  if (left + column >= out_width) return;
  const std::int64_t map = w.first + blockIdx.y, image = map / p.maps;
  T* out = output + image * p.output_stride + (map - image * p.maps) * p.out_height * p.out_width + left + column;
  const bool to_unit = p.scaling == MapScaling::kMinMax, held = p.upper_quantile < 1;
  const Shares shares(to_unit ? w.scales[blockIdx.y] : make_float2(0, 1));
  for (int y = top + warp; y < end; y += kWarps) {
    const float* from = along + (static_cast<int>(w.row_first[y]) - first) * kColumns + column;
    Floats<kRun> sums{};
#pragma unroll
    for (int i = 0; i < row_taps; ++i) {
      const float weight = w.row_weights[y * row_taps + i];
      const Floats<kRun> row = load<kRun>(from + i * kColumns);
#pragma unroll
      for (int k = 0; k < kRun; ++k) sums[k] = fmaf(weight, row[k], sums[k]);
    }
    if (to_unit) {
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        const float above = sums[k] - shares.low;
        if (!(shares.range > 0))
          sums[k] = 0;  // with a NaN, too
        else
          sums[k] = held && above > shares.range ? 1.0F : shares.of(above);
      }
    }
    T* to = out + static_cast<std::int64_t>(y) * out_width;
    if (w.aligned_output) {
      store<kRun>(to, sums);
    } else {
#pragma unroll
      for (int k = 0; k < kRun; ++k)
        if (left + column + k < out_width) to[k] = from_float<T>(sums[k]);
    }
  }
}

/// The blocks of resize for `count` maps.
template <int kTaps, int kRun, class T>
void launch_resize_of(const Work& w, unsigned count, T* output, Launches& launches) {
  const std::int64_t tiles =
      std::int64_t{blocks_of(w.p.out_height, w.resized.rows)} * blocks_of(w.p.out_width, kRun * kWarp);
  const auto shared = static_cast<std::size_t>(w.resized.floats) * sizeof(float);
  resize<T, kTaps, kRun>
      <<<dim3(static_cast<unsigned>(tiles), count), kThreads, shared, launches.next("resize")>>>(w, output);
}

template <class T>
void launch_resize(const Work& w, unsigned count, T* output, Launches& launches) {
  if (w.resized.run == 1) return launch_resize_of<0, 1>(w, count, output, launches);
  switch (w.row_taps == w.column_taps ? w.row_taps : 0) {
    case 1:
      return launch_resize_of<1, kMapRun>(w, count, output, launches);
    case 2:
      return launch_resize_of<2, kMapRun>(w, count, output, launches);
    case 3:
      return launch_resize_of<3, kMapRun>(w, count, output, launches);
    case 4:
      return launch_resize_of<4, kMapRun>(w, count, output, launches);
    default:
      return launch_resize_of<0, kMapRun>(w, count, output, launches);
  }
}

}  // namespace
}  // namespace cuda

std::int64_t map_postprocess_workspace(const MapPostprocess& p) {
  const std::int64_t pixels = p.height * p.width, at_once = cuda::maps_at_once(p.batch * p.maps, pixels);
  const int rows = cuda::map_tile(blur_radius(p.sigma, p.height), blur_radius(p.sigma, p.width)).rows;
  return cuda::smoothed_floats(at_once, pixels) +
         2 * (p.batch + at_once * (2 + cuda::map_tiles(p.height, p.width, rows)));
}

LaunchError map_postprocess_device(const MapPostprocess& p, const MapTables& tables, const float* values,
                                   float* workspace, void* output, Element element, const DeviceStream& where) {
  using namespace cuda;
  if (element == Element::kBfloat16) return "maps are written as float32 or float16";
  const std::int64_t maps = p.batch * p.maps, pixels = p.height * p.width, size = p.channels * pixels;
  if (maps == 0 || pixels == 0) return nullptr;
  if (!fits_map_postprocess(p.height, p.width, tables.vertical, tables.horizontal, p.out_height))
    return "a larger map, a wider blur or a height that shrinks more than a launch takes";
  const MapTile tile = map_tile(tables.vertical, tables.horizontal);
  Launches launches(where);
  if (!launches.error() && tile.floats > kMostTileFloats)
    // As much as any blur needs, so that calls of other threads do not take it away from one another.
    launches.allow_shared(smooth<kAnyRadius>, "smooth", kLargestTileFloats * std::int64_t{sizeof(float)});
  if (launches.error()) return launches.error();
  const std::int64_t at_once = maps_at_once(maps, pixels);
  const auto tiles = static_cast<int>(map_tiles(p.height, p.width, tile.rows));
  Work w{};
  w.p = p;
  w.vertical_radius = static_cast<int>(tables.vertical), w.horizontal_radius = static_cast<int>(tables.horizontal);
  w.tile_rows = tile.rows;
  w.row_taps = static_cast<int>(tables.row_taps), w.column_taps = static_cast<int>(tables.column_taps);
  if (tile.fixed != kAnyRadius) std::copy_n(tables.values.begin(), tile.fixed + 1, w.weights);
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
  w.smoothed = workspace;
  w.x_bounds = reinterpret_cast<float2*>(workspace + smoothed_floats(at_once, pixels));
  w.image_bounds = w.x_bounds + p.batch;
  w.scales = w.image_bounds + at_once;
  w.extremes = w.scales + at_once;
  w.aligned = vector_width(p.width, sizeof(float), {p.x, p.images, w.smoothed}) == kMapRun;
  w.resized = resized_tile(p.height, p.out_height, tables.row_taps);
  w.aligned_output =
      w.resized.run == 1 || vector_width(p.out_width, bytes_of(element), {output}, {p.output_stride}) >= kMapRun;
  const bool scaled = p.x && p.scale_images;
  if (scaled)
    find_bounds<<<static_cast<unsigned>(p.batch), kPlaneThreads, 0, launches.next("find_bounds")>>>(p.x, size,
                                                                                                    w.x_bounds);
  for (; w.first < maps; w.first += at_once) {
    const auto count = static_cast<unsigned>(std::min(at_once, maps - w.first));
    if (scaled)
      find_bounds<<<count, kPlaneThreads, 0, launches.next("find_bounds")>>>(p.images + w.first * size, size,
                                                                             w.image_bounds);
    launch_smooth(tile, w, dim3(static_cast<unsigned>(tiles), count), launches);
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
