#include "daug/image/transform.h"

#include <cmath>
#include <cstddef>

#include "daug/core/error.h"

namespace daug {

void AffineParams::validate() const {
  require(std::isfinite(rotation_deg), "AffineParams", "rotation_deg", "a finite angle", rotation_deg);
  require(std::isfinite(shift_x) && std::isfinite(shift_y), "AffineParams", "shift", "finite fractions",
          detail::concat(shift_x, ", ", shift_y));
  require(scale > 0 && std::isfinite(scale), "AffineParams", "scale", "a finite value above 0", scale);
}

void AugmentOptions::validate() const {
  require_range(max_rotation_deg, 0, 180, "AugmentOptions", "max_rotation_deg");
  require_range(max_shift, 0, 1, "AugmentOptions", "max_shift");
  require_range(max_scale, 0, 1, "AugmentOptions", "max_scale");
}

AffineParams random_affine(const AugmentOptions& options, RandomStream& random) {
  options.validate();
  AffineParams params;
  params.rotation_deg = options.max_rotation_deg * random.uniform(-1, 1);
  params.shift_x = options.max_shift * random.uniform(-1, 1);
  params.shift_y = options.max_shift * random.uniform(-1, 1);
  params.scale = std::exp(std::log1p(options.max_scale) * random.uniform(-1, 1));
  params.flip = random.uniform() < 0.5 && options.flip;
  return params;
}

AffineMatrix AffineMatrix::inverse() const {
  const double determinant = xx * yy - xy * yx;
  require(std::isfinite(1 / determinant), "AffineMatrix::inverse", "matrix", "a finite determinant other than 0",
          determinant);
  AffineMatrix m;
  m.xx = yy / determinant;
  m.xy = -xy / determinant;
  m.yx = -yx / determinant;
  m.yy = xx / determinant;
  m.x0 = -(m.xx * x0 + m.xy * y0);
  m.y0 = -(m.yx * x0 + m.yy * y0);
  return m;
}

AffineMatrix affine_matrix(const AffineParams& params, int width, int height) {
  params.validate();
  constexpr double kDegree = 3.14159265358979323846 / 180;
  const double cosine = params.scale * std::cos(params.rotation_deg * kDegree);
  const double sine = params.scale * std::sin(params.rotation_deg * kDegree);
  const double mirror = params.flip ? -1 : 1;
  AffineMatrix m{mirror * cosine, -sine, 0, mirror * sine, cosine, 0};
  const double center_x = 0.5 * width, center_y = 0.5 * height;
  m.x0 = center_x + params.shift_x * width - (m.xx * center_x + m.xy * center_y);
  m.y0 = center_y + params.shift_y * height - (m.yx * center_x + m.yy * center_y);
  return m;
}

std::vector<float> warp(const float* planes, int channels, int height, int width, const AffineParams& params,
                        const std::vector<float>& fill) {
  require(planes != nullptr, "warp", "planes", "a pointer to the planes", "null");
  require(channels > 0 && height > 0 && width > 0, "warp", "shape", "at least 1 in each direction",
          detail::concat(channels, " x ", height, " x ", width));
  const auto count = static_cast<std::size_t>(channels);
  require(fill.size() == 1 || fill.size() == count, "warp", "fill", detail::concat("1 or ", channels, " values"),
          fill.size());
  const AffineMatrix source = affine_matrix(params, width, height).inverse();
  const std::size_t plane_size = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  std::vector<float> result(count * plane_size);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const double u = source.xx * (x + 0.5) + source.xy * (y + 0.5) + source.x0 - 0.5;
      const double v = source.yx * (x + 0.5) + source.yy * (y + 0.5) + source.y0 - 0.5;
      const bool touches = u > -1 && v > -1 && u < width && v < height;
      const int left = touches ? static_cast<int>(std::floor(u)) : 0;
      const int top = touches ? static_cast<int>(std::floor(v)) : 0;
      const double right_weight = u - left, bottom_weight = v - top;
      for (std::size_t c = 0; c < count; ++c) {
        const float* plane = planes + c * plane_size;
        const double outside = fill[fill.size() == 1 ? 0 : c];
        const auto at = [&](int i, int j) -> double {
          if (i < 0 || j < 0 || i >= width || j >= height) return outside;
          return plane[static_cast<std::size_t>(j) * static_cast<std::size_t>(width) + static_cast<std::size_t>(i)];
        };
        const auto row = [&](int j) { return (1 - right_weight) * at(left, j) + right_weight * at(left + 1, j); };
        const double value = touches ? (1 - bottom_weight) * row(top) + bottom_weight * row(top + 1) : outside;
        result[c * plane_size + static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
               static_cast<std::size_t>(x)] = static_cast<float>(value);
      }
    }
  return result;
}

}  // namespace daug
