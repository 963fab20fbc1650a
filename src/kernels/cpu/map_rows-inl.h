// What map_postprocess does to single rows. Included once for every instruction set, as Highway's own -inl.h files.
#if defined(DAUG_KERNELS_MAP_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DAUG_KERNELS_MAP_ROWS_INL_H
#undef DAUG_KERNELS_MAP_ROWS_INL_H
#else
#define DAUG_KERNELS_MAP_ROWS_INL_H
#endif

#include <limits>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// Smallest and largest of what was added; NaN when a NaN was among it.
struct Extremes {
  alignas(64) float low[hn::MaxLanes(FullTag())];
  alignas(64) float high[hn::MaxLanes(FullTag())];
  alignas(64) float nan[hn::MaxLanes(FullTag())];  ///< not 0 where there was one

  Extremes() {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      low[i] = std::numeric_limits<float>::infinity();
      high[i] = -low[i];
      nan[i] = 0;
    }
  }

  HWY_INLINE void add(const float* values, std::int64_t count) {
    for_lanes(count, [&](auto tag, std::int64_t i) HWY_ATTR {
      const auto v = hn::LoadU(tag, values + i);
      hn::Store(hn::Min(hn::Load(tag, low), v), tag, low);
      hn::Store(hn::Max(hn::Load(tag, high), v), tag, high);
      hn::Store(hn::IfThenElse(hn::IsNaN(v), hn::Set(tag, 1.0F), hn::Load(tag, nan)), tag, nan);
    });
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
      any_nan = any_nan || nan[i] != 0;
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
template <class Before, class After>
HWY_INLINE void blur_row(const float* weights, std::int64_t radius, const float* center, const Before& before,
                         const After& after, std::int64_t width, float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    auto sum = hn::Mul(hn::Set(tag, weights[0]), hn::LoadU(tag, center + i));
    for (std::int64_t j = 1; j <= radius; ++j) {
      const auto both = hn::Add(hn::LoadU(tag, before(j) + i), hn::LoadU(tag, after(j) + i));
      sum = hn::MulAdd(hn::Set(tag, weights[j]), both, sum);
    }
    hn::StoreU(sum, tag, out + i);
  });
}

/// row = clamp((row - mean) * factor, -limit, limit).
HWY_INLINE void standardize_row(float* row, std::int64_t width, float mean, float factor, float limit) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    const auto v = hn::Mul(hn::Sub(hn::LoadU(tag, row + i), hn::Set(tag, mean)), hn::Set(tag, factor));
    const auto held = hn::Clamp(v, hn::Set(tag, -limit), hn::Set(tag, limit));
    hn::StoreU(hn::IfThenElse(hn::IsNaN(v), v, held), tag, row + i);
  });
}

/// out[i] = sum over j of weights[j] row(j)[i].
template <class Row>
HWY_INLINE void weighted_row(const float* weights, std::int64_t count, const Row& row, std::int64_t width,
                             float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    auto sum = hn::Mul(hn::Set(tag, weights[0]), hn::LoadU(tag, row(0) + i));
    for (std::int64_t j = 1; j < count; ++j)
      sum = hn::MulAdd(hn::Set(tag, weights[j]), hn::LoadU(tag, row(j) + i), sum);
    hn::StoreU(sum, tag, out + i);
  });
}

/// Rows that are resampled together: side by side in memory they fill a vector, where one row would need gathers.
constexpr std::int64_t kRows = 4;
using RowsTag = hn::CappedTag<float, kRows>;

/// [kRows, stride] -> [width, kRows].
HWY_INLINE void interleave_rows(const float* rows, std::int64_t stride, std::int64_t width, float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    hn::StoreInterleaved4(hn::LoadU(tag, rows + i), hn::LoadU(tag, rows + stride + i),
                          hn::LoadU(tag, rows + 2 * stride + i), hn::LoadU(tag, rows + 3 * stride + i), tag,
                          out + kRows * i);
  });
}

/// [width, kRows] -> [kRows, stride], of which only the first `count` rows are written.
HWY_INLINE void separate_rows(const float* in, std::int64_t width, std::int64_t count, std::int64_t stride,
                              float* HWY_RESTRICT out) {
  for_lanes(width, [&](auto tag, std::int64_t i) HWY_ATTR {
    hn::Vec<decltype(tag)> a, b, c, d;
    hn::LoadInterleaved4(tag, in + kRows * i, a, b, c, d);
    hn::StoreU(a, tag, out + i);
    if (count > 1) hn::StoreU(b, tag, out + stride + i);
    if (count > 2) hn::StoreU(c, tag, out + 2 * stride + i);
    if (count > 3) hn::StoreU(d, tag, out + 3 * stride + i);
  });
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
