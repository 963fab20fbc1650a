#pragma once
// Separable resampling along one axis, as Pillow and torch's antialiased interpolation do it.

#include <algorithm>
#include <vector>

namespace daug::kernels {

/// The source pixels that make up one result pixel along an axis, from `first` on.
struct Taps {
  int first = 0;
  std::vector<double> weights;

  int end() const { return first + static_cast<int>(weights.size()); }
};

/// Taps of result pixels [begin, end) when `source` pixels become `target` (both >= 1) under a kernel
/// `weight(distance)` of half-width `support`. Pixel centres lie at +0.5. With `antialias` the kernel is widened where
/// the side shrinks. Weights are renormalised at the border; an equal side is passed through.
template <class Weight>
std::vector<Taps> make_taps(int source, int target, int begin, int end, double support, const Weight& weight,
                            bool antialias = true) {
  const double step = static_cast<double>(source) / target;
  const double widening = antialias ? std::max(step, 1.0) : 1.0;
  const double reach = support * widening;
  std::vector<Taps> taps;
  for (int i = begin; i < end; ++i) {
    if (source == target) {
      taps.push_back({i, {1.0}});
      continue;
    }
    const double center = (i + 0.5) * step;
    const int first = std::max(0, static_cast<int>(center - reach + 0.5));
    const int last = std::min(source, static_cast<int>(center + reach + 0.5));
    Taps t{first, {}};
    double sum = 0;
    for (int j = first; j < last; ++j) sum += t.weights.emplace_back(weight((j - center + 0.5) / widening));
    for (double& value : t.weights) value /= sum;
    taps.push_back(std::move(t));
  }
  return taps;
}

/// The triangle of bilinear interpolation, of half-width 1.
inline double triangle(double x) { return std::max(0.0, 1 - (x < 0 ? -x : x)); }

}  // namespace daug::kernels
