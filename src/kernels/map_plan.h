#pragma once
// Weights of the blur and of the resizing of maps: what the kernels of the CPU and of devices share.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/map_postprocess.h"
#include "kernels/resample_taps.h"

namespace daug::kernels {

/// Half of a symmetric kernel along an axis: the weight at distance 0 .. radius.
struct Blur {
  std::int64_t radius = 0;
  std::vector<float> weights;
};

/// Pixels that a Gaussian reaches along an axis of `size` >= 1: reflection cannot reach past the far border.
inline std::int64_t blur_radius(double sigma, std::int64_t size) {
  return sigma > 0 ? std::min(static_cast<std::int64_t>(std::ceil(3 * sigma)), size - 1) : 0;
}

inline Blur gaussian(double sigma, std::int64_t size) {
  Blur blur;
  blur.radius = blur_radius(sigma, size);
  std::vector<double> weights;
  double total = 0;
  for (std::int64_t j = 0; j <= blur.radius; ++j) {
    const auto distance = static_cast<double>(j);
    weights.push_back(j == 0 ? 1.0 : std::exp(-0.5 * distance * distance / (sigma * sigma)));
    total += (j == 0 ? 1 : 2) * weights.back();
  }
  for (const double weight : weights) blur.weights.push_back(static_cast<float>(weight / total));
  return blur;
}

/// Taps of one axis: `taps` source pixels from first[i] on make result i, with the weights from weights[i * taps] on.
struct Resampling {
  std::vector<std::int64_t> first;
  std::vector<float> weights;
  std::int64_t taps = 0;
};

inline Resampling resampling(std::int64_t source, std::int64_t target, bool antialias) {
  const auto taps = make_taps(static_cast<int>(source), static_cast<int>(target), 0, static_cast<int>(target), 1.0,
                              triangle, antialias);
  Resampling result;
  for (const Taps& t : taps) result.taps = std::max(result.taps, static_cast<std::int64_t>(t.weights.size()));
  for (const Taps& t : taps) {
    // As many taps everywhere; those too many weigh nothing and lie inside.
    const std::int64_t first = std::min<std::int64_t>(t.first, source - result.taps);
    result.first.push_back(first);
    result.weights.resize(result.weights.size() + static_cast<std::size_t>(t.first - first));
    for (const double weight : t.weights) result.weights.push_back(static_cast<float>(weight));
    result.weights.resize(result.first.size() * static_cast<std::size_t>(result.taps));
  }
  return result;
}

/// Puts an axis behind what a device kernel reads: the first pixels, which are whole numbers below 2^24, as floats hold
/// them, and the weights, result by result or tap by tap.
inline void append_axis(const Resampling& axis, bool tap_by_tap, std::vector<float>& to) {
  for (const std::int64_t pixel : axis.first) to.push_back(static_cast<float>(pixel));
  if (!tap_by_tap) {
    to.insert(to.end(), axis.weights.begin(), axis.weights.end());
    return;
  }
  const auto taps = static_cast<std::size_t>(axis.taps);
  for (std::size_t tap = 0; tap < taps; ++tap)
    for (std::size_t i = tap; i < axis.weights.size(); i += taps) to.push_back(axis.weights[i]);
}

/// What a device kernel reads beside its tensors, as one array that its caller puts there, in this order: weights of
/// the vertical and of the horizontal blur; the first source row of every row of the result, and their weights; the
/// first source column of every column, and their weights, tap by tap, as neighbouring threads read them; with
/// kStandard mean and factor.
struct MapTables {
  std::vector<float> values;
  std::int64_t vertical = 0, horizontal = 0;   ///< radii of the blur
  std::int64_t row_taps = 0, column_taps = 0;  ///< source pixels of one of the result
};

inline MapTables map_tables(const MapPostprocess& p) {
  MapTables tables;
  auto& all = tables.values;
  const Blur vertical = gaussian(p.sigma, p.height), horizontal = gaussian(p.sigma, p.width);
  for (const Blur* blur : {&vertical, &horizontal}) all.insert(all.end(), blur->weights.begin(), blur->weights.end());
  const Resampling rows = resampling(p.height, p.out_height, p.antialias);
  const Resampling columns = resampling(p.width, p.out_width, p.antialias);
  append_axis(rows, false, all);
  append_axis(columns, true, all);
  if (p.scaling == MapScaling::kStandard) {
    all.insert(all.end(), p.mean, p.mean + p.maps);
    all.insert(all.end(), p.factor, p.factor + p.maps);
  }
  tables.vertical = vertical.radius, tables.horizontal = horizontal.radius;
  tables.row_taps = rows.taps, tables.column_taps = columns.taps;
  return tables;
}

}  // namespace daug::kernels
