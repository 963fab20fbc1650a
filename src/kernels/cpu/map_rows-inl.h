// What map_postprocess does to single rows. Included once for every instruction set, as Highway's own -inl.h files.
#if defined(DAUG_KERNELS_MAP_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DAUG_KERNELS_MAP_ROWS_INL_H
#undef DAUG_KERNELS_MAP_ROWS_INL_H
#else
#define DAUG_KERNELS_MAP_ROWS_INL_H
#endif

#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// Smallest and largest of what was added; NaN when a NaN was among it.
struct Extremes {
  alignas(64) float low[hn::MaxLanes(FullTag())];
  alignas(64) float high[hn::MaxLanes(FullTag())];
  alignas(64) float nan[hn::MaxLanes(FullTag())];  ///< NaN where there was one, else 0

  Extremes() {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      low[i] = std::numeric_limits<float>::infinity();
      high[i] = -low[i];
      nan[i] = 0;
    }
  }

  HWY_INLINE void add(const float* values, std::int64_t count) {
    const FullTag tag;
    auto lowest = hn::Load(tag, low), highest = hn::Load(tag, high), bad = hn::Load(tag, nan);
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const auto v = hn::LoadU(tag, values + i);
      lowest = hn::Min(lowest, v);
      highest = hn::Max(highest, v);
      bad = hn::IfThenElse(hn::IsNaN(v), v, bad);
    }
    hn::Store(lowest, tag, low);
    hn::Store(highest, tag, high);
    hn::Store(bad, tag, nan);
    for (; i < count; ++i) {
      if (values[i] < low[0]) low[0] = values[i];
      if (values[i] > high[0]) high[0] = values[i];
      if (std::isnan(values[i])) nan[0] = values[i];
    }
  }

  /// Joins the lanes.
  void result(float* lowest, float* highest) const {
    *lowest = std::numeric_limits<float>::infinity();
    *highest = -*lowest;
    bool any_nan = false;
    for (std::int64_t i = 0; i < kLanes; ++i) {
      // A minimum that has met a NaN may be one itself.
      if (low[i] < *lowest) *lowest = low[i];
      if (high[i] > *highest) *highest = high[i];
      any_nan = any_nan || std::isnan(nan[i]);
    }
    if (any_nan) *lowest = *highest = std::numeric_limits<float>::quiet_NaN();
  }
};

/// x and an image, each brought to [0, 1] by (value - low) / range when kScale.
struct Pair {
  const float* x;
  const float* image;
  float x_low, x_range, low, range;
};

/// out[i] = sum over channels |x - image|; `plane` floats lie between channels.
template <bool kScale>
HWY_INLINE void difference_row(const Pair& pair, std::int64_t channels, std::int64_t plane, std::int64_t width,
                               float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    auto sum = hn::Zero(tag);
    for (std::int64_t c = 0; c < channels; ++c) {
      auto a = hn::LoadU(tag, pair.x + c * plane + i), b = hn::LoadU(tag, pair.image + c * plane + i);
      if constexpr (kScale) {
        a = hn::Div(hn::Sub(a, hn::Set(tag, pair.x_low)), hn::Set(tag, pair.x_range));
        b = hn::Div(hn::Sub(b, hn::Set(tag, pair.low)), hn::Set(tag, pair.range));
      }
      sum = hn::Add(sum, hn::Abs(hn::Sub(a, b)));
    }
    hn::StoreU(sum, tag, out + i);
  });
}

/// out[i] = weights[0] center[i] + sum over j of weights[j] (before[j][i] + after[j][i]), j = 1 .. radius.
HWY_INLINE void blur_row(const float* weights, std::int64_t radius, const float* center, const float* const* before,
                         const float* const* after, std::int64_t width, float* HWY_RESTRICT out) {
  const auto sums = [&](auto tag, std::int64_t i, auto parts) HWY_ATTR {
    // Several vectors at a time share the weight and the pointers of a distance.
    constexpr std::int64_t kParts = decltype(parts)::value;
    const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag));
    hn::Vec<decltype(tag)> sum[kParts];
    for (std::int64_t k = 0; k < kParts; ++k)
      sum[k] = hn::Mul(hn::Set(tag, weights[0]), hn::LoadU(tag, center + i + k * lanes));
    for (std::int64_t j = 1; j <= radius; ++j) {
      const auto weight = hn::Set(tag, weights[j]);
      const float *above = before[j] + i, *below = after[j] + i;
      for (std::int64_t k = 0; k < kParts; ++k) {
        const auto both = hn::Add(hn::LoadU(tag, above + k * lanes), hn::LoadU(tag, below + k * lanes));
        sum[k] = hn::MulAdd(weight, both, sum[k]);
      }
    }
    for (std::int64_t k = 0; k < kParts; ++k) hn::StoreU(sum[k], tag, out + i + k * lanes);
  };
  constexpr std::int64_t kParts = 4;
  std::int64_t i = 0;
  for (; i + kParts * kLanes <= width; i += kParts * kLanes)
    sums(FullTag(), i, std::integral_constant<std::int64_t, kParts>());
  for (; i + kLanes <= width; i += kLanes) sums(FullTag(), i, std::integral_constant<std::int64_t, 1>());
  for (; i < width; ++i) sums(OneTag(), i, std::integral_constant<std::int64_t, 1>());
}

/// row = clamp((row - mean) * factor, -limit, limit).
HWY_INLINE void standardize_row(float* row, std::int64_t width, float mean, float factor, float limit) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    const auto v = hn::Mul(hn::Sub(hn::LoadU(tag, row + i), hn::Set(tag, mean)), hn::Set(tag, factor));
    const auto held = hn::Clamp(v, hn::Set(tag, -limit), hn::Set(tag, limit));
    hn::StoreU(hn::IfThenElse(hn::IsNaN(v), v, held), tag, row + i);
  });
}

/// out[i] = sum over j of weights[j] rows[j][i].
HWY_INLINE void weighted_row(const float* weights, std::int64_t count, const float* const* rows, std::int64_t width,
                             float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    auto sum = hn::Mul(hn::Set(tag, weights[0]), hn::LoadU(tag, rows[0] + i));
    for (std::int64_t j = 1; j < count; ++j)
      sum = hn::MulAdd(hn::Set(tag, weights[j]), hn::LoadU(tag, rows[j] + i), sum);
    hn::StoreU(sum, tag, out + i);
  });
}

/// Rows that lie interleaved: side by side in memory they fill a vector, where one row would need gathers.
constexpr std::int64_t kQuad = 4;
using QuadTag = hn::CappedTag<float, kQuad>;

/// kQuad rows of `stride` floats -> [width, kQuad].
HWY_INLINE void interleave_rows(const float* rows, std::int64_t stride, std::int64_t width, float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    hn::StoreInterleaved4(hn::LoadU(tag, rows + i), hn::LoadU(tag, rows + stride + i),
                          hn::LoadU(tag, rows + 2 * stride + i), hn::LoadU(tag, rows + 3 * stride + i), tag,
                          out + kQuad * i);
  });
}

/// [width, kQuad] -> kQuad rows of `stride` floats, of which only the first `count` are written.
HWY_INLINE void separate_rows(const float* in, std::int64_t width, std::int64_t count, std::int64_t stride,
                              float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    hn::Vec<decltype(tag)> a, b, c, d;
    hn::LoadInterleaved4(tag, in + kQuad * i, a, b, c, d);
    hn::StoreU(a, tag, out + i);
    if (count > 1) hn::StoreU(b, tag, out + stride + i);
    if (count > 2) hn::StoreU(c, tag, out + 2 * stride + i);
    if (count > 3) hn::StoreU(d, tag, out + 3 * stride + i);
  });
}

/// out[i] = sum over j of weights[i taps + j] in[first[i] + j], for two interleaved quads of rows that lie `in_size`
/// and `out_size` floats apart; kTaps is `taps` where it is known in advance, else 0.
template <int kTaps>
void resample_columns(const std::int64_t* first, const float* weights, std::int64_t taps, std::int64_t out_width,
                      const float* HWY_RESTRICT in, std::int64_t in_size, float* HWY_RESTRICT out,
                      std::int64_t out_size) {
  constexpr QuadTag tag;
  if (kTaps > 0) taps = kTaps;
  for (std::int64_t i = 0; i < out_width; ++i) {
    const float* weight = weights + i * taps;
    for (std::int64_t lane = 0; lane < kQuad; lane += static_cast<std::int64_t>(hn::Lanes(tag))) {
      const float* a = in + kQuad * first[i] + lane;
      const float* b = a + in_size;
      auto factor = hn::Set(tag, weight[0]);
      auto sum_a = hn::Mul(factor, hn::LoadU(tag, a)), sum_b = hn::Mul(factor, hn::LoadU(tag, b));
      for (std::int64_t j = 1; j < taps; ++j) {
        factor = hn::Set(tag, weight[j]);
        sum_a = hn::MulAdd(factor, hn::LoadU(tag, a + kQuad * j), sum_a);
        sum_b = hn::MulAdd(factor, hn::LoadU(tag, b + kQuad * j), sum_b);
      }
      hn::StoreU(sum_a, tag, out + kQuad * i + lane);
      hn::StoreU(sum_b, tag, out + out_size + kQuad * i + lane);
    }
  }
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
