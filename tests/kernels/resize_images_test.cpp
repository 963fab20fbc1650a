#include "kernels/resize_images.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/cuda/launch_plan.h"
#include "kernels/emulation.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

/// Weights of all source pixels for result pixel i: a triangle around its centre, as wide as a result pixel where the
/// side shrinks and `antialias`.
std::vector<double> triangle_weights(std::int64_t source, std::int64_t target, std::int64_t i, bool antialias) {
  const double step = static_cast<double>(source) / static_cast<double>(target);
  std::vector<double> weights;
  double total = 0;
  for (std::int64_t j = 0; j < source; ++j) {
    const double distance = static_cast<double>(j) + 0.5 - (static_cast<double>(i) + 0.5) * step;
    weights.push_back(std::max(0.0, 1 - std::abs(distance) / (antialias ? std::max(1.0, step) : 1.0)));
    total += weights.back();
  }
  for (double& weight : weights) weight /= total;
  return weights;
}

struct Batch {
  ResizeImages p;
  std::vector<float> images;
  bool antialias = true;

  Batch(std::int64_t planes, std::int64_t height, std::int64_t width, std::int64_t out_height, std::int64_t out_width)
      : images(random_floats(planes * height * width, static_cast<std::uint64_t>(height * width + out_width))) {
    p.planes = planes, p.height = height, p.width = width, p.out_height = out_height, p.out_width = out_width;
  }

  std::vector<double> expected() const {
    std::vector<std::vector<double>> rows, columns;
    for (std::int64_t y = 0; y < p.out_height; ++y)
      rows.push_back(triangle_weights(p.height, p.out_height, y, antialias));
    for (std::int64_t x = 0; x < p.out_width; ++x)
      columns.push_back(triangle_weights(p.width, p.out_width, x, antialias));
    std::vector<double> all;
    for (std::int64_t plane = 0; plane < p.planes; ++plane) {
      const auto pixels = images.begin() + plane * p.height * p.width;
      std::vector<double> narrow;  // [height, out_width]
      for (std::int64_t r = 0; r < p.height; ++r)
        for (const auto& weights : columns) {
          double sum = 0;
          for (std::int64_t c = 0; c < p.width; ++c)
            sum += weights[static_cast<std::size_t>(c)] * static_cast<double>(pixels[r * p.width + c]);
          narrow.push_back(sum);
        }
      for (const auto& weights : rows)
        for (std::size_t x = 0; x < columns.size(); ++x) {
          double sum = 0;
          for (std::size_t r = 0; r < weights.size(); ++r) sum += weights[r] * narrow[r * columns.size() + x];
          all.push_back(sum);
        }
    }
    return all;
  }

  std::vector<float> run(Element element = Element::kFloat32, std::size_t skipped = 0) const {
    DeviceMemory from = on_device(images, element, skipped);
    DeviceMemory to(static_cast<std::size_t>(p.planes * p.out_height * p.out_width) * daug::test::bytes_of(element),
                    skipped);
    const ResizeTables tables = resize_tables(p, antialias);
    DeviceMemory values(tables.values);
    ResizeImages problem = p;
    problem.images = from.data(), problem.output = to.data();
    const Launched launched;
    launched.check(resize_images_device(problem, tables, values.floats(), element, launched.where));
    return from_device(to, element);
  }
};

}  // namespace

TEST_CASE("resize_images of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  struct Size {
    std::int64_t planes, height, width, out_height, out_width;
  };
  for (const Size s : std::vector<Size>{{1, 1, 1, 1, 1},
                                        {2, 1, 9, 1, 4},
                                        {1, 7, 1, 3, 2},
                                        {3, 16, 17, 14, 15},
                                        {1, 1, 1, 5, 3},        // one pixel
                                        {2, 128, 140, 32, 35},  // a quarter
                                        {2, 24, 512, 6, 128},   // a quarter, in whole loads, tile beside tile
                                        {2, 33, 65, 40, 100},   // larger
                                        {1, 9, 16, 70, 48},     // larger, in whole loads
                                        {1, 40, 48, 40, 20},    // one side alone
                                        {1, 900, 40, 20, 3},    // 45 times
                                        {2, 6, 904, 3, 20},     // 45 times along the rows: a tile of several strips
                                        {1, 5, 901, 5, 1},
                                        {2, 710, 5, 1, 5}})
    for (const bool antialias : {true, false}) {
      INFO(s.height << " x " << s.width << " to " << s.out_height << " x " << s.out_width << " antialias "
                    << antialias);
      Batch batch(s.planes, s.height, s.width, s.out_height, s.out_width);
      batch.antialias = antialias;
      const auto result = in_both_orders([&] { return batch.run(); });
      CHECK(largest_error(result, batch.expected()) < 2e-6);
      CHECK(batch.run(Element::kFloat32, 4) == result);  // pixel by pixel, whatever the width
      // A plane does not depend on those around it.
      Batch last = batch;
      last.p.planes = 1;
      last.images.erase(last.images.begin(), last.images.end() - s.height * s.width);
      CHECK(std::equal(result.end() - s.out_height * s.out_width, result.end(), last.run().begin()));
      for (const Element element : {Element::kFloat16, Element::kBfloat16}) {
        Batch halves = batch;
        round_to(element, halves.images);
        const auto rounded = halves.run(element);
        CHECK(largest_error(rounded, halves.expected()) < rounding(element) + 2e-6);
        CHECK(halves.run(element, 2) == rounded);
      }
    }
}

TEST_CASE("resize_images of a device, emulated: an equal side keeps its pixels", "[kernels][emulated]") {
  const Batch same(2, 37, 41, 37, 41);
  CHECK(same.run() == same.images);
}

TEST_CASE("resize_images of a device, emulated: a pixel that is no number reaches as far as the filter",
          "[kernels][emulated]") {
  Batch batch(1, 8, 64, 4, 16);
  const std::size_t spoiled = 5 * 64 + 30;
  batch.images[spoiled] = std::numeric_limits<float>::quiet_NaN();
  const auto result = batch.run();
  for (std::size_t i = 0; i < result.size(); ++i) {
    const std::size_t y = i / 16, x = i % 16;
    INFO(y << ", " << x);
    // The filter is 4 rows high and 8 columns wide.
    CHECK(std::isnan(result[i]) == ((y == 2 || y == 3) && (x == 7 || x == 8)));
  }
}

TEST_CASE("resize_images of a device: nothing to do, limits", "[kernels][emulated]") {
  CHECK(cuda::kResizeTile * cuda::kStripColumns * static_cast<int>(sizeof(float)) <= 48 * 1024);
  const std::int64_t before = emulation::launches;
  CHECK(resize_images_device({}, {}, nullptr, Element::kFloat32, {}).problem == nullptr);
  ResizeImages many;
  many.planes = cuda::kMostInGrid + 1, many.height = many.width = 2, many.out_height = many.out_width = 1;
  CHECK(std::string(resize_images_device(many, resize_tables(many, true), nullptr, Element::kFloat32, {}).problem) ==
        "more planes than a launch takes");
  CHECK(emulation::launches == before);
}
