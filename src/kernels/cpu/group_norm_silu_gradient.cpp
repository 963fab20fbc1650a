#include <algorithm>

#include "kernels/cpu/group_norm.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/group_norm_silu_gradient.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef DAUG_KERNELS_GROUP_NORM_GRADIENT_ONCE
#define DAUG_KERNELS_GROUP_NORM_GRADIENT_ONCE
namespace daug::kernels {

using namespace group_norm;

/// Sums of each channel of a sample: ds, ds (x - center) and x - center.
constexpr std::int64_t kSums = 3;

/// What is computed of each channel of a sample: ds from t = (x - center) gain + bias, and then
/// dx = gain ds - (x - center) slope - constant.
struct Channels {
  Affine affine;
  float* slope;
  float* constant;

  Channels from(std::int64_t channel) const { return {affine.from(channel), slope + channel, constant + channel}; }
};

}  // namespace daug::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// The derivative of SiLU, to 1e-6 for |t| <= 1e30. The exponential is held as in the function itself.
template <class Tag, class V = hn::Vec<Tag>>
HWY_INLINE V silu_slope(Tag tag, V t) {
  const V held = hn::Min(hn::Max(t, hn::Set(tag, -87.0F)), hn::Set(tag, 87.0F));
  const V one = hn::Set(tag, 1.0F);
  const V e = exp_of_minus(tag, held);
  const V s = hn::Div(one, hn::Add(e, one));
  // 1 - s as e s: the difference would lose the digits that t multiplies.
  return hn::Mul(s, hn::MulAdd(t, hn::Mul(e, s), one));
}

/// Sums of some lanes: of ds, ds (x - center) and x - center.
template <class V>
struct LaneSums {
  V ds, product, x;
};

/// Adds the values at x and dy to the sums and writes their ds, which without SiLU are dy.
template <bool kSilu, class Tag, class V = hn::Vec<Tag>>
HWY_INLINE void add_gradient(Tag tag, const float* x, const float* dy, float* ds, V center, V gain, V bias,
                             LaneSums<V>& sums) {
  const V d = hn::Sub(hn::LoadU(tag, x), center);
  V s = hn::LoadU(tag, dy);
  if constexpr (kSilu) {
    s = hn::Mul(s, silu_slope(tag, hn::MulAdd(d, gain, bias)));
    hn::StoreU(s, tag, ds);
  }
  sums.ds = hn::Add(sums.ds, s);
  sums.product = hn::MulAdd(s, d, sums.product);
  sums.x = hn::Add(sums.x, d);
}

/// Adds kRows rows to the sums [3, C].
template <bool kSilu, int kRows>
HWY_INLINE void add_gradient_rows(const float* HWY_RESTRICT x, const float* HWY_RESTRICT dy, float* HWY_RESTRICT ds,
                                  std::int64_t channels, const Affine& affine, float* HWY_RESTRICT sum) {
  for_lanes(channels, [&](auto tag, std::int64_t c) HWY_ATTR {
    const auto center = hn::LoadU(tag, affine.center + c);
    const auto gain = hn::LoadU(tag, affine.gain + c), bias = hn::LoadU(tag, affine.bias + c);
    LaneSums<hn::Vec<decltype(tag)>> sums = {hn::LoadU(tag, sum + c), hn::LoadU(tag, sum + channels + c),
                                             hn::LoadU(tag, sum + 2 * channels + c)};
    for (int row = 0; row < kRows; ++row) {
      const std::int64_t at = row * channels + c;
      add_gradient<kSilu>(tag, x + at, dy + at, ds + at, center, gain, bias, sums);
    }
    hn::StoreU(sums.ds, tag, sum + c);
    hn::StoreU(sums.product, tag, sum + channels + c);
    hn::StoreU(sums.x, tag, sum + 2 * channels + c);
  });
}

template <bool kSilu>
HWY_INLINE void sum_gradient_rows(const float* x, const float* dy, float* ds, std::int64_t rows, std::int64_t channels,
                                  const Affine& affine, float* partial, double* sum) {
  std::fill_n(sum, kSums * channels, 0.0);
  for (std::int64_t first = 0; first < rows; first += kFloatRows) {
    const std::int64_t last = std::min(first + kFloatRows, rows);
    std::fill_n(partial, kSums * channels, 0.0F);
    std::int64_t row = first;
    for (; row + 4 <= last; row += 4) {
      const std::int64_t at = row * channels;
      add_gradient_rows<kSilu, 4>(x + at, dy + at, ds + at, channels, affine, partial);
    }
    for (; row < last; ++row) {
      const std::int64_t at = row * channels;
      add_gradient_rows<kSilu, 1>(x + at, dy + at, ds + at, channels, affine, partial);
    }
    for (std::int64_t i = 0; i < kSums * channels; ++i) sum[i] += partial[i];
  }
}

/// Sums [3, C] over `rows` rows of C floats, whose ds are written with SiLU; `partial` has room for 3C floats.
void sum_gradient_rows_here(const float* x, const float* dy, float* ds, std::int64_t rows, std::int64_t channels,
                            const Affine& affine, bool act, float* partial, double* sum) {
  act ? sum_gradient_rows<true>(x, dy, ds, rows, channels, affine, partial, sum)
      : sum_gradient_rows<false>(x, dy, ds, rows, channels, affine, partial, sum);
}

template <bool kSilu>
HWY_INLINE void sum_gradient_run(const float* x, const float* dy, float* ds, std::int64_t count, float center,
                                 float gain, float bias, std::int64_t stride, double* sum) {
  double sum_ds = 0, sum_product = 0, sum_x = 0;
  const auto add = [&](auto tag, std::int64_t begin, std::int64_t end) HWY_ATTR {
    const auto middle = hn::Set(tag, center), factor = hn::Set(tag, gain), added = hn::Set(tag, bias);
    LaneSums<hn::Vec<decltype(tag)>> sums = {hn::Zero(tag), hn::Zero(tag), hn::Zero(tag)};
    for (std::int64_t i = begin; i < end; i += static_cast<std::int64_t>(hn::Lanes(tag)))
      add_gradient<kSilu>(tag, x + i, dy + i, ds + i, middle, factor, added, sums);
    sum_ds += hn::GetLane(hn::SumOfLanes(tag, sums.ds));
    sum_product += hn::GetLane(hn::SumOfLanes(tag, sums.product));
    sum_x += hn::GetLane(hn::SumOfLanes(tag, sums.x));
  };
  const std::int64_t whole = count / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kFloatRows * kLanes)
    add(FullTag(), i, std::min(whole, i + kFloatRows * kLanes));
  add(OneTag(), whole, count);
  sum[0] = sum_ds;
  sum[stride] = sum_product;
  sum[2 * stride] = sum_x;
}

/// The same sums over `count` floats of one channel, `stride` apart.
void sum_gradient_run_here(const float* x, const float* dy, float* ds, std::int64_t count, float center, float gain,
                           float bias, bool act, std::int64_t stride, double* sum) {
  act ? sum_gradient_run<true>(x, dy, ds, count, center, gain, bias, stride, sum)
      : sum_gradient_run<false>(x, dy, ds, count, center, gain, bias, stride, sum);
}

template <class V>
HWY_INLINE V finished(V x, V ds, V center, V gain, V slope, V constant) {
  return hn::MulSub(ds, gain, hn::MulAdd(hn::Sub(x, center), slope, constant));
}

/// dx of `rows` rows; ds may lie in dx.
void finish_rows_here(const float* x, const float* ds, float* dx, std::int64_t rows, std::int64_t channels,
                      const Channels& of) {
  // Last rows first, in pieces, as the forward pass writes.
  for (std::int64_t end = rows; end > 0; end -= std::min(end, kFloatRows))
    for (std::int64_t row = std::max<std::int64_t>(0, end - kFloatRows); row < end; ++row) {
      const std::int64_t at = row * channels;
      for_lanes(channels, [&](auto tag, std::int64_t c) HWY_ATTR {
        const auto result =
            finished(hn::LoadU(tag, x + at + c), hn::LoadU(tag, ds + at + c), hn::LoadU(tag, of.affine.center + c),
                     hn::LoadU(tag, of.affine.gain + c), hn::LoadU(tag, of.slope + c), hn::LoadU(tag, of.constant + c));
        hn::StoreU(result, tag, dx + at + c);
      });
    }
}

/// dx of `count` floats of one channel.
void finish_run_here(const float* x, const float* ds, float* dx, std::int64_t count, float center, float gain,
                     float slope, float constant) {
  for_lanes(count, [&](auto tag, std::int64_t i) HWY_ATTR {
    const auto result = finished(hn::LoadU(tag, x + i), hn::LoadU(tag, ds + i), hn::Set(tag, center),
                                 hn::Set(tag, gain), hn::Set(tag, slope), hn::Set(tag, constant));
    hn::StoreU(result, tag, dx + i);
  });
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {

HWY_EXPORT(sum_gradient_rows_here);
HWY_EXPORT(sum_gradient_run_here);
HWY_EXPORT(finish_rows_here);
HWY_EXPORT(finish_run_here);

/// `width` channels of a sample, with the affine change of those of the groups from channel `first` on.
Channels channels_of(const GroupNormSiluGradient& g, std::int64_t n, std::int64_t first, std::int64_t width,
                     Scratch& scratch) {
  const GroupNormSilu& p = g.forward;
  const std::int64_t group_width = p.channels / p.groups;
  float* room = scratch.get_floats(5 * width);
  const Channels channels{{room, room + width, room + 2 * width}, room + 3 * width, room + 4 * width};
  for (std::int64_t c = first; c < first + width; c += group_width) {
    const std::int64_t at = n * p.groups + c / group_width;
    set_affine({p, n}, c, g.mean[at], g.inverse_deviation[at], channels.affine.from(c - first));
  }
  return channels;
}

/// From the sums of the channels of the group that starts at channel `first`, of which each kind is `stride` from the
/// last, to all gradients but dx, and to what that is made of. What sample n adds to the gradients of weight and bias
/// goes to terms [N, 2, C].
void finish_group(const GroupNormSiluGradient& g, std::int64_t n, std::int64_t first, const double* sum,
                  std::int64_t stride, const Channels& channels, double* terms) {
  const GroupNormSilu& p = g.forward;
  const Sample sample{p, n};
  const std::int64_t width = p.channels / p.groups, group = n * p.groups + first / width;
  const double mean = g.mean[group], inverse = g.inverse_deviation[group];
  const auto positions = static_cast<double>(p.positions);
  // What the center in float32 is above the mean: xhat = (x - center + above) inverse.
  const auto above = [&](std::int64_t c) { return channels.affine.center[c] - (mean - sample.offset(first + c)); };
  const auto sum_normed = [&](std::int64_t c) { return inverse * (sum[stride + c] + above(c) * sum[c]); };  // xhat ds
  double mean_ds = 0, mean_normed = 0;  // of g ds and g ds xhat
  for (std::int64_t c = 0; c < width; ++c) {
    const double gain = sample.weight(first + c) * sample.factor(first + c);
    mean_ds += gain * sum[c];
    mean_normed += gain * sum_normed(c);
  }
  mean_ds /= positions * static_cast<double>(width);
  mean_normed /= positions * static_cast<double>(width);
  const double slope = inverse * inverse * mean_normed;
  for (std::int64_t c = 0; c < width; ++c) {
    const std::int64_t channel = first + c, at = n * p.channels + channel;
    const double weight = sample.weight(channel), factor = sample.factor(channel);
    channels.slope[c] = static_cast<float>(slope);
    channels.constant[c] = static_cast<float>(inverse * mean_ds + above(c) * slope);
    terms[2 * n * p.channels + channel] = factor * sum_normed(c);
    terms[(2 * n + 1) * p.channels + channel] = factor * sum[c];
    if (g.shift_gradient) g.shift_gradient[at] = static_cast<float>(sum[c]);
    if (g.scale_gradient)
      g.scale_gradient[at] = static_cast<float>(weight * sum_normed(c) + sample.bias(channel) * sum[c]);
    if (g.offset_gradient)
      g.offset_gradient[at] = static_cast<float>(inverse * (weight * factor * sum[c] - positions * mean_ds) -
                                                 slope * (sum[2 * stride + c] + positions * above(c)));
  }
}

/// One group of one sample, [C/G, P] in a row.
void differentiate_group(const GroupNormSiluGradient& g, std::int64_t n, std::int64_t group, double* terms) {
  thread_local Scratch scratch;
  const GroupNormSilu& p = g.forward;
  const std::int64_t width = p.channels / p.groups, first = group * width, positions = p.positions;
  const std::int64_t start = (n * p.channels + first) * positions;
  const float *x = p.input + start, *dy = g.output_gradient + start;
  float* dx = g.input_gradient + start;
  double* sum = scratch.get_doubles(kSums * width);
  const Channels channels = channels_of(g, n, first, width, scratch);
  const Affine& affine = channels.affine;
  for (std::int64_t c = 0; c < width; ++c) {
    const std::int64_t at = c * positions;
    HWY_DYNAMIC_DISPATCH(sum_gradient_run_here)
    (x + at, dy + at, dx + at, positions, affine.center[c], affine.gain[c], affine.bias[c], p.silu, width, sum + c);
  }
  finish_group(g, n, first, sum, width, channels, terms);
  for (std::int64_t c = width; c-- > 0;) {  // last first, as it is still in the cache
    const std::int64_t at = c * positions;
    HWY_DYNAMIC_DISPATCH(finish_run_here)
    (x + at, (p.silu ? dx : dy) + at, dx + at, positions, affine.center[c], affine.gain[c], channels.slope[c],
     channels.constant[c]);
  }
}

/// One sample, [P, C] in a row, by blocks of rows whose sums are added in order: whoever computes them.
void differentiate_sample(const GroupNormSiluGradient& g, std::int64_t n, double* terms, const Parallel& parallel) {
  thread_local Scratch scratch;
  const GroupNormSilu& p = g.forward;
  const std::int64_t width = p.channels / p.groups, numbers = kSums * p.channels;
  const std::int64_t start = n * p.channels * p.positions;
  const float *x = p.input + start, *dy = g.output_gradient + start;
  float* dx = g.input_gradient + start;
  const Blocks blocks = blocks_of(p);
  double* sums = scratch.get_doubles((blocks.count + 1) * numbers);
  const Channels channels = channels_of(g, n, 0, p.channels, scratch);
  parallel(blocks.count, blocks.grain, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch partial;
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t row = b * blocks.rows, at = row * p.channels;
      HWY_DYNAMIC_DISPATCH(sum_gradient_rows_here)
      (x + at, dy + at, dx + at, std::min(blocks.rows, p.positions - row), p.channels, channels.affine, p.silu,
       partial.get_floats(numbers), sums + (b + 1) * numbers);
    }
  });
  std::fill_n(sums, numbers, 0.0);
  for (std::int64_t b = 1; b <= blocks.count; ++b)
    for (std::int64_t i = 0; i < numbers; ++i) sums[i] += sums[b * numbers + i];
  for (std::int64_t first = 0; first < p.channels; first += width)
    finish_group(g, n, first, sums + first, p.channels, channels.from(first), terms);
  parallel(blocks.count, blocks.grain, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t from = begin * blocks.rows, to = std::min(p.positions, end * blocks.rows);
    const std::int64_t at = from * p.channels;
    HWY_DYNAMIC_DISPATCH(finish_rows_here)
    (x + at, (p.silu ? dx : dy) + at, dx + at, to - from, p.channels, channels);
  });
}

}  // namespace

void group_norm_silu_gradient(const GroupNormSiluGradient& problem, const Parallel& parallel) {
  thread_local Scratch scratch;
  const GroupNormSilu& p = problem.forward;
  const std::int64_t channels = p.channels, rows = p.batch * channels;
  double* terms = scratch.get_doubles(2 * rows);
  if (p.positions > 0 && channels > 0) {
    share_out(
        p, parallel, [&](std::int64_t n, std::int64_t group) { differentiate_group(problem, n, group, terms); },
        [&](std::int64_t n, const Parallel& threads) { differentiate_sample(problem, n, terms, threads); });
  } else {
    std::fill_n(terms, 2 * rows, 0.0);
    for (float* gradient : {problem.offset_gradient, problem.scale_gradient, problem.shift_gradient})
      if (gradient) std::fill_n(gradient, rows, 0.0F);
  }
  const auto add_up = [&](std::int64_t of_first, float* gradient) {
    if (!gradient) return;
    for (std::int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (std::int64_t n = 0; n < p.batch; ++n) sum += terms[of_first + 2 * n * channels + c];
      gradient[c] = static_cast<float>(sum);
    }
  };
  add_up(0, problem.weight_gradient);
  add_up(channels, problem.bias_gradient);
}

}  // namespace daug::kernels
#endif
