#include "kernels/map_postprocess.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/targets.h"
#include "kernels/map_plan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/map_postprocess.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "kernels/cpu/map_rows-inl.h"

#ifndef DAUG_KERNELS_MAP_PLAN
#define DAUG_KERNELS_MAP_PLAN
namespace daug::kernels {

/// Rows of the result that are made together: two quads.
constexpr std::int64_t kRows = 8;

/// What every plane of a call shares.
struct MapPlan {
  Blur vertical, horizontal;
  Resampling rows, columns;
  std::int64_t stride = 0;      ///< of rows in a plane's scratch memory
  std::vector<float> x_bounds;  ///< lowest and highest value of each x, when images are scaled

  std::int64_t ring() const { return 2 * vertical.radius + 1; }
};

/// A thread's memory for the plane it works on.
struct MapScratch {
  std::vector<float> row;                   ///< a difference row with its reflected ends
  std::vector<float> blurred;               ///< ring of rows blurred along the row
  std::vector<float> smooth;                ///< ring of finished rows of the map
  std::vector<float> resized;               ///< kRows rows of the result's height
  std::vector<float> columns;               ///< the same, as interleaved quads
  std::vector<float> result;                ///< interleaved quads of the result
  std::vector<float> plane;                 ///< the whole map, where a quantile is asked for
  std::vector<const float*> before, after;  ///< rows, or shifts of one, around what is blurred or resampled
};

inline bool keeps_plane(const MapPostprocess& p) { return p.scaling == MapScaling::kMinMax && p.upper_quantile < 1; }

/// Interpolated linearly between the two values next to it, as numpy does. Reorders the values; count >= 1.
inline float quantile(float* values, std::int64_t count, double q) {
  const double place = q * static_cast<double>(count - 1);
  const auto below = static_cast<std::int64_t>(place);
  std::nth_element(values, values + below, values + count);
  const double low = values[below];
  if (below + 1 == count) return values[below];
  const double high = *std::min_element(values + below + 1, values + count);
  return static_cast<float>(low + (place - static_cast<double>(below)) * (high - low));
}

}  // namespace daug::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// One map on its way through the buffers. Rows are made when a row of the result asks for them.
struct Plane {
  const MapPostprocess& p;
  const MapPlan& plan;
  MapScratch& scratch;
  std::int64_t map;
  Pair pair;
  Extremes extremes = {};
  std::int64_t blurred_rows = 0, smooth_rows = 0;

  float* blurred(std::int64_t y) { return scratch.blurred.data() + y % plan.ring() * plan.stride; }
  float* smooth(std::int64_t y) { return scratch.smooth.data() + y % plan.rows.taps * plan.stride; }
  const float** before() { return scratch.before.data(); }
  const float** after() { return scratch.after.data(); }

  void make_difference(std::int64_t y, float* out) {
    Pair row = pair;
    row.image += y * p.width;
    if (!p.x) {
      std::copy_n(row.image, p.width, out);
      return;
    }
    row.x += y * p.width;
    if (p.scale_images)
      difference_row<true>(row, p.channels, p.height * p.width, p.width, out);
    else
      difference_row<false>(row, p.channels, p.height * p.width, p.width, out);
  }

  void make_blurred(std::int64_t y) {
    const std::int64_t radius = plan.horizontal.radius;
    if (radius == 0) return make_difference(y, blurred(y));
    float* row = scratch.row.data() + radius;
    make_difference(y, row);
    for (std::int64_t j = 1; j <= radius; ++j) {
      row[-j] = row[j];
      row[p.width - 1 + j] = row[p.width - 1 - j];
      before()[j] = row - j;
      after()[j] = row + j;
    }
    blur_row(plan.horizontal.weights.data(), radius, row, before(), after(), p.width, blurred(y));
  }

  void make_smooth(std::int64_t y) {
    const std::int64_t radius = plan.vertical.radius, last = p.height - 1;
    for (; blurred_rows <= std::min(last, y + radius); ++blurred_rows) make_blurred(blurred_rows);
    float* out = smooth(y);
    for (std::int64_t j = 1; j <= radius; ++j) {
      before()[j] = blurred(std::abs(y - j));
      after()[j] = blurred(last - std::abs(last - (y + j)));
    }
    blur_row(plan.vertical.weights.data(), radius, blurred(y), before(), after(), p.width, out);
    if (p.scaling == MapScaling::kMinMax) extremes.add(out, p.width);
    if (keeps_plane(p)) std::copy_n(out, p.width, scratch.plane.data() + y * p.width);
    if (p.scaling == MapScaling::kStandard) standardize_row(out, p.width, p.mean[map], p.factor[map], p.limit);
  }

  void make_smooth_until(std::int64_t end) {
    for (; smooth_rows < end; ++smooth_rows) make_smooth(smooth_rows);
  }

  /// Rows [y, y + count) of the result, at most kRows, into `out`.
  void make_result(std::int64_t y, std::int64_t count, float* out) {
    const Resampling& rows = plan.rows;
    for (std::int64_t i = y; i < y + count; ++i) {
      const std::int64_t first = rows.first[static_cast<std::size_t>(i)];
      make_smooth_until(first + rows.taps);
      for (std::int64_t j = 0; j < rows.taps; ++j) before()[j] = smooth(first + j);
      weighted_row(rows.weights.data() + i * rows.taps, rows.taps, before(), p.width,
                   scratch.resized.data() + (i - y) * plan.stride);
    }
    const std::int64_t in_size = kQuad * p.width, out_size = kQuad * p.out_width;
    for (std::int64_t quad = 0; quad < 2; ++quad)
      interleave_rows(scratch.resized.data() + quad * kQuad * plan.stride, plan.stride, p.width,
                      scratch.columns.data() + quad * in_size);
    const Resampling& columns = plan.columns;
    const auto resample = columns.taps == 2   ? &resample_columns<2>
                          : columns.taps == 3 ? &resample_columns<3>
                          : columns.taps == 4 ? &resample_columns<4>
                                              : &resample_columns<0>;
    resample(columns.first.data(), columns.weights.data(), columns.taps, p.out_width, scratch.columns.data(), in_size,
             scratch.result.data(), out_size);
    for (std::int64_t quad = 0; quad * kQuad < count; ++quad)
      separate_rows(scratch.result.data() + quad * out_size, p.out_width, std::min(kQuad, count - quad * kQuad),
                    p.out_width, out + quad * kQuad * p.out_width);
  }

  /// The weights of resampling add up to 1, so that scaling may come after it, once the extremes are known.
  void scale_result(float* out) const {
    float low = 0, high = 0;
    extremes.result(&low, &high);
    if (keeps_plane(p) && high > low)  // false with a NaN
      high = quantile(scratch.plane.data(), p.height * p.width, p.upper_quantile);
    const float range = high - low;
    const std::int64_t count = p.out_height * p.out_width;
    if (!(range > 0)) {
      std::fill_n(out, count, 0.0F);
      return;
    }
    for_lanes(count, [&](auto tag, std::int64_t i) HWY_ATTR {
      hn::StoreU(hn::Div(hn::Sub(hn::LoadU(tag, out + i), hn::Set(tag, low)), hn::Set(tag, range)), tag, out + i);
    });
    if (keeps_plane(p))
      for (std::int64_t i = 0; i < count; ++i) out[i] = std::min(out[i], 1.0F);
  }
};

void bounds_here(const float* values, std::int64_t count, float* low, float* high) {
  Extremes extremes;
  extremes.add(values, count);
  extremes.result(low, high);
}

void plane_here(const MapPostprocess& p, const MapPlan& plan, std::int64_t index, MapScratch& scratch) {
  const std::int64_t image = index / p.maps, map = index % p.maps, size = p.channels * p.height * p.width;
  Plane plane{p, plan, scratch, map, {}};
  Pair& pair = plane.pair;
  pair = {p.x ? p.x + image * size : nullptr, p.images + index * size, 0, 1, 0, 1};
  if (p.x && p.scale_images) {
    const float* bounds = plan.x_bounds.data() + 2 * image;
    bounds_here(pair.image, size, &pair.low, &pair.range);
    pair.range -= pair.low;
    pair.x_low = bounds[0], pair.x_range = bounds[1] - bounds[0];
  }
  float* out = p.output + image * p.output_stride + map * p.out_height * p.out_width;
  for (std::int64_t y = 0; y < p.out_height; y += kRows)
    plane.make_result(y, std::min(kRows, p.out_height - y), out + y * p.out_width);
  if (p.scaling != MapScaling::kMinMax) return;
  plane.make_smooth_until(p.height);  // the extremes are those of all rows, used or not
  plane.scale_result(out);
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {

HWY_EXPORT(bounds_here);
HWY_EXPORT(plane_here);

void prepare(MapScratch& scratch, const MapPostprocess& p, const MapPlan& plan) {
  const auto room = [](auto& values, std::int64_t count) {
    if (values.size() < static_cast<std::size_t>(count)) values.resize(static_cast<std::size_t>(count));
  };
  room(scratch.row, p.width + 2 * plan.horizontal.radius);
  room(scratch.blurred, plan.ring() * plan.stride);
  room(scratch.smooth, plan.rows.taps * plan.stride);
  room(scratch.resized, kRows * plan.stride);
  room(scratch.columns, kRows * p.width);
  room(scratch.result, kRows * p.out_width);
  if (keeps_plane(p)) room(scratch.plane, p.height * p.width);
  room(scratch.before, std::max({plan.vertical.radius + 1, plan.horizontal.radius + 1, plan.rows.taps}));
  room(scratch.after, std::max(plan.vertical.radius, plan.horizontal.radius) + 1);
}

}  // namespace

void map_postprocess(const MapPostprocess& p, const Parallel& parallel) {
  const std::int64_t planes = p.batch * p.maps;
  if (planes == 0 || p.height == 0 || p.width == 0) return;
  MapPlan plan;
  plan.vertical = gaussian(p.sigma, p.height);
  plan.horizontal = gaussian(p.sigma, p.width);
  plan.rows = resampling(p.height, p.out_height, p.antialias);
  plan.columns = resampling(p.width, p.out_width, p.antialias);
  plan.stride = (p.width + 15) / 16 * 16;
  if (p.x && p.scale_images) {
    plan.x_bounds.resize(2 * static_cast<std::size_t>(p.batch));
    parallel(p.batch, 1, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t size = p.channels * p.height * p.width;
      for (std::int64_t i = begin; i < end; ++i)
        HWY_DYNAMIC_DISPATCH(bounds_here)(p.x + i * size, size, &plan.x_bounds[2 * i], &plan.x_bounds[2 * i + 1]);
    });
  }
  parallel(planes, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local MapScratch scratch;
    prepare(scratch, p, plan);
    for (std::int64_t i = begin; i < end; ++i) HWY_DYNAMIC_DISPATCH(plane_here)(p, plan, i, scratch);
  });
}

}  // namespace daug::kernels
#endif
