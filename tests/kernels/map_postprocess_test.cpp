#include "kernels/map_postprocess.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/cuda/launch_plan.h"
#include "kernels/emulation.h"
#include "kernels/kernels.h"
#include "kernels/map_plan.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

using Matrix = std::vector<std::vector<double>>;

/// A blur along an axis as a matrix: a kernel cut at 3 sigma and at the size, borders reflected.
Matrix blur_matrix(std::int64_t size, double sigma) {
  Matrix m(static_cast<std::size_t>(size), std::vector<double>(static_cast<std::size_t>(size), 0.0));
  const std::int64_t radius = std::min(static_cast<std::int64_t>(std::ceil(3 * sigma)), size - 1);
  double total = 0;
  for (std::int64_t k = -radius; k <= radius; ++k) total += radius ? std::exp(-0.5 * k * k / (sigma * sigma)) : 1;
  for (std::int64_t i = 0; i < size; ++i)
    for (std::int64_t k = -radius; k <= radius; ++k) {
      std::int64_t j = std::abs(i + k);
      if (j >= size) j = 2 * (size - 1) - j;
      m[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] +=
          (radius ? std::exp(-0.5 * k * k / (sigma * sigma)) : 1) / total;
    }
  return m;
}

/// Bilinear resizing along an axis as a matrix: every source pixel weighted by a triangle around the result's centre.
Matrix resize_matrix(std::int64_t source, std::int64_t target, bool antialias) {
  Matrix m;
  const double step = static_cast<double>(source) / static_cast<double>(target);
  const double width = antialias ? std::max(1.0, step) : 1.0;
  for (std::int64_t i = 0; i < target; ++i) {
    std::vector<double> row;
    double total = 0;
    for (std::int64_t j = 0; j < source; ++j) {
      const double distance = (static_cast<double>(j) + 0.5 - (static_cast<double>(i) + 0.5) * step) / width;
      row.push_back(std::max(0.0, 1 - std::abs(distance)));
      total += row.back();
    }
    for (double& weight : row) weight /= total;
    m.push_back(row);
  }
  return m;
}

/// rows * plane * columns^T.
std::vector<double> applied(const Matrix& rows, const Matrix& columns, const std::vector<double>& plane) {
  const std::size_t width = columns[0].size();
  std::vector<double> half(rows[0].size() * columns.size(), 0.0), result(rows.size() * columns.size(), 0.0);
  for (std::size_t y = 0; y < rows[0].size(); ++y)
    for (std::size_t i = 0; i < columns.size(); ++i)
      for (std::size_t x = 0; x < width; ++x) half[y * columns.size() + i] += columns[i][x] * plane[y * width + x];
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t y = 0; y < rows[0].size(); ++y)
      for (std::size_t x = 0; x < columns.size(); ++x)
        result[i * columns.size() + x] += rows[i][y] * half[y * columns.size() + x];
  return result;
}

/// (values - low) / (high - low), which is NaN everywhere when there is a NaN among them.
template <class T>
std::vector<double> to_unit(const T* values, std::size_t count) {
  double low = values[0], high = values[0];
  for (std::size_t i = 0; i < count; ++i) {
    if (std::isnan(values[i])) low = values[i];
    low = std::min<double>(low, values[i]), high = std::max<double>(high, values[i]);
  }
  std::vector<double> result;
  for (std::size_t i = 0; i < count; ++i) result.push_back((values[i] - low) / (high - low));
  return result;
}

struct Case {
  MapPostprocess p;
  std::vector<float> x, images, mean, factor, healthy, minus_log_p, output;

  Case(std::int64_t batch, std::int64_t maps, std::int64_t channels, std::int64_t height, std::int64_t width,
       std::int64_t out_height, std::int64_t out_width, std::uint64_t seed)
      : x(random_floats(batch * channels * height * width, seed, 0.2)),
        images(random_floats(batch * maps * channels * height * width, seed + 1)),
        mean(random_floats(maps, seed + 2)),
        factor(random_floats(maps, seed + 3)) {
    p.batch = batch, p.maps = maps, p.channels = channels, p.height = height, p.width = width;
    p.out_height = out_height, p.out_width = out_width, p.output_stride = maps * out_height * out_width;
    p.limit = 1.5F;
  }

  /// Among so many healthy values in each of regions x regions cells.
  void calibrate(std::int64_t regions, std::int64_t values, std::uint64_t seed) {
    p.scaling = MapScaling::kCalibrated, p.regions = regions, p.healthy_values = values;
    healthy = random_floats(p.maps * regions * regions * values, seed, 1);
    for (auto cell = healthy.begin(); cell != healthy.end(); cell += values) std::sort(cell, cell + values);
    for (std::int64_t below = 0; below <= values; ++below) minus_log_p.push_back(static_cast<float>(minus_log(below)));
  }

  /// -log10 of the p-value of what so many healthy values are less than.
  double minus_log(std::int64_t below) const {
    const double all = 1 + static_cast<double>(p.healthy_values);
    return -std::log10((all - static_cast<double>(below)) / all);
  }

  void run(const Parallel& parallel = {}) {
    output.assign(static_cast<std::size_t>(p.batch * p.output_stride), std::numeric_limits<float>::quiet_NaN());
    MapPostprocess problem = p;
    problem.x = x.empty() ? nullptr : x.data();
    problem.images = images.data(), problem.output = output.data();
    problem.mean = mean.data(), problem.factor = factor.data();
    map_postprocess(problem, parallel);
  }

  /// Of smoothed maps that are `shift` larger, where they are calibrated.
  std::vector<double> expected(double shift = 0) const {
    std::vector<double> all;
    const auto plane = static_cast<std::size_t>(p.height * p.width),
               size = plane * static_cast<std::size_t>(p.channels);
    for (std::size_t i = 0; i < static_cast<std::size_t>(p.batch * p.maps); ++i) {
      const std::size_t n = i / static_cast<std::size_t>(p.maps), k = i % static_cast<std::size_t>(p.maps);
      std::vector<double> image(images.begin() + i * size, images.begin() + (i + 1) * size), map(plane, 0.0);
      if (x.empty()) {
        map = image;
      } else {
        std::vector<double> original(x.begin() + n * size, x.begin() + (n + 1) * size);
        if (p.scale_images) {
          image = to_unit(image.data(), size);
          original = to_unit(original.data(), size);
        }
        for (std::size_t j = 0; j < size; ++j) map[j % plane] += std::abs(original[j] - image[j]);
      }
      map = applied(blur_matrix(p.height, p.sigma), blur_matrix(p.width, p.sigma), map);
      if (p.scaling == MapScaling::kMinMax) {
        map = to_unit(map.data(), plane);
        std::vector<double> sorted = map;
        std::sort(sorted.begin(), sorted.end());
        const double place = p.upper_quantile * static_cast<double>(plane - 1);
        const auto below = static_cast<std::size_t>(place), above = std::min(below + 1, plane - 1);
        const double top = sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
        for (double& value : map) value = std::isfinite(value) && top > 0 ? value / top : 0;
      }
      if (p.scaling == MapScaling::kStandard)
        for (double& value : map)
          value = std::min<double>(p.limit, std::max<double>(-p.limit, (value - mean[k]) * factor[k]));
      if (p.scaling == MapScaling::kCalibrated)
        for (std::int64_t pixel = 0; pixel < p.height * p.width; ++pixel) {
          const std::int64_t row = pixel / p.width * p.regions / p.height,
                             column = pixel % p.width * p.regions / p.width,
                             cell = (static_cast<std::int64_t>(k) * p.regions + row) * p.regions + column;
          const auto first = healthy.begin() + cell * p.healthy_values;
          double& value = map[static_cast<std::size_t>(pixel)];
          value = minus_log(
              std::count_if(first, first + p.healthy_values, [&](float other) { return other < value + shift; }));
        }
      map = applied(resize_matrix(p.height, p.out_height, p.antialias),
                    resize_matrix(p.width, p.out_width, p.antialias), map);
      if (p.scaling == MapScaling::kMinMax && p.upper_quantile < 1)
        for (double& value : map) value = std::min(value, 1.0);
      all.insert(all.end(), map.begin(), map.end());
    }
    return all;
  }
};

}  // namespace

TEST_CASE("map_postprocess agrees with its definition in float64", "[kernels]") {
  struct Size {
    std::int64_t height, width, out_height, out_width;
  };
  for_each_instruction_set([] {
    std::uint64_t seed = 0;
    for (const Size s : {Size{1, 1, 1, 1},
                         {1, 9, 1, 4},
                         {7, 1, 3, 2},
                         {8, 8, 8, 8},
                         {16, 17, 14, 15},
                         {33, 31, 9, 40},
                         {23, 40, 50, 13},
                         {32, 32, 28, 28},
                         {5, 64, 2, 3}})
      for (const double sigma : {0.0, 0.6, 1.0, 3.5})
        for (const MapScaling scaling : {MapScaling::kNone, MapScaling::kMinMax, MapScaling::kStandard}) {
          ++seed;
          Case c(1 + static_cast<std::int64_t>(seed % 2), 3, 1 + static_cast<std::int64_t>(seed % 3), s.height, s.width,
                 s.out_height, s.out_width, seed);
          c.p.sigma = sigma, c.p.scaling = scaling, c.p.antialias = seed % 5 != 0, c.p.scale_images = seed % 4 == 0;
          if (seed % 3 == 1) c.p.upper_quantile = 0.85;
          if (s.height * s.width == 1) c.p.scale_images = false;  // constant: a case of its own
          INFO(s.height << " x " << s.width << " -> " << s.out_height << " x " << s.out_width << " sigma " << sigma
                        << " scaling " << static_cast<int>(scaling) << " C " << c.p.channels << " antialias "
                        << c.p.antialias << " scale_images " << c.p.scale_images);
          c.run();
          // A few pixels under a wide blur are all but equal: scaling them to [0, 1] magnifies their rounding.
          const bool flat = scaling == MapScaling::kMinMax && sigma > 3 && std::min(s.height, s.width) < 16;
          CHECK(largest_error(c.output, c.expected()) < (flat ? 1e-4 : 1e-5));
        }
  });
}

TEST_CASE("map_postprocess takes maps that are made already, with their sign", "[kernels]") {
  for_each_instruction_set([] {
    Case c(2, 3, 1, 20, 24, 13, 17, 4);
    c.x.clear();
    c.p.sigma = 1, c.p.scaling = MapScaling::kStandard;
    c.run();
    CHECK(largest_error(c.output, c.expected()) < 1e-5);
  });
}

TEST_CASE("map_postprocess is bit-equal whatever threads there are, and leaves gaps in the output alone", "[kernels]") {
  for_each_instruction_set([] {
    Case c(3, 5, 1, 40, 40, 35, 35, 9);
    c.p.sigma = 1, c.p.scaling = MapScaling::kMinMax, c.p.scale_images = true, c.p.upper_quantile = 0.9;
    c.run();
    const std::vector<float> alone = c.output;
    for (const int threads : {2, 3, 4}) {
      c.run(odd_threads(threads));
      CHECK(c.output == alone);
    }
    const std::int64_t size = c.p.output_stride;
    c.p.output_stride += 100;
    c.run(odd_threads(2));
    for (std::int64_t n = 0; n < 3; ++n) {
      const auto begin = c.output.begin() + n * c.p.output_stride;
      CHECK(std::equal(begin, begin + size, alone.begin() + n * size));
      CHECK(std::all_of(begin + size, begin + c.p.output_stride, [](float value) { return std::isnan(value); }));
    }
  });
}

TEST_CASE("a constant map or one with a NaN is zero after min-max scaling, its neighbours are not", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool scale_images : {false, true}) {
      Case c(1, 3, 1, 12, 19, 7, 9, 2);
      c.p.scaling = MapScaling::kMinMax, c.p.scale_images = scale_images, c.p.upper_quantile = scale_images ? 0.9 : 1;
      std::copy(c.x.begin(), c.x.end(), c.images.begin());  // map 0: nothing changed
      c.images[c.x.size() + 50] = std::numeric_limits<float>::quiet_NaN();
      c.run();
      CHECK(std::all_of(c.output.begin(), c.output.begin() + 2 * 63, [](float value) { return value == 0; }));
      CHECK(*std::max_element(c.output.begin() + 2 * 63, c.output.end()) > 0.2);
      CHECK(largest_error(c.output, c.expected()) < 1e-5);
    }
    // A constant image has no scale: 0 / 0, and the map is zero.
    Case c(1, 1, 1, 6, 6, 6, 6, 3);
    c.p.scaling = MapScaling::kMinMax, c.p.scale_images = true;
    std::fill(c.images.begin(), c.images.end(), 0.5F);
    c.run();
    CHECK(std::all_of(c.output.begin(), c.output.end(), [](float value) { return value == 0; }));
  });
}

TEST_CASE("map_postprocess takes an empty batch and no maps", "[kernels]") {
  Case none(0, 3, 1, 8, 8, 4, 4, 1), no_maps(2, 0, 1, 8, 8, 4, 4, 1);
  none.run(odd_threads(2));
  no_maps.run(odd_threads(2));
  CHECK(none.output.empty());
  CHECK(no_maps.output.empty());
}

TEST_CASE("what device kernels read beside their tensors is the blur and the resizing of the definition", "[kernels]") {
  const auto check = [](const Matrix& actual, const Matrix& expected) {
    REQUIRE(actual.size() == expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i)
      for (std::size_t j = 0; j < actual[i].size(); ++j) CHECK(std::abs(actual[i][j] - expected[i][j]) < 1e-6);
  };
  const auto nothing = [](std::int64_t rows, std::int64_t columns) {
    return Matrix(static_cast<std::size_t>(rows), std::vector<double>(static_cast<std::size_t>(columns), 0.0));
  };
  for (const double sigma : {0.0, 0.7, 2.0})
    for (const bool antialias : {true, false}) {
      Case c(1, 3, 1, 23, 41, 50, 13, 6);
      c.p.sigma = sigma, c.p.antialias = antialias, c.p.scaling = MapScaling::kStandard;
      c.p.mean = c.mean.data(), c.p.factor = c.factor.data();
      const MapTables tables = map_tables(c.p);
      const float* next = tables.values.data();
      const auto blur = [&](std::int64_t radius, std::int64_t size) {
        Matrix m = nothing(size, size);
        for (std::int64_t i = 0; i < size; ++i)
          for (std::int64_t k = -radius; k <= radius; ++k)
            m[static_cast<std::size_t>(i)][static_cast<std::size_t>(cuda::reflected(
                static_cast<int>(i + k), static_cast<int>(radius), static_cast<int>(size)))] += next[std::abs(k)];
        next += radius + 1;
        return m;
      };
      check(blur(tables.vertical, 23), blur_matrix(23, sigma));
      check(blur(tables.horizontal, 41), blur_matrix(41, sigma));
      // The weights of result i lie `along` apart from one tap to the next, those of a tap `across` from result to
      // result.
      const auto resize = [&](std::int64_t source, std::int64_t target, std::int64_t taps, std::int64_t along,
                              std::int64_t across) {
        Matrix m = nothing(target, source);
        for (std::int64_t i = 0; i < target; ++i)
          for (std::int64_t j = 0; j < taps; ++j)
            m[static_cast<std::size_t>(i)].at(static_cast<std::size_t>(next[i]) + static_cast<std::size_t>(j)) +=
                next[target + i * across + j * along];
        next += target + target * taps;
        return m;
      };
      check(resize(23, 50, tables.row_taps, 1, tables.row_taps), resize_matrix(23, 50, antialias));
      check(resize(41, 13, tables.column_taps, 13, 1), resize_matrix(41, 13, antialias));
      CHECK(std::equal(c.mean.begin(), c.mean.end(), next));
      CHECK(std::equal(c.factor.begin(), c.factor.end(), next + 3));
      CHECK(next + 6 == tables.values.data() + tables.values.size());
    }
}

namespace {

/// map_postprocess_device of a case, whose arrays begin `skipped` bytes behind a multiple of 16.
std::vector<float> run_on_device(const Case& c, std::size_t skipped = 0, Element element = Element::kFloat32) {
  DeviceMemory x(c.x, skipped), images(c.images, skipped),
      output(static_cast<std::size_t>(c.p.batch * c.p.output_stride) * daug::test::bytes_of(element), skipped);
  MapPostprocess p = c.p;
  p.mean = c.mean.data(), p.factor = c.factor.data();
  const MapTables tables = map_tables(p);
  DeviceMemory values(tables.values, skipped), healthy(c.healthy, skipped), minus_log_p(c.minus_log_p, skipped);
  p.mean = p.factor = nullptr;
  p.healthy = healthy.floats(), p.minus_log_p = minus_log_p.floats();
  p.x = c.x.empty() ? nullptr : x.floats(), p.images = images.floats();
  DeviceMemory workspace(static_cast<std::size_t>(map_postprocess_workspace(p)) * sizeof(float));
  const Launched launched;
  launched.check(
      map_postprocess_device(p, tables, values.floats(), workspace.floats(), output.data(), element, launched.where));
  return from_device(output, element);
}

/// The maps of a case, image after image, once what holds of every scaling is checked: the same bits in both orders,
/// gaps left alone, halves that are these maps rounded, images that do not depend on their batch.
std::vector<float> checked_on_device(const Case& c, std::uint64_t seed) {
  const auto result = in_both_orders([&] { return run_on_device(c, 4 * (seed % 4)); });
  const std::int64_t size = c.p.maps * c.p.out_height * c.p.out_width, last = (c.p.batch - 1) * c.p.output_stride;
  std::vector<float> images;
  for (std::int64_t n = 0; n < c.p.batch; ++n) {
    const auto begin = result.begin() + n * c.p.output_stride;
    images.insert(images.end(), begin, begin + size);
    CHECK(std::all_of(begin + size, begin + c.p.output_stride, [](float value) { return std::isnan(value); }));
  }
  if (seed % 4 == 2) {
    std::vector<float> rounded = result;
    round_to(Element::kFloat16, rounded);
    const auto halves = in_both_orders([&] { return run_on_device(c, 2 * (seed % 8), Element::kFloat16); });
    REQUIRE(halves.size() == rounded.size());
    for (std::size_t i = 0; i < halves.size(); ++i)
      CHECK((halves[i] == rounded[i] || (std::isnan(halves[i]) && std::isnan(rounded[i]))));
  }
  Case alone = c;
  alone.p.batch = 1;
  const auto keep_last = [&](std::vector<float>& values) {
    values.erase(values.begin(), values.end() - static_cast<std::ptrdiff_t>(values.size()) / c.p.batch);
  };
  keep_last(alone.images);
  if (!alone.x.empty()) keep_last(alone.x);
  const auto of_last = run_on_device(alone);
  CHECK(std::equal(of_last.begin(), of_last.begin() + size, result.begin() + last));
  return images;
}

}  // namespace

TEST_CASE("map_postprocess of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  struct Size {
    std::int64_t height, width, out_height, out_width;
  };
  std::uint64_t seed = 0;
  for (const Size s : std::vector<Size>{{1, 1, 1, 1},
                                        {1, 9, 1, 4},
                                        {7, 1, 3, 2},
                                        {16, 17, 14, 15},
                                        {32, 64, 32, 32},
                                        {33, 65, 33, 33},
                                        {31, 63, 65, 31},
                                        {64, 40, 7, 70},
                                        {66, 130, 28, 64},
                                        {23, 129, 3, 5},
                                        {20, 36, 40, 72},  // two source pixels along both axes,
                                        {80, 72, 70, 63},  // three,
                                        {64, 66, 32, 33},  // four,
                                        {340, 6, 2, 6}})   // and more than stay four columns wide
    for (const double sigma : {0.0, 0.8, 6.3})
      for (const MapScaling scaling : {MapScaling::kNone, MapScaling::kMinMax, MapScaling::kStandard}) {
        ++seed;
        Case c(1 + static_cast<std::int64_t>(seed % 2), 1 + static_cast<std::int64_t>(seed % 3),
               1 + static_cast<std::int64_t>(seed % 3), s.height, s.width, s.out_height, s.out_width, seed);
        c.p.sigma = sigma, c.p.scaling = scaling, c.p.antialias = seed % 5 != 0, c.p.scale_images = seed % 4 == 0;
        if (seed % 2 == 1) c.p.upper_quantile = 0.85;
        if (s.height * s.width == 1) c.p.scale_images = false;
        c.p.output_stride += seed % 7;
        if (seed % 6 == 5 && c.p.channels == 1) c.x.clear();  // maps that are made already, with their sign
        INFO(s.height << " x " << s.width << " -> " << s.out_height << " x " << s.out_width << " sigma " << sigma
                      << " scaling " << static_cast<int>(scaling) << " seed " << seed);
        const bool flat = scaling == MapScaling::kMinMax && sigma > 1.5 && std::min(s.height, s.width) < 24;
        const std::vector<float> maps = checked_on_device(c, seed);
        CHECK(largest_error(maps, c.expected()) < (flat ? 1e-4 : 1e-5));
      }
}

TEST_CASE("map_postprocess of a device, emulated: every radius on maps of all shapes, wherever these begin",
          "[kernels][emulated]") {
  std::uint64_t seed = 0;
  for (const double sigma : {0.0, 0.3, 0.6, 1.0, 1.3, 1.6})  // radii 0 .. 5, where a map is large enough
    for (const auto& [height, width] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {2, 2}, {3, 4}, {5, 5}, {6, 8}, {33, 36}, {64, 128}, {65, 132}, {63, 127}, {67, 130}}) {
      ++seed;
      Case c(2, 3, 1 + static_cast<std::int64_t>(seed % 2), height, width, (height + 1) / 2, width, seed);
      c.p.sigma = sigma;
      c.p.scaling = seed % 3 == 0 ? MapScaling::kNone : seed % 3 == 1 ? MapScaling::kMinMax : MapScaling::kStandard;
      c.p.scale_images = seed % 4 == 0 && height > 1;
      if (seed % 5 < 2) c.p.upper_quantile = 0.9;
      INFO(height << " x " << width << " sigma " << sigma << " scaling " << static_cast<int>(c.p.scaling));
      const bool flat = c.p.scaling == MapScaling::kMinMax && std::min(height, width) < 8;
      CHECK(largest_error(checked_on_device(c, seed), c.expected()) < (flat ? 1e-4 : 1e-5));
      CHECK(run_on_device(c, 0) == run_on_device(c, 4));
    }
}

TEST_CASE("map_postprocess of a device, emulated: blurs for which a block has more memory than it has everywhere",
          "[kernels][emulated]") {
  struct Size {
    std::int64_t height, width, out_height, out_width;
  };
  const std::vector<Size> sizes = {
      {31, 136, 31, 68}, {49, 260, 49, 65}, {90, 51, 30, 51}, {67, 133, 33, 40}, {64, 128, 28, 28}};
  for (std::int64_t radius = 21; radius <= 48; ++radius) {
    const auto seed = static_cast<std::uint64_t>(radius);
    const Size s = sizes[seed % sizes.size()];
    Case c(1 + radius % 2, 1, 1, s.height, s.width, s.out_height, s.out_width, seed);
    c.p.sigma = (static_cast<double>(radius) - 0.5) / 3;
    c.p.scaling = radius % 3 == 0 ? MapScaling::kNone : radius % 3 == 1 ? MapScaling::kMinMax : MapScaling::kStandard;
    c.p.scale_images = radius % 4 == 1;
    if (radius % 2 == 1) c.p.upper_quantile = 0.9;
    // Brighter to the right, as such a blur leaves next to nothing of all else.
    for (std::size_t i = 0; i < c.images.size(); ++i)
      c.images[i] += 4 * static_cast<float>(i % static_cast<std::size_t>(s.width)) / static_cast<float>(s.width);
    const std::int64_t vertical = std::min(radius, s.height - 1), horizontal = std::min(radius, s.width - 1);
    c.p.mean = c.mean.data(), c.p.factor = c.factor.data();
    const MapTables tables = map_tables(c.p);
    REQUIRE(tables.vertical == vertical);
    REQUIRE(tables.horizontal == horizontal);
    REQUIRE(cuda::map_tile(vertical, horizontal).floats > cuda::kMostTileFloats);
    INFO("radius " << radius << " of " << s.height << " x " << s.width << " scaling " << static_cast<int>(c.p.scaling));
    CHECK(largest_error(checked_on_device(c, seed), c.expected()) < 1e-5);
  }
  // What is no number reaches as far as the blur, and no farther.
  for (const std::int64_t radius : {21, 22, 23, 24}) {
    const std::int64_t row = 30, column = 60, width = 133;
    Case c(1, 1, 1, 67, width, 67, width, 1);
    c.x.clear();
    c.p.sigma = (static_cast<double>(radius) - 0.5) / 3;
    c.images[static_cast<std::size_t>(row * width + column)] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> maps = in_both_orders([&] { return run_on_device(c); });
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < 67 * width; ++i) {
      const bool reached = std::abs(i / width - row) <= radius && std::abs(i % width - column) <= radius;
      wrong += std::isnan(maps[static_cast<std::size_t>(i)]) != reached;
    }
    INFO("radius " << radius);
    CHECK(wrong == 0);
  }
}

TEST_CASE("map_postprocess of a device, emulated, is refused where a block may not have what a wide blur needs",
          "[kernels][emulated]") {
  struct Restore {
    std::size_t allowed = emulation::most_allowed;
    ~Restore() { emulation::most_allowed = allowed; }
  } restore;
  Case c(1, 2, 1, 50, 70, 25, 35, 1);
  c.p.sigma = 7;
  emulation::most_allowed = 64 * 1024;
  const std::int64_t before = emulation::launches;
  const LaunchError error =
      map_postprocess_device(c.p, map_tables(c.p), nullptr, nullptr, nullptr, Element::kFloat32, {});
  REQUIRE(error);
  CHECK(std::string(error.problem) == "invalid argument");
  CHECK(error.blame == Blame::kCall);
  CHECK_FALSE(error.of_memory);
  REQUIRE(error.kernel != nullptr);
  CHECK(std::string(error.kernel) == "smooth");
  CHECK(emulation::launches == before);
  // A narrower one asks for nothing, and the call behind finds no error of this one.
  for (const double sigma : {6.6, 7.0}) {
    c.p.sigma = sigma;
    CHECK(largest_error(run_on_device(c), c.expected()) < 1e-5);
    emulation::most_allowed = restore.allowed;
  }
}

TEST_CASE("map_postprocess of a device, emulated, calibrates a pixel among the values of its cell",
          "[kernels][emulated]") {
  struct Size {
    std::int64_t height, width, out_height, out_width, regions, values;
  };
  std::uint64_t seed = 0;
  for (const Size s : std::vector<Size>{{1, 1, 1, 1, 1, 19},
                                        {7, 11, 7, 11, 3, 20},
                                        {33, 65, 20, 70, 4, 99},
                                        {66, 130, 28, 64, 5, 999},
                                        {64, 64, 64, 64, 64, 31}})
    for (const double sigma : {0.0, 1.0, 1.7}) {
      ++seed;
      Case c(2, 1 + static_cast<std::int64_t>(seed % 3), 1 + static_cast<std::int64_t>(seed % 2), s.height, s.width,
             s.out_height, s.out_width, seed);
      c.calibrate(s.regions, s.values, seed);
      c.p.sigma = sigma, c.p.output_stride += seed % 7;
      INFO(s.height << " x " << s.width << " -> " << s.out_height << " x " << s.out_width << " sigma " << sigma);
      // Rounding may put a pixel on the other side of a healthy value, but none that is farther from it.
      const std::vector<double> least = c.expected(-1e-5), most = c.expected(1e-5);
      const std::vector<float> maps = checked_on_device(c, seed);
      REQUIRE(maps.size() == least.size());
      std::int64_t wrong = 0;
      for (std::size_t i = 0; i < maps.size(); ++i) wrong += !(maps[i] > least[i] - 1e-5 && maps[i] < most[i] + 1e-5);
      CHECK(wrong == 0);
    }
  // Without a difference, a blur and resizing nothing is rounded: exactly the definition, also of pixels that are equal
  // to a healthy value.
  Case c(2, 2, 1, 40, 70, 40, 70, 5);
  c.calibrate(3, 37, 6);
  c.x.clear();
  for (std::size_t i = 0; i < c.images.size(); i += 2) c.images[i] = c.healthy[i % c.healthy.size()];
  const std::vector<double> definition = c.expected();
  const std::vector<float> exact(definition.begin(), definition.end()), found = checked_on_device(c, 2);
  CHECK(found == exact);
  c.images[123] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> spoiled = in_both_orders([&] { return run_on_device(c); });
  CHECK(std::isnan(spoiled[123]));
  spoiled[123] = exact[123];
  CHECK(spoiled == exact);
}

TEST_CASE("map_postprocess of a device, emulated: quantiles of every rank, with ties", "[kernels][emulated]") {
  for (const double quantile : {1e-9, 0.01, 0.25, 0.5, 0.97, 0.999, 1 - 1e-12})
    for (const bool ties : {false, true}) {
      const std::int64_t width = ties ? 41 : 200, size = 37 * width;  // the former's second map is not aligned
      Case c(1, 2, 1, 37, width, 37, width, 12);
      c.x.clear();
      c.p.scaling = MapScaling::kMinMax, c.p.upper_quantile = quantile;
      // Values of both signs and of every exponent, or few different ones.
      for (float& value : c.images) value = ties ? std::round(value) : value * std::exp2(20 * value);
      // Definitions in float64 divide by a quantile that may be the minimum.
      const auto result = in_both_orders([&] { return run_on_device(c); });
      for (std::size_t k = 0; k < 2; ++k) {
        std::vector<float> map(c.images.begin() + static_cast<std::ptrdiff_t>(k) * size,
                               c.images.begin() + static_cast<std::ptrdiff_t>(k + 1) * size),
            sorted = map;
        std::sort(sorted.begin(), sorted.end());
        const double place = quantile * static_cast<double>(map.size() - 1);
        const auto below = static_cast<std::size_t>(place), above = std::min(below + 1, map.size() - 1);
        const double low = sorted[below];
        const auto top = static_cast<float>(low + (place - static_cast<double>(below)) * (sorted[above] - low));
        std::int64_t wrong = 0;
        for (std::size_t i = 0; i < map.size(); ++i) {
          const float range = top - sorted[0], value = range > 0 ? (map[i] - sorted[0]) / range : 0.0F;
          wrong += result[k * map.size() + i] != std::min(value, 1.0F);
        }
        INFO("quantile " << quantile << " ties " << ties);
        CHECK(wrong == 0);
      }
    }
}

TEST_CASE("map_postprocess of a device, emulated: NaN, constant maps, nothing to do, limits", "[kernels][emulated]") {
  for (const bool scale_images : {false, true}) {
    Case c(1, 3, 1, 40, 70, 7, 9, 2);
    c.p.scaling = MapScaling::kMinMax, c.p.scale_images = scale_images, c.p.upper_quantile = scale_images ? 0.9 : 1;
    std::copy(c.x.begin(), c.x.end(), c.images.begin());  // map 0: nothing changed
    c.images[c.x.size() + 50] = std::numeric_limits<float>::quiet_NaN();
    const auto result = in_both_orders([&] { return run_on_device(c); });
    CHECK(std::all_of(result.begin(), result.begin() + 2 * 63, [](float value) { return value == 0; }));
    CHECK(*std::max_element(result.begin() + 2 * 63, result.end()) > 0.2);
    CHECK(largest_error(result, c.expected()) < 1e-5);
  }
  // A constant image has no scale: 0 / 0, and the map is zero.
  Case flat(1, 1, 1, 6, 6, 6, 6, 3);
  flat.p.scaling = MapScaling::kMinMax, flat.p.scale_images = true;
  std::fill(flat.images.begin(), flat.images.end(), 0.5F);
  CHECK(run_on_device(flat) == std::vector<float>(36, 0.0F));
  const std::int64_t before = emulation::launches;
  CHECK(map_postprocess_device({}, {}, nullptr, nullptr, nullptr, Element::kFloat32, {}).problem == nullptr);
  CHECK(map_postprocess_device({}, {}, nullptr, nullptr, nullptr, Element::kBfloat16, {}).problem != nullptr);
  Case low(1, 1, 1, 177, 2, 1, 2, 1);
  CHECK(map_postprocess_device(low.p, map_tables(low.p), nullptr, nullptr, nullptr, Element::kFloat32, {}).problem !=
        nullptr);
  MapTables wide;
  wide.vertical = wide.horizontal = 49;
  Case c(1, 1, 1, 64, 64, 8, 8, 1);
  CHECK(map_postprocess_device(c.p, wide, nullptr, nullptr, nullptr, Element::kFloat32, {}).problem != nullptr);
  CHECK(emulation::launches == before);
}

#ifndef __SANITIZE_ADDRESS__  // under which it takes half a minute
TEST_CASE("map_postprocess of a device, emulated: more maps than are worked on at a time", "[kernels][emulated]") {
  Case c(3, 1, 1, 1, 1, 20, 20, 3);
  c.p.height = c.p.width = 2048;
  REQUIRE(cuda::maps_at_once(3, 2048 * 2048) == 2);
  std::uint32_t bits = 1;
  for (auto* values : {&c.x, &c.images}) {
    values->resize(3 * 2048 * 2048);
    for (std::size_t i = 0; i < values->size(); ++i) {
      bits = bits * 1664525 + 1013904223;
      (*values)[i] = static_cast<float>(bits >> 16) * static_cast<float>(1 + i / (2048 * 2048));
    }
  }
  c.p.scaling = MapScaling::kMinMax, c.p.scale_images = true;
  c.run();
  const std::vector<double> expected(c.output.begin(), c.output.end());
  CHECK(largest_error(run_on_device(c), expected) < 1e-5);
}

TEST_CASE("map_postprocess of a device, emulated, calibrates maps by their own cells where groups end inside an image",
          "[kernels][emulated]") {
  constexpr std::int64_t kHeight = 1400, kWidth = 2000, kRegions = 5, kValues = 99;
  Case c(2, 3, 1, 1, 1, 20, 20, 8);
  c.p.height = kHeight, c.p.width = kWidth;
  c.calibrate(kRegions, kValues, 9);
  c.x.clear();
  REQUIRE(cuda::maps_at_once(6, kHeight * kWidth) == 2);
  c.images.resize(6 * kHeight * kWidth);
  std::uint32_t bits = 1;
  for (float& value : c.images) {
    bits = bits * 1664525 + 1013904223;
    value = static_cast<float>(bits >> 16) / 16384 - 1;
  }
  std::vector<double> expected;
  for (std::int64_t map = 0; map < 6; ++map) {
    std::vector<double> ranked;
    for (std::int64_t i = 0; i < kHeight * kWidth; ++i) {
      const std::int64_t row = i / kWidth * kRegions / kHeight, column = i % kWidth * kRegions / kWidth;
      const auto cell = c.healthy.begin() + ((map % 3 * kRegions + row) * kRegions + column) * kValues;
      const float value = c.images[static_cast<std::size_t>(map * kHeight * kWidth + i)];
      ranked.push_back(c.minus_log(std::lower_bound(cell, cell + kValues, value) - cell));
    }
    const auto resized = applied(resize_matrix(kHeight, 20, true), resize_matrix(kWidth, 20, true), ranked);
    expected.insert(expected.end(), resized.begin(), resized.end());
  }
  CHECK(largest_error(run_on_device(c), expected) < 1e-5);
}
#endif
