#include "daug/image/preprocess.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "daug/core/error.h"
#include "kernels/resample_taps.h"

namespace daug {
namespace {

using kernels::Taps;

constexpr int kLargestSide = 16384;

struct Kernel {
  double support;            // half-width at scale 1
  double (*weight)(double);  // of a distance
};

Kernel kernel(ResizeFilter filter) {
  switch (filter) {
    case ResizeFilter::kBox:
      return {0.5, [](double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }};
    case ResizeFilter::kBilinear:
      return {1, kernels::triangle};
    case ResizeFilter::kBicubic:
      return {2, [](double x) {
                constexpr double a = -0.5;
                x = std::abs(x);
                if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
                return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
              }};
    case ResizeFilter::kLanczos:
      return {3, [](double x) {
                const auto sinc = [](double t) {
                  constexpr double kPi = 3.14159265358979323846;
                  return t == 0 ? 1.0 : std::sin(kPi * t) / (kPi * t);
                };
                return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0.0;
              }};
  }
  fail(ErrorCode::kInvalidArgument, "resize", "filter", "a ResizeFilter", static_cast<int>(filter));
}

/// Taps of result pixels [begin, end) when `source` pixels become `target`.
std::vector<Taps> make_taps(int source, int target, int begin, int end, ResizeFilter filter) {
  const Kernel k = kernel(filter);
  return kernels::make_taps(source, target, begin, end, k.support, k.weight);
}

struct Window {
  int left, top, right, bottom;  // right and bottom not included
};

/// The part `window` of the image resampled to width x height; nothing outside it is computed.
GrayImage resample(const GrayImage& image, int width, int height, const Window& window, ResizeFilter filter) {
  const auto columns = make_taps(image.width, width, window.left, window.right, filter);
  const auto rows = make_taps(image.height, height, window.top, window.bottom, filter);
  const int first_row = rows.front().first;
  int end_row = 0;
  for (const Taps& taps : rows) end_row = std::max(end_row, taps.end());

  GrayImage narrow = GrayImage::filled(window.right - window.left, end_row - first_row);
  for (int y = 0; y < narrow.height; ++y)
    for (int x = 0; x < narrow.width; ++x) {
      const Taps& taps = columns[static_cast<std::size_t>(x)];
      const float* source =
          &image.pixels[static_cast<std::size_t>(y + first_row) * static_cast<std::size_t>(image.width) +
                        static_cast<std::size_t>(taps.first)];
      double sum = 0;
      for (const double weight : taps.weights) sum += weight * *source++;
      narrow.at(x, y) = static_cast<float>(sum);
    }

  GrayImage result = GrayImage::filled(narrow.width, window.bottom - window.top);
  std::vector<double> sums(static_cast<std::size_t>(narrow.width));
  for (int y = 0; y < result.height; ++y) {
    const Taps& taps = rows[static_cast<std::size_t>(y)];
    std::fill(sums.begin(), sums.end(), 0.0);
    for (std::size_t j = 0; j < taps.weights.size(); ++j)
      for (int x = 0; x < narrow.width; ++x)
        sums[static_cast<std::size_t>(x)] +=
            taps.weights[j] * narrow.at(x, taps.first + static_cast<int>(j) - first_row);
    for (int x = 0; x < result.width; ++x) result.at(x, y) = static_cast<float>(sums[static_cast<std::size_t>(x)]);
  }
  return result;
}

/// The image on the square: what lies inside is resampled, the rest is `pad`.
GrayImage place(const GrayImage& image, const PreprocessOptions& options, ResizeFilter filter, float pad) {
  const Placement p = placement(image.width, image.height, options);
  const int size = options.size;
  const Window window{std::max(0, -p.left), std::max(0, -p.top), std::min(p.width, size - p.left),
                      std::min(p.height, size - p.top)};
  const GrayImage part = resample(image, p.width, p.height, window, filter);
  GrayImage square = GrayImage::filled(size, size, pad);
  for (int y = 0; y < part.height; ++y)
    for (int x = 0; x < part.width; ++x) square.at(window.left + p.left + x, window.top + p.top + y) = part.at(x, y);
  return square;
}

}  // namespace

void PreprocessOptions::validate() const {
  require_range(size, 1, kLargestSide, "PreprocessOptions", "size");
  require_range(static_cast<int>(fit), 0, static_cast<int>(Fit::kStretch), "PreprocessOptions", "fit");
  require_range(static_cast<int>(filter), 0, static_cast<int>(ResizeFilter::kLanczos), "PreprocessOptions", "filter");
  require_range(pad, 0, 1, "PreprocessOptions", "pad");
}

GrayImage resize(const GrayImage& image, int width, int height, ResizeFilter filter) {
  image.validate("resize");
  require_range(width, 1, kLargestSide, "resize", "width");
  require_range(height, 1, kLargestSide, "resize", "height");
  return resample(image, width, height, {0, 0, width, height}, filter);
}

Placement placement(int source_width, int source_height, const PreprocessOptions& options) {
  options.validate();
  require_range(source_width, 1, std::numeric_limits<int>::max(), "placement", "source_width");
  require_range(source_height, 1, std::numeric_limits<int>::max(), "placement", "source_height");
  const int size = options.size;
  Placement p{size, size, 0, 0};
  // The side that fills the square is exact; the other one keeps the aspect ratio.
  const bool wide = source_width > source_height;
  if (options.fit != Fit::kStretch && source_width != source_height) {
    const bool width_is_exact = wide == (options.fit == Fit::kLetterbox);
    const double ratio = width_is_exact ? static_cast<double>(source_height) / source_width
                                        : static_cast<double>(source_width) / source_height;
    const double other = std::max(1.0, std::round(size * ratio));
    require(other <= 1 << 28, "placement", "source size", "an aspect ratio that leaves at most 2^28 pixels a side",
            detail::concat(source_width, " x ", source_height));
    (width_is_exact ? p.height : p.width) = static_cast<int>(other);
  }
  p.left = (size - p.width) / 2;
  p.top = (size - p.height) / 2;
  return p;
}

std::vector<float> preprocess(const GrayImage& image, const PreprocessOptions& options) {
  image.validate("preprocess");
  GrayImage square = place(image, options, options.filter, options.pad);
  for (float& value : square.pixels) {
    if (!std::isfinite(value)) fail(ErrorCode::kNumeric, "preprocess", "image", "finite pixels", value);
    value = std::clamp(value * 2 - 1, -1.0F, 1.0F);
  }
  return std::move(square.pixels);
}

std::vector<std::uint8_t> preprocess_mask(const GrayImage& mask, const PreprocessOptions& options) {
  mask.validate("preprocess_mask");
  GrayImage binary = mask;
  for (float& value : binary.pixels) value = value >= 0.5F ? 1.0F : 0.0F;
  const GrayImage square = place(binary, options, ResizeFilter::kBox, 0);
  std::vector<std::uint8_t> result;
  result.reserve(square.pixels.size());
  for (const float value : square.pixels) result.push_back(value >= 0.5F ? 1 : 0);
  return result;
}

Box map_box(const Box& box, int source_width, int source_height, const PreprocessOptions& options) {
  const Placement p = placement(source_width, source_height, options);
  const double size = options.size;
  const auto x = [&](double at) { return std::clamp(at * p.width / source_width + p.left, 0.0, size); };
  const auto y = [&](double at) { return std::clamp(at * p.height / source_height + p.top, 0.0, size); };
  require(box.width >= 0 && box.height >= 0 && std::isfinite(box.x + box.y + box.width + box.height), "map_box", "box",
          "finite values and sides of at least 0", detail::concat(box.width, " x ", box.height));
  Box result{x(box.x), y(box.y), 0, 0};
  result.width = x(box.x + box.width) - result.x;
  result.height = y(box.y + box.height) - result.y;
  return result;
}

}  // namespace daug
