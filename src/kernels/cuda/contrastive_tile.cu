#include <limits>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// One pass over a tile for each function. A block takes tile_rows_of_block whole rows, kGroup at a time, and knows
// their sums; a thread keeps to its columns, and what is known of them to its registers. Each block leaves parts of the
// sums over columns, which a second launch joins. Every sum has an order that depends on rows and columns alone.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kWarp = 32, kWarps = kThreads / kWarp;
constexpr int kGroup = 4;  ///< rows whose loads are under way together
/// Score of a pair that is left out: its exponential is nothing beside any other's.
constexpr float kLeftOut = -1e38F;
/// In place of a score beyond the end of a row or of the rows.
constexpr float kBeyond = std::numeric_limits<float>::lowest();
/// In place of an absent number of a group: equal to none.
constexpr float kNoGroup = std::numeric_limits<float>::quiet_NaN();

/// One number for each column of this thread.
using Numbers = Floats<kTileColumnsOfThread>;

/// Column that a thread's number i stands for: neighbouring threads take neighbouring packs of kWidth.
template <int kWidth>
__device__ int column_of(int i) {
  return (i / kWidth * kThreads + static_cast<int>(threadIdx.x)) * kWidth + i % kWidth;
}

/// What a line of so many columns holds for this thread; `otherwise` beyond its end and where there is no line.
template <int kWidth>
__device__ Numbers take(const float* line, int columns, float otherwise) {
  Numbers numbers;
#pragma unroll
  for (int i = 0; i < kTileColumnsOfThread; i += kWidth) {
    Floats<kWidth> pack;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) pack[k] = otherwise;
    if (line && column_of<kWidth>(i) < columns) pack = load<kWidth>(line + column_of<kWidth>(i));
#pragma unroll
    for (int k = 0; k < kWidth; ++k) numbers[i + k] = pack[k];
  }
  return numbers;
}

template <int kWidth, class T>
__device__ void put(T* line, int columns, const Numbers& numbers) {
#pragma unroll
  for (int i = 0; i < kTileColumnsOfThread; i += kWidth) {
    Floats<kWidth> pack;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) pack[k] = numbers[i + k];
    if (column_of<kWidth>(i) < columns) store<kWidth>(line + column_of<kWidth>(i), pack);
  }
}

/// What is known of this thread's columns.
template <int kWidth>
struct Columns {
  int count;  ///< of the tile
  Numbers factor, positive, ignored;

  __device__ explicit Columns(const ScoreTile& t)
      : count(static_cast<int>(t.columns)),
        factor(take<kWidth>(t.column_factor, count, 1)),
        positive(take<kWidth>(t.column_positive, count, kNoGroup)),
        ignored(take<kWidth>(t.column_ignored, count, kNoGroup)) {}
};

__device__ inline float number_at(const float* numbers, std::int64_t at, float otherwise) {
  return numbers ? numbers[at] : otherwise;
}

/// What is known of a row.
struct Row {
  float factor, positive, ignored, weight;
  int own;            ///< column of its own pair; -1: not in this tile
  const float* soft;  ///< its part of t.soft, or null

  __device__ Row(const ScoreTile& t, std::int64_t row)
      : factor(t.row_factor[row]),
        positive(number_at(t.row_positive, row, kNoGroup)),
        ignored(number_at(t.row_ignored, row, kNoGroup)),
        weight(number_at(t.row_weight, row, 1)),
        soft(t.soft ? t.soft + row * t.columns : nullptr) {
    const std::int64_t column = row + t.own;
    own = column >= 0 && column < t.columns ? static_cast<int>(column) : -1;
  }
};

template <int kWidth>
__device__ bool attracts(const Row& row, const Columns<kWidth>& columns, int i) {
  return column_of<kWidth>(i) == row.own || row.positive == columns.positive[i];
}

/// Makes scores of a row's products, rounded alike in every pass: nothing is fused with what follows. What lies beyond
/// the row's end stays.
template <int kWidth>
__device__ void make_scores(const ScoreTile& t, const Row& row, const Columns<kWidth>& columns, Numbers& x) {
  if (t.scaled) return;
#pragma unroll
  for (int i = 0; i < kTileColumnsOfThread; ++i) {
    if (column_of<kWidth>(i) >= columns.count) continue;
    x[i] = __fmul_rn(x[i], __fmul_rn(row.factor, columns.factor[i]));
    if (row.ignored == columns.ignored[i] && !attracts(row, columns, i)) x[i] = kLeftOut;
  }
}

/// By how much the pairs of a row attract; 0 beyond its end.
template <int kWidth>
__device__ Numbers attraction_of(const ScoreTile& t, const Row& row, const Columns<kWidth>& columns) {
  Numbers a;
  if (row.soft) {
    a = take<kWidth>(row.soft, columns.count, 0);
    const Numbers weight = take<kWidth>(t.column_weight, columns.count, 1);
#pragma unroll
    for (int i = 0; i < kTileColumnsOfThread; ++i) a[i] *= 0.5F * (row.weight + weight[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kTileColumnsOfThread; ++i) a[i] = attracts(row, columns, i) ? row.weight : 0.0F;
  }
  return a;
}

/// Two maxima (x) with the sums of exponentials about them (y) as one.
__device__ inline float2 joined(float2 a, float2 b) {
  const float top = fmaxf(a.x, b.x);
  return make_float2(top, a.y * __expf(a.x - top) + b.y * __expf(b.x - top));
}

struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

/// Joins the numbers of all threads, each x[n] by itself; every thread gets the result. Two calls in a row must not
/// share `shared`, which slow threads may be reading still.
template <int kCount, class Join>
__device__ void join_in_block(float (&x)[kCount], float (&shared)[kCount][kWarps], const Join& join) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
#pragma unroll
    for (int away = kWarp / 2; away > 0; away /= 2) x[n] = join(x[n], __shfl_xor_sync(0xffffffffU, x[n], away));
    if (threadIdx.x % kWarp == 0) shared[n][threadIdx.x / kWarp] = x[n];
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    x[n] = shared[n][0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) x[n] = join(x[n], shared[n][warp]);
  }
}

/// Writes the sum over the block.
__device__ inline void write_block_sum(double value, double* to) {
  __shared__ double sums[kThreads];
  sums[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *to = sums[0];
}

/// Rows [begin, end) of a block.
struct BlockRows {
  std::int64_t begin, end;

  __device__ explicit BlockRows(const ScoreTile& t)
      : begin(static_cast<std::int64_t>(blockIdx.x) * tile_rows_of_block(t.rows)),
        end(begin + tile_rows_of_block(t.rows) < t.rows ? begin + tile_rows_of_block(t.rows) : t.rows) {}
};

/// The products of the rows from `first` on; kBeyond in place of others.
template <int kWidth>
__device__ void take_group(const ScoreTile& t, std::int64_t first, std::int64_t end, int columns,
                           Numbers (&x)[kGroup]) {
#pragma unroll
  for (int g = 0; g < kGroup; ++g)
    x[g] = take<kWidth>(first + g < end ? t.products + (first + g) * t.columns : nullptr, columns, kBeyond);
}

/// body(number, row, scores) for every row of this block. kSafe: no body begins before its row has been read by all
/// threads.
template <int kWidth, bool kSafe, class Body>
__device__ void for_rows(const ScoreTile& t, const Columns<kWidth>& columns, const Body& body) {
  const BlockRows rows(t);
  for (std::int64_t first = rows.begin; first < rows.end; first += kGroup) {
    Numbers x[kGroup];
    take_group<kWidth>(t, first, rows.end, columns.count, x);
    if constexpr (kSafe) __syncthreads();
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      if (first + g >= rows.end) continue;
      const Row row(t, first + g);
      make_scores(t, row, columns, x[g]);
      body(first + g, row, x[g]);
    }
  }
}

/// Takes the rows into their sums; of the columns [blocks, columns] maxima and then as many sums go to `parts`.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) sum_rows(ScoreTile t, float* scores, SoftmaxSums sums, float* parts) {
  __shared__ float highest_of_warps[kGroup][kWarps], sums_of_warps[2 * kGroup][kWarps];
  const Columns<kWidth> columns(t);
  const BlockRows rows(t);
  Numbers column_max, column_sum;
#pragma unroll
  for (int i = 0; i < kTileColumnsOfThread; ++i) {
    column_max[i] = kBeyond;
    column_sum[i] = 0;
  }
  for (std::int64_t first = rows.begin; first < rows.end; first += kGroup) {
    Numbers x[kGroup];
    float highest[kGroup], sum[2 * kGroup];  // sums of exponentials, and behind them of attractions
    take_group<kWidth>(t, first, rows.end, columns.count, x);
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      highest[g] = kBeyond;
      sum[g] = sum[kGroup + g] = 0;
      if (first + g >= rows.end) continue;
      const Row row(t, first + g);
      make_scores(t, row, columns, x[g]);
      if (scores) put<kWidth>(scores + (first + g) * t.columns, columns.count, x[g]);
      const Numbers a = attraction_of(t, row, columns);
#pragma unroll
      for (int i = 0; i < kTileColumnsOfThread; ++i) {
        highest[g] = fmaxf(highest[g], x[g][i]);
        sum[kGroup + g] = fmaf(a[i], x[g][i], sum[kGroup + g]);
      }
    }
    join_in_block(highest, highest_of_warps, Larger());
#pragma unroll
    for (int i = 0; i < kTileColumnsOfThread; ++i) {
      float top = column_max[i];
#pragma unroll
      for (int g = 0; g < kGroup; ++g) top = fmaxf(top, x[g][i]);
      float below = column_sum[i] * __expf(column_max[i] - top);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        below += __expf(x[g][i] - top);
        sum[g] += __expf(x[g][i] - highest[g]);
      }
      column_max[i] = top;
      column_sum[i] = below;
    }
    join_in_block(sum, sums_of_warps, Sum());
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      const std::int64_t row = first + g;
      if (row >= rows.end || threadIdx.x != static_cast<unsigned>(g)) continue;
      const float2 all = joined(make_float2(sums.row_max[row], sums.row_sum[row]), make_float2(highest[g], sum[g]));
      sums.row_max[row] = all.x;
      sums.row_sum[row] = all.y;
      sums.row_attraction[row] += sum[kGroup + g];
    }
  }
  put<kWidth>(parts + blockIdx.x * t.columns, columns.count, column_max);
  put<kWidth>(parts + (gridDim.x + blockIdx.x) * t.columns, columns.count, column_sum);
}

constexpr int kJoinedColumns = 16;                   ///< of a block of join_columns: one load of 64 bytes
constexpr int kJoiners = kThreads / kJoinedColumns;  ///< threads that share the parts of a column

/// Takes the parts of sum_rows into the sums of the columns. A thread finds the largest of its parts first, so that no
/// exponential of theirs waits for another; threads are joined by halving.
__global__ void __launch_bounds__(kThreads)
    join_columns(SoftmaxSums sums, const float* parts, std::int64_t blocks, std::int64_t columns) {
  __shared__ float2 of_joiners[kJoiners][kJoinedColumns];
  const unsigned lane = threadIdx.x % kJoinedColumns, joiner = threadIdx.x / kJoinedColumns;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kJoinedColumns + lane;
  float2 sum = make_float2(kBeyond, 0);
  if (column < columns) {
#pragma unroll 8
    for (std::int64_t block = joiner; block < blocks; block += kJoiners)
      sum.x = fmaxf(sum.x, parts[block * columns + column]);
#pragma unroll 8
    for (std::int64_t block = joiner; block < blocks; block += kJoiners)
      sum.y = fmaf(parts[(blocks + block) * columns + column], __expf(parts[block * columns + column] - sum.x), sum.y);
  }
  of_joiners[joiner][lane] = sum;
  for (unsigned half = kJoiners / 2; half > 0; half /= 2) {
    __syncthreads();
    if (joiner < half) of_joiners[joiner][lane] = joined(of_joiners[joiner][lane], of_joiners[joiner + half][lane]);
  }
  if (joiner > 0 || column >= columns) return;
  sum = joined(make_float2(sums.column_max[column], sums.column_sum[column]), of_joiners[0][lane]);
  sums.column_max[column] = sum.x;
  sums.column_sum[column] = sum.y;
}

/// Row of a gradient: it begins where the same row of float32 would. Numbers of 16 bits so take the place of products
/// that other threads read (kNarrow).
template <class T>
struct Gradient {
  static constexpr bool kNarrow = sizeof(T) < sizeof(float);
  T* begin;

  __device__ T* row(const ScoreTile& t, std::int64_t number) const {
    return begin + number * t.columns * static_cast<std::int64_t>(sizeof(float) / sizeof(T));
  }
};

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    write_softmax_gradient(ScoreTile t, SoftmaxSums sums, float scale, Gradient<T> to) {
  const Columns<kWidth> columns(t);
  const Numbers column_max = take<kWidth>(sums.column_max, columns.count, 0);
  Numbers column_half = take<kWidth>(sums.column_sum, columns.count, 1);
#pragma unroll
  for (int i = 0; i < kTileColumnsOfThread; ++i) column_half[i] = 0.5F / column_half[i];
  for_rows<kWidth, Gradient<T>::kNarrow>(t, columns, [&](std::int64_t number, const Row& row, const Numbers& scores) {
    const float row_max = sums.row_max[number], row_half = 0.5F / sums.row_sum[number];
    const float factor = scale * row.factor;
    const Numbers a = attraction_of(t, row, columns);
    Numbers d;
#pragma unroll
    for (int i = 0; i < kTileColumnsOfThread; ++i) {
      const float along = __expf(scores[i] - row_max) * row_half;
      const float both = fmaf(__expf(scores[i] - column_max[i]), column_half[i], along);
      d[i] = scores[i] == kLeftOut ? 0.0F : (both - a[i]) * (factor * columns.factor[i]);
    }
    put<kWidth>(to.row(t, number), columns.count, d);
  });
}

/// -a log s(x) - (1 - a) log s(-x), s the sigmoid: the two have their logarithm in common.
__device__ inline float pair_loss(float x, float a) {
  return fmaf(a, fmaxf(-x, 0), (1 - a) * fmaxf(x, 0)) + log1pf(__expf(-fabsf(x)));
}

/// Its derivative by x, s(x) - a, as (1 - a) s(x) - a s(-x), which keeps its digits.
__device__ inline float pair_slope(float x, float a) {
  const float e = __expf(-fabsf(x)), large = 1 / (1 + e), small = e * large;
  return x < 0 ? fmaf(-a, large, (1 - a) * small) : fmaf(-a, small, (1 - a) * large);
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) sum_sigmoid_losses(ScoreTile t, const float* bias, double* block_sums) {
  const Columns<kWidth> columns(t);
  const float added = *bias;
  double sum = 0;
  for_rows<kWidth, false>(t, columns, [&](std::int64_t, const Row& row, const Numbers& scores) {
    const Numbers a = attraction_of(t, row, columns);
    float of_row = 0;
#pragma unroll
    for (int i = 0; i < kTileColumnsOfThread; ++i) of_row += pair_loss(scores[i] + added, a[i]);
    sum += of_row;
  });
  write_block_sum(sum, block_sums + blockIdx.x);
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    write_sigmoid_gradient(ScoreTile t, const float* bias, float scale, Gradient<T> to, double* block_sums) {
  const Columns<kWidth> columns(t);
  const float added = *bias;
  double sum = 0;
  for_rows<kWidth, Gradient<T>::kNarrow>(t, columns, [&](std::int64_t number, const Row& row, const Numbers& scores) {
    const Numbers a = attraction_of(t, row, columns);
    const float factor = scale * row.factor;
    float of_row = 0;
    Numbers d;
#pragma unroll
    for (int i = 0; i < kTileColumnsOfThread; ++i) {
      d[i] = pair_slope(scores[i] + added, a[i]);
      of_row += d[i];
      d[i] *= factor * columns.factor[i];
    }
    sum += of_row;
    put<kWidth>(to.row(t, number), columns.count, d);
  });
  write_block_sum(sum, block_sums + blockIdx.x);
}

struct TileLaunch {
  ScoreTile tile;
  unsigned blocks;
  Launches& launches;
};

template <int kWidth>
void launch_sums(const TileLaunch& l, float* scores, const SoftmaxSums& sums, float* parts) {
  sum_rows<kWidth><<<l.blocks, kThreads, 0, l.launches.next("sum_rows")>>>(l.tile, scores, sums, parts);
  const auto columns = static_cast<unsigned>((l.tile.columns + kJoinedColumns - 1) / kJoinedColumns);
  join_columns<<<columns, kThreads, 0, l.launches.next("join_columns")>>>(
      sums, parts, static_cast<std::int64_t>(l.blocks), l.tile.columns);
}

template <int kWidth, class T>
void launch_softmax_gradient(const TileLaunch& l, const SoftmaxSums& sums, float scale, T* to) {
  write_softmax_gradient<kWidth, T>
      <<<l.blocks, kThreads, 0, l.launches.next("write_softmax_gradient")>>>(l.tile, sums, scale, Gradient<T>{to});
}

template <int kWidth>
void launch_sigmoid_losses(const TileLaunch& l, const float* bias, double* block_sums) {
  sum_sigmoid_losses<kWidth>
      <<<l.blocks, kThreads, 0, l.launches.next("sum_sigmoid_losses")>>>(l.tile, bias, block_sums);
}

template <int kWidth, class T>
void launch_sigmoid_gradient(const TileLaunch& l, const float* bias, float scale, T* to, double* block_sums) {
  write_sigmoid_gradient<kWidth, T><<<l.blocks, kThreads, 0, l.launches.next("write_sigmoid_gradient")>>>(
      l.tile, bias, scale, Gradient<T>{to}, block_sums);
}

/// Calls launch(TileLaunch, Width) on the tile's device. `others`: what else is read or written in packs.
template <class Launch>
LaunchError launch_tile(const ScoreTile& t, std::initializer_list<const void*> others, const DeviceStream& where,
                        const Launch& launch) {
  if (t.rows == 0 || t.columns == 0) return nullptr;
  if (!fits_tile(t.rows, t.columns)) return "more rows or columns of a tile than a launch takes";
  Launches launches(where);
  if (launches.error()) return launches.error();
  TileLaunch l{t, static_cast<unsigned>(tile_blocks(t.rows)), launches};
  if (t.soft) {  // which says all: neither groups nor own pairs count
    l.tile.row_positive = l.tile.column_positive = l.tile.row_ignored = l.tile.column_ignored = nullptr;
    l.tile.own = -t.rows;
  }
  const auto whole = [&](std::initializer_list<const void*> addresses) {
    return vector_width(t.columns, bytes_of(Element::kFloat32), addresses) == 4;
  };
  if (whole({t.products, t.column_factor, t.column_positive, t.column_ignored, t.column_weight, t.soft}) &&
      whole(others))
    launch(l, Width<4>{});
  else
    launch(l, Width<1>{});
  return launches.error();
}

/// For sigmoid functions, whose pairs weigh 1.
ScoreTile unweighted(ScoreTile t) {
  t.row_weight = t.column_weight = nullptr;
  return t;
}

}  // namespace
}  // namespace cuda

LaunchError add_softmax_sums_device(const ScoreTile& tile, float* scores, const SoftmaxSums& sums, float* workspace,
                                    const DeviceStream& where) {
  using namespace cuda;
  return launch_tile(tile, {scores, workspace}, where, [&](const TileLaunch& l, auto of_width) {
    launch_sums<decltype(of_width)::value>(l, scores, sums, workspace);
  });
}

LaunchError softmax_gradient_device(const ScoreTile& tile, const SoftmaxSums& sums, float scale, void* gradient,
                                    bool bfloat16, const DeviceStream& where) {
  using namespace cuda;
  return launch_tile(tile, {gradient, sums.column_max, sums.column_sum}, where,
                     [&](const TileLaunch& l, auto of_width) {
                       constexpr int kWidth = decltype(of_width)::value;
                       if (bfloat16)
                         launch_softmax_gradient<kWidth>(l, sums, scale, static_cast<__nv_bfloat16*>(gradient));
                       else
                         launch_softmax_gradient<kWidth>(l, sums, scale, static_cast<float*>(gradient));
                     });
}

LaunchError sigmoid_loss_device(const ScoreTile& tile, const float* bias, double* block_sums,
                                const DeviceStream& where) {
  using namespace cuda;
  return launch_tile(unweighted(tile), {}, where, [&](const TileLaunch& l, auto of_width) {
    launch_sigmoid_losses<decltype(of_width)::value>(l, bias, block_sums);
  });
}

LaunchError sigmoid_gradient_device(const ScoreTile& tile, const float* bias, float scale, void* gradient,
                                    bool bfloat16, double* block_sums, const DeviceStream& where) {
  using namespace cuda;
  return launch_tile(unweighted(tile), {gradient}, where, [&](const TileLaunch& l, auto of_width) {
    constexpr int kWidth = decltype(of_width)::value;
    if (bfloat16)
      launch_sigmoid_gradient<kWidth>(l, bias, scale, static_cast<__nv_bfloat16*>(gradient), block_sums);
    else
      launch_sigmoid_gradient<kWidth>(l, bias, scale, static_cast<float*>(gradient), block_sums);
  });
}

}  // namespace daug::kernels
