#include "kernels/group_norm_silu.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/group_norm.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/group_norm_silu.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/lanes-inl.h"

namespace daug::kernels {
using namespace group_norm;
}  // namespace daug::kernels

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// y / (1 + e^-y). Beyond 87 the exponential is held: what that costs is below 1e-37 of y.
template <class Tag, class V = hn::Vec<Tag>>
HWY_INLINE V silu(Tag tag, V y) {
  const V held = hn::Min(hn::Max(y, hn::Set(tag, -87.0F)), hn::Set(tag, 87.0F));
  return hn::Div(y, hn::Add(exp_of_minus(tag, held), hn::Set(tag, 1.0F)));
}

template <bool kSilu, class Tag, class V = hn::Vec<Tag>>
HWY_INLINE V normalized(Tag tag, V x, V center, V gain, V bias) {
  const V y = hn::MulAdd(hn::Sub(x, center), gain, bias);
  if constexpr (kSilu) return silu(tag, y);
  return y;
}

/// Adds kRows rows of x - shift and of its square to sum and square [C].
template <int kRows>
HWY_INLINE void add_rows(const float* HWY_RESTRICT x, std::int64_t channels, const float* HWY_RESTRICT shift,
                         float* HWY_RESTRICT sum, float* HWY_RESTRICT square) {
  for_lanes(channels, [&](auto tag, std::int64_t c) HWY_ATTR {
    const auto center = hn::LoadU(tag, shift + c);
    auto total = hn::LoadU(tag, sum + c), squares = hn::LoadU(tag, square + c);
    for (int row = 0; row < kRows; ++row) {
      const auto d = hn::Sub(hn::LoadU(tag, x + row * channels + c), center);
      total = hn::Add(total, d);
      squares = hn::MulAdd(d, d, squares);
    }
    hn::StoreU(total, tag, sum + c);
    hn::StoreU(squares, tag, square + c);
  });
}

/// Sums [C] of x - shift and of its square over `rows` rows of C floats; `partial` has room for 2C floats.
void sum_rows_here(const float* x, std::int64_t rows, std::int64_t channels, const float* shift, float* partial,
                   double* sum, double* square) {
  std::fill_n(sum, channels, 0.0);
  std::fill_n(square, channels, 0.0);
  for (std::int64_t first = 0; first < rows; first += kFloatRows) {
    const std::int64_t count = std::min(kFloatRows, rows - first);
    std::fill_n(partial, 2 * channels, 0.0F);
    std::int64_t row = 0;
    for (; row + 4 <= count; row += 4)
      add_rows<4>(x + (first + row) * channels, channels, shift, partial, partial + channels);
    for (; row < count; ++row) add_rows<1>(x + (first + row) * channels, channels, shift, partial, partial + channels);
    for (std::int64_t c = 0; c < channels; ++c) {
      sum[c] += partial[c];
      square[c] += partial[channels + c];
    }
  }
}

/// The same sums over `count` floats of one channel.
void sum_run_here(const float* x, std::int64_t count, float shift, double* sum, double* square) {
  const FullTag tag;
  const auto center = hn::Set(tag, shift);
  double total = 0, squares = 0;
  std::int64_t i = 0;
  while (i + 2 * kLanes <= count) {
    auto s0 = hn::Zero(tag), s1 = s0, q0 = s0, q1 = s0;
    const std::int64_t end = std::min(count, i + 2 * kFloatRows * kLanes);
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      const auto d0 = hn::Sub(hn::LoadU(tag, x + i), center);
      const auto d1 = hn::Sub(hn::LoadU(tag, x + i + kLanes), center);
      s0 = hn::Add(s0, d0);
      s1 = hn::Add(s1, d1);
      q0 = hn::MulAdd(d0, d0, q0);
      q1 = hn::MulAdd(d1, d1, q1);
    }
    total += hn::GetLane(hn::SumOfLanes(tag, hn::Add(s0, s1)));
    squares += hn::GetLane(hn::SumOfLanes(tag, hn::Add(q0, q1)));
  }
  for (; i < count; ++i) {
    const double d = x[i] - shift;
    total += d;
    squares += d * d;
  }
  *sum = total;
  *square = squares;
}

template <bool kSilu, bool kStream>
HWY_INLINE void write_rows(const float* x, float* y, std::int64_t rows, std::int64_t channels, const Affine& affine) {
  // Last rows first: the end of what the statistics have read is still in the cache. Forward in pieces, as processors
  // fetch ahead that way; a piece stays in the nearest cache while it is written a few vectors of channels at a time,
  // whose changes stay in registers.
  constexpr std::int64_t kPieceFloats = 2048, kAtOnce = 4;
  const FullTag full;
  using V = hn::Vec<FullTag>;
  const std::int64_t piece = std::clamp<std::int64_t>(kPieceFloats / channels, 4, kFloatRows);
  const std::int64_t whole = channels / (kAtOnce * kLanes) * (kAtOnce * kLanes);
  for (std::int64_t end = rows; end > 0; end -= std::min(end, piece)) {
    const std::int64_t begin = std::max<std::int64_t>(0, end - piece);
    for (std::int64_t c = 0; c < whole; c += kAtOnce * kLanes) {
      V center[kAtOnce], gain[kAtOnce], bias[kAtOnce];
      for (std::int64_t j = 0; j < kAtOnce; ++j) {
        center[j] = hn::LoadU(full, affine.center + c + j * kLanes);
        gain[j] = hn::LoadU(full, affine.gain + c + j * kLanes);
        bias[j] = hn::LoadU(full, affine.bias + c + j * kLanes);
      }
      for (std::int64_t i = begin * channels + c; i < end * channels; i += channels)
        for (std::int64_t j = 0; j < kAtOnce; ++j) {
          const V result = normalized<kSilu>(full, hn::LoadU(full, x + i + j * kLanes), center[j], gain[j], bias[j]);
          if constexpr (kStream)
            hn::Stream(result, full, y + i + j * kLanes);
          else
            hn::StoreU(result, full, y + i + j * kLanes);
        }
    }
    for_lanes(channels - whole, [&](auto tag, std::int64_t c) HWY_ATTR {
      c += whole;
      const auto center = hn::LoadU(tag, affine.center + c), gain = hn::LoadU(tag, affine.gain + c);
      const auto bias = hn::LoadU(tag, affine.bias + c);
      for (std::int64_t i = begin * channels + c; i < end * channels; i += channels)
        hn::StoreU(normalized<kSilu>(tag, hn::LoadU(tag, x + i), center, gain, bias), tag, y + i);
    });
  }
}

void write_rows_here(const float* x, float* y, std::int64_t rows, std::int64_t channels, const Affine& affine, bool act,
                     bool streams) {
  if (streams && channels % kLanes == 0 && reinterpret_cast<std::uintptr_t>(y) % (sizeof(float) * kLanes) == 0) {
    act ? write_rows<true, true>(x, y, rows, channels, affine) : write_rows<false, true>(x, y, rows, channels, affine);
    hwy::FlushStream();
  } else {
    act ? write_rows<true, false>(x, y, rows, channels, affine)
        : write_rows<false, false>(x, y, rows, channels, affine);
  }
}

template <bool kSilu>
HWY_INLINE void write_run(const float* x, float* y, std::int64_t count, float center, float gain, float bias) {
  for_lanes(count, [&](auto tag, std::int64_t i) HWY_ATTR {
    const auto result =
        normalized<kSilu>(tag, hn::LoadU(tag, x + i), hn::Set(tag, center), hn::Set(tag, gain), hn::Set(tag, bias));
    hn::StoreU(result, tag, y + i);
  });
}

void write_run_here(const float* x, float* y, std::int64_t count, float center, float gain, float bias, bool act) {
  act ? write_run<true>(x, y, count, center, gain, bias) : write_run<false>(x, y, count, center, gain, bias);
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {

HWY_EXPORT(sum_rows_here);
HWY_EXPORT(sum_run_here);
HWY_EXPORT(write_rows_here);
HWY_EXPORT(write_run_here);

/// Positions from which a group's approximate mean is taken.
constexpr std::int64_t kProbes = 8;

/// From the sums of x - pivot_c [C] to the moments of the group that starts at channel `first` and the affine change of
/// each of its channels. The pivots stand for `origin`, an approximate mean of x + offset, up to their rounding.
void finish_group(const Sample& sample, const GroupMoments& moments, std::int64_t first, double origin,
                  const float* pivot, const double* sum, const double* square, const Affine& affine) {
  const GroupNormSilu& p = sample.p;
  const std::int64_t width = p.channels / p.groups;
  const auto positions = static_cast<double>(p.positions);
  double total = 0, squares = 0;
  for (std::int64_t c = 0; c < width; ++c) {
    // (x + offset) - origin = (x - pivot) + lacking
    const double lacking = pivot[c] + sample.offset(first + c) - origin;
    total += sum[c] + positions * lacking;
    squares += square[c] + lacking * (2 * sum[c] + positions * lacking);
  }
  const double count = positions * static_cast<double>(width);
  const double above = total / count, mean = origin + above;
  const double variance = squares / count - above * above;
  // NaN stays NaN.
  const double inverse = 1 / std::sqrt((variance < 0 ? 0 : variance) + p.eps);
  if (moments.mean) {
    const std::int64_t at = sample.index * p.groups + first / width;
    moments.mean[at] = mean;
    moments.inverse_deviation[at] = inverse;
  }
  set_affine(sample, first, mean, inverse, affine);
}

/// Mean of x + offset over a few positions of each channel of a group.
double probed_mean(const Sample& sample, const float* x, std::int64_t first, std::int64_t position_stride,
                   std::int64_t channel_stride) {
  const GroupNormSilu& p = sample.p;
  const std::int64_t width = p.channels / p.groups, probes = std::min(kProbes, p.positions);
  double total = 0;
  for (std::int64_t c = first; c < first + width; ++c) {
    double sum = 0;
    for (std::int64_t i = 0; i < probes; ++i) sum += x[i * p.positions / probes * position_stride + c * channel_stride];
    total += sum / static_cast<double>(probes) + sample.offset(c);
  }
  return total / static_cast<double>(width);
}

/// One group of one sample, [C/G, P] in a row.
void normalize_group(const Sample& sample, const GroupMoments& moments, std::int64_t group) {
  thread_local Scratch scratch;
  const GroupNormSilu& p = sample.p;
  const std::int64_t width = p.channels / p.groups, first = group * width;
  const std::int64_t start = sample.index * p.channels * p.positions;
  const float* x = p.input + start + first * p.positions;
  float* y = p.output + start + first * p.positions;
  double* sum = scratch.get_doubles(2 * width);
  float* pivot = scratch.get_floats(4 * width);
  const Affine affine{pivot + width, pivot + 2 * width, pivot + 3 * width};
  const double origin = probed_mean(sample, p.input + start, first, 1, p.positions);
  for (std::int64_t c = 0; c < width; ++c) {
    pivot[c] = static_cast<float>(origin - sample.offset(first + c));
    HWY_DYNAMIC_DISPATCH(sum_run_here)(x + c * p.positions, p.positions, pivot[c], sum + c, sum + width + c);
  }
  finish_group(sample, moments, first, origin, pivot, sum, sum + width, affine);
  for (std::int64_t c = width; c-- > 0;)  // last first, as it is still in the cache
    HWY_DYNAMIC_DISPATCH(write_run_here)
  (x + c * p.positions, y + c * p.positions, p.positions, affine.center[c], affine.gain[c], affine.bias[c], p.silu);
}

/// One sample, [P, C] in a row, by blocks of rows whose sums are added in order: whoever computes them.
void normalize_sample(const Sample& sample, const GroupMoments& moments, const Parallel& parallel) {
  thread_local Scratch scratch;
  const GroupNormSilu& p = sample.p;
  const std::int64_t channels = p.channels, width = channels / p.groups;
  const float* x = p.input + sample.index * p.positions * channels;
  float* y = p.output + sample.index * p.positions * channels;
  // A result that no core's cache holds is not read into it only to be written over.
  constexpr std::int64_t kStreamedFloats = 1 << 20;
  const bool streams = p.output != p.input && p.batch * p.positions * p.channels >= kStreamedFloats;
  const Blocks cut = blocks_of(p);
  const std::int64_t rows = cut.rows, blocks = cut.count, grain = cut.grain;

  double* sums = scratch.get_doubles((blocks + 1) * 2 * channels + p.groups);
  double* origin = sums + (blocks + 1) * 2 * channels;
  float* pivot = scratch.get_floats(4 * channels);
  const Affine affine{pivot + channels, pivot + 2 * channels, pivot + 3 * channels};
  for (std::int64_t group = 0; group < p.groups; ++group) {
    origin[group] = probed_mean(sample, x, group * width, channels, 1);
    for (std::int64_t c = group * width; c < (group + 1) * width; ++c)
      pivot[c] = static_cast<float>(origin[group] - sample.offset(c));
  }
  parallel(blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch partial;
    for (std::int64_t b = begin; b < end; ++b) {
      double* sum = sums + (b + 1) * 2 * channels;
      HWY_DYNAMIC_DISPATCH(sum_rows_here)
      (x + b * rows * channels, std::min(rows, p.positions - b * rows), channels, pivot,
       partial.get_floats(2 * channels), sum, sum + channels);
    }
  });
  std::fill_n(sums, 2 * channels, 0.0);
  for (std::int64_t b = 1; b <= blocks; ++b)
    for (std::int64_t i = 0; i < 2 * channels; ++i) sums[i] += sums[b * 2 * channels + i];
  for (std::int64_t group = 0; group < p.groups; ++group) {
    const std::int64_t first = group * width;
    finish_group(sample, moments, first, origin[group], pivot + first, sums + first, sums + channels + first,
                 affine.from(first));
  }
  parallel(blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t from = begin * rows, to = std::min(p.positions, end * rows);
    HWY_DYNAMIC_DISPATCH(write_rows_here)
    (x + from * channels, y + from * channels, to - from, channels, affine, p.silu, streams);
  });
}

}  // namespace

void group_norm_silu(const GroupNormSilu& problem, const Parallel& parallel, const GroupMoments& moments) {
  if (problem.positions * problem.channels == 0) return;
  share_out(
      problem, parallel,
      [&](std::int64_t n, std::int64_t group) {
        normalize_group({problem, n}, moments, group);
      },
      [&](std::int64_t n, const Parallel& threads) {
        normalize_sample({problem, n}, moments, threads);
      });
}

}  // namespace daug::kernels
#endif
