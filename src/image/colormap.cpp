#include "daug/image/colormap.h"

#include "daug/core/error.h"
#include "levels.h"

namespace daug {
namespace {

/// Evenly spaced colours, 0xRRGGBB.
const std::vector<std::uint32_t>& anchors(Colormap map) {
  static const std::vector<std::uint32_t> gray = {0x000000, 0xffffff};
  static const std::vector<std::uint32_t> viridis = {0x440154, 0x472d7b, 0x3b528b, 0x2c728e, 0x21908c,
                                                     0x27ad81, 0x5dc863, 0xaadc32, 0xfde725};
  static const std::vector<std::uint32_t> inferno = {0x000004, 0x210c4a, 0x56106e, 0x89226a, 0xbb3754,
                                                     0xe35932, 0xf98c0a, 0xf9c932, 0xfcffa4};
  static const std::vector<std::uint32_t> diverging = {0x1e3c96, 0x6e96d7, 0xf0f0f0, 0xe68264, 0x96141e};
  switch (map) {
    case Colormap::kGray:
      return gray;
    case Colormap::kViridis:
      return viridis;
    case Colormap::kInferno:
      return inferno;
    case Colormap::kDiverging:
      return diverging;
  }
  fail(ErrorCode::kInvalidArgument, "colormap_at", "map", "a Colormap", static_cast<int>(map));
}

std::uint8_t mix(double from, double to, double weight) {
  return static_cast<std::uint8_t>(std::lround(from + weight * (to - from)));
}

Rgb mix(Rgb from, Rgb to, double weight) {
  return {mix(from[0], to[0], weight), mix(from[1], to[1], weight), mix(from[2], to[2], weight)};
}

/// Where `value` lies between low and high, in [0, 1].
double position(float value, float low, float high) {
  const double extent = static_cast<double>(high) - low;
  return extent > 0 ? std::clamp((value - static_cast<double>(low)) / extent, 0.0, 1.0) : value - value;
}

void check_map(const std::vector<float>& values, int width, int height, float low, float high, const char* function) {
  require(
      width > 0 && height > 0 && values.size() == static_cast<std::size_t>(width) * static_cast<std::size_t>(height),
      function, "values", detail::concat(width, " x ", height, " values"), values.size());
  require(low <= high && std::isfinite(high - low), function, "low, high", "finite, low <= high",
          detail::concat(low, ", ", high));
}

template <class A, class B>
void check_same_size(const A& a, const B& b, const char* function) {
  require(a.width == b.width && a.height == b.height, function, "overlay", detail::concat(a.width, " x ", a.height),
          detail::concat(b.width, " x ", b.height));
}

}  // namespace

Rgb colormap_at(Colormap map, double t) {
  if (std::isnan(t)) fail(ErrorCode::kNumeric, "colormap_at", "t", "a number", t);
  const auto& colours = anchors(map);
  const double at = std::clamp(t, 0.0, 1.0) * static_cast<double>(colours.size() - 1);
  const std::size_t index = std::min(static_cast<std::size_t>(at), colours.size() - 2);
  const auto rgb = [](std::uint32_t c) {
    return Rgb{static_cast<std::uint8_t>(c >> 16), static_cast<std::uint8_t>(c >> 8), static_cast<std::uint8_t>(c)};
  };
  return mix(rgb(colours[index]), rgb(colours[index + 1]), at - static_cast<double>(index));
}

RgbImage apply_colormap(const std::vector<float>& values, int width, int height, float low, float high, Colormap map) {
  check_map(values, width, height, low, high, "apply_colormap");
  RgbImage image = RgbImage::filled(width, height);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Rgb colour = colormap_at(map, position(values[i], low, high));
    std::copy(colour.begin(), colour.end(), image.pixels.begin() + static_cast<std::ptrdiff_t>(3 * i));
  }
  return image;
}

RgbImage to_rgb(const GrayImage& image) {
  image.validate("to_rgb");
  RgbImage result{image.width, image.height, {}};
  result.pixels.reserve(3 * image.pixels.size());
  for (const float value : image.pixels)
    result.pixels.insert(result.pixels.end(), 3, detail::to_level(value, "to_rgb"));
  return result;
}

RgbImage blend(const RgbImage& base, const RgbImage& overlay, double opacity) {
  base.validate("blend");
  overlay.validate("blend");
  check_same_size(base, overlay, "blend");
  require_range(opacity, 0, 1, "blend", "opacity");
  RgbImage result = base;
  for (std::size_t i = 0; i < result.pixels.size(); ++i)
    result.pixels[i] = mix(base.pixels[i], overlay.pixels[i], opacity);
  return result;
}

RgbImage overlay_map(const GrayImage& image, const std::vector<float>& values, float low, float high, Colormap map,
                     double opacity) {
  RgbImage result = to_rgb(image);
  check_map(values, image.width, image.height, low, high, "overlay_map");
  require_range(opacity, 0, 1, "overlay_map", "opacity");
  for (int y = 0, i = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x, ++i) {
      const double t = position(values[static_cast<std::size_t>(i)], low, high);
      result.set(x, y, mix(result.at(x, y), colormap_at(map, t), opacity * t));
    }
  return result;
}

void draw_outline(RgbImage& image, const std::vector<std::uint8_t>& mask, Rgb colour) {
  image.validate("draw_outline");
  require(3 * mask.size() == image.pixels.size(), "draw_outline", "mask", image.pixels.size() / 3, mask.size());
  const auto is_set = [&](int x, int y) {
    return x >= 0 && y >= 0 && x < image.width && y < image.height &&
           mask[static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x)] != 0;
  };
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      if (is_set(x, y) && !(is_set(x - 1, y) && is_set(x + 1, y) && is_set(x, y - 1) && is_set(x, y + 1)))
        image.set(x, y, colour);
}

}  // namespace daug
