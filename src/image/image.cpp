#include "daug/image/image.h"

#include "daug/core/error.h"

namespace daug {
namespace {

std::size_t area(int width, int height, const char* function) {
  require(width >= 0 && height >= 0, function, "size", "sides of at least 0 pixels",
          detail::concat(width, " x ", height));
  return static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
}

void check(int width, int height, std::size_t values, std::size_t channels, const char* function) {
  require(width > 0 && height > 0, function, "image", "sides of at least 1 pixel",
          detail::concat(width, " x ", height));
  const std::size_t expected = area(width, height, function) * channels;
  require(values == expected, function, "image", detail::concat(expected, " values for ", width, " x ", height),
          values);
}

}  // namespace

GrayImage GrayImage::filled(int width, int height, float value) {
  return {width, height, std::vector<float>(area(width, height, "GrayImage::filled"), value)};
}

void GrayImage::validate(const char* function) const { check(width, height, pixels.size(), 1, function); }

RgbImage RgbImage::filled(int width, int height, Rgb colour) {
  RgbImage image{width, height, std::vector<std::uint8_t>(3 * area(width, height, "RgbImage::filled"))};
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = colour[i % 3];
  return image;
}

void RgbImage::validate(const char* function) const { check(width, height, pixels.size(), 3, function); }

}  // namespace daug
