#pragma once
// Pictures resized by other programs, in the golden sets resize_*.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daug/image/preprocess.h"
#include "support/catch.h"
#include "support/golden.h"

namespace daug::test {

/// The number after `label` in a set's text on tolerances.
inline double tolerance_after(const std::string& text, const std::string& label) {
  const auto at = text.find(label);
  REQUIRE(at != std::string::npos);
  return std::stod(text.substr(at + label.size()));
}

/// How tensors of one name are computed here: of <image>.<source> with a filter, in levels 0, 1, ... `most` or, where
/// that is 0, as real numbers.
struct ResizeForm {
  ResizeFilter filter = ResizeFilter::kBilinear;
  std::string source = "F";
  double most = 0;
};

/// An image in another width and height.
using Resizer = std::function<GrayImage(const GrayImage& image, int width, int height, ResizeFilter filter)>;

/// Checks every tensor <image>.<height>x<width>.<name> whose name is in `forms` against `resizer`, levels to within
/// one, and says which others there are.
inline double check_resize(const GoldenSet& set, const std::map<std::string, ResizeForm>& forms,
                           const std::string& label, const Resizer& resizer = resize) {
  const double tolerance = tolerance_after(set.settings.at("tolerance"), label);
  double largest = 0;
  int cases = 0;
  std::set<std::string> others;
  for (const auto& [name, array] : set.file.tensors) {
    const auto dot = name.find('.');
    if (dot == std::string::npos || array.shape.size() < 2) continue;
    const int height = static_cast<int>(array.shape[0]), width = static_cast<int>(array.shape[1]);
    const std::string size = "." + std::to_string(height) + "x" + std::to_string(width) + ".";
    if (name.compare(dot, size.size(), size) != 0) continue;
    const std::string kind = name.substr(dot + size.size());
    const auto found = forms.find(kind);
    if (found == forms.end()) {
      others.insert(kind);
      continue;
    }
    const ResizeForm& form = found->second;
    const Array& source = set.at(name.substr(0, dot) + "." + form.source);
    const std::vector<float> samples = source.to_float();
    const std::vector<double> expected = set.at(name).to_double();
    const std::size_t channels = source.shape.size() == 3 ? static_cast<std::size_t>(source.shape[2]) : 1;
    std::vector<double> actual(expected.size());
    for (std::size_t c = 0; c < channels; ++c) {
      GrayImage image = GrayImage::filled(static_cast<int>(source.shape.at(1)), static_cast<int>(source.shape.at(0)));
      for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = samples.at(i * channels + c);
      const GrayImage result = resizer(image, width, height, form.filter);
      for (std::size_t i = 0; i < result.pixels.size(); ++i) {
        const double value = result.pixels[i];
        actual.at(i * channels + c) = form.most > 0 ? std::round(std::clamp(value, 0.0, form.most)) : value;
      }
    }
    const double error = absolute_error(actual, expected);
    // torch places pixels in float32, which moves values in [-1, 1] of a long side by more than short ones allow.
    const double longest = static_cast<double>(std::max(source.shape.at(0), source.shape.at(1)));
    const double placed = kind.starts_with("torch_") ? 2.4e-7 * longest : 0;
    INFO(name);
    CHECK(error <= (form.most > 0 ? 1 : std::max(tolerance, placed)));
    if (form.most == 0) largest = std::max(largest, error);
    ++cases;
  }
  if (cases == 0) throw Skip{"no case of a filter that exists here"};
  std::vector<Unread> unread = {{"*.box_argument.*", "part of an image beside pixels that are not of it"}};
  for (const auto& kind : others) unread.push_back({"*." + kind, "not offered in this form"});
  check_outputs_read(set, unread, {"*.*x*.*"});
  return largest;
}

}  // namespace daug::test
