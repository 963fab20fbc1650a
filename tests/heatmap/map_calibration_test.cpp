#include "daug/heatmap/map_calibration.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "daug/data/phantom.h"
#include "daug/heatmap/maps.h"
#include "daug/metrics/calibration.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Images [N, 1, S, S] of phantoms.
at::Tensor images_of(const std::vector<Phantom>& phantoms, bool healthy) {
  std::vector<at::Tensor> images;
  for (const auto& phantom : phantoms) {
    const auto& pixels = healthy ? phantom.healthy : phantom.image;
    images.push_back(at::tensor(at::ArrayRef<float>(pixels)).reshape({1, phantom.size, phantom.size}));
  }
  return at::stack(images);
}

/// Two maps of each phantom: what smoothing with two widths takes away.
at::Tensor maps_of(const std::vector<Phantom>& phantoms, bool healthy) {
  const at::Tensor x = images_of(phantoms, healthy);
  return at::cat({(x - smoothed(x, 1)).abs(), (x - smoothed(x, 3)).abs()}, 1);
}

std::vector<Phantom> phantoms(std::uint64_t first, std::uint64_t count) {
  PhantomOptions options;
  options.prevalence = 1;
  std::vector<Phantom> result;
  for (std::uint64_t i = 0; i < count; ++i) result.push_back(make_phantom(options, first + i, 0));
  return result;
}

/// The exact denoiser of pixels that are normal around a mean image of 32 x 32. Each of two findings has half of the
/// image, where its presence doubles the deviation of 0.25 and its absence halves it: away from a finding an image
/// moves towards the mean.
class Halves : public NoisePredictor {
 public:
  Halves(NoiseSchedule schedule, at::Tensor mean) : schedule_(std::move(schedule)), mean_(std::move(mean)) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const std::int64_t asked = std::max<std::int64_t>(level, 1);
    const double s = schedule_.signal(asked), n = schedule_.noise(asked);
    const at::Tensor states = condition.defined() ? condition.to(at::kFloat) : at::zeros({x.size(0), 2});
    const at::Tensor columns = states.unsqueeze(2).expand({-1, -1, 16}).reshape({-1, 1, 1, 32});
    const at::Tensor variance = 0.0625 * at::pow(4, columns);
    return (x - s * mean_) * (n / (s * s * variance + n * n));
  }

 private:
  NoiseSchedule schedule_;
  at::Tensor mean_;
};

}  // namespace

TEST_CASE("p-values of other healthy phantoms are uniform, what none of them has is unlikely", "[map_calibration]") {
  constexpr int kFit = 300, kHeldOut = 200;
  const auto calibration = MapCalibration::fit(maps_of(phantoms(0, kFit), true), {"fine", "coarse"});
  CHECK(calibration.images() == kFit);
  const auto others = phantoms(1000, kHeldOut);
  const at::Tensor healthy = maps_of(others, true);
  const double samples = std::sqrt(1.0 / kFit + 1.0 / kHeldOut);
  const double critical = 1.63 * samples;  // two samples, level 0.01
  const at::Tensor images = calibration.image_p_values(healthy), regions = calibration.region_p_values(healthy);
  for (std::int64_t k = 0; k < 2; ++k) {
    INFO("map " << k);
    CHECK(*uniform_distance(to_doubles(images.select(1, k))) < critical);
    for (const auto& [row, column] : {std::pair{0, 0}, std::pair{1, 2}, std::pair{3, 1}})
      CHECK(*uniform_distance(to_doubles(regions.select(1, k).select(1, row).select(1, column))) < critical);
    // And every region of every target: level 0.00005 each, 0.0016 for all 32.
    for (std::int64_t cell = 0; cell < 16; ++cell) {
      INFO("cell " << cell);
      CHECK(*uniform_distance(to_doubles(regions.select(1, k).flatten(1).select(1, cell))) < 2.3 * samples);
    }
  }
  // Pixels of one image go together, so that only the pooled share can be held against the level.
  CHECK(calibration.pixel_p_values(healthy).le(0.05).to(at::kDouble).mean().item<double>() ==
        Approx(0.05).margin(0.02));
  // What no healthy map has is as unlikely as the number of healthy maps can say.
  at::Tensor marked = healthy.clone();
  marked.narrow(2, 9, 5).narrow(3, 9, 5).add_(1.0);
  CHECK(calibration.image_p_values(marked).max().item<double>() == 1.0 / (kFit + 1));
  CHECK(calibration.region_p_values(marked).select(2, 1).select(2, 1).max().item<double>() == 1.0 / (kFit + 1));
  CHECK(calibration.calibrated(marked).narrow(2, 9, 5).narrow(3, 9, 5).min().item<double>() > 2);
  CHECK(calibration.calibrated(healthy).min().item<double>() >= 0);
}

TEST_CASE("p-values of difference maps of other healthy phantoms are uniform, of diseased ones they are not",
          "[map_calibration]") {
  constexpr int kImages = 200;
  const auto schedule = NoiseSchedule::linear(1000);
  // Of a third set, so that the maps that calibrate and those held out are alike.
  const at::Tensor mean = images_of(phantoms(5000, 100), true).mean(0, true);
  TranslatorOptions options;
  options.level = 250;
  options.steps = 20;
  const DiffusionTranslator translator(std::make_shared<Halves>(schedule, mean), schedule, {"left", "right"}, options);
  const auto difference_maps = [&](std::uint64_t first, bool healthy) {
    const at::Tensor x = images_of(phantoms(first, kImages), healthy);
    const std::vector<Target> targets = {away_from("left"), away_from("right")};
    return smoothed(difference_map(x, translator.translate(x, targets).images), 1);
  };
  const auto calibration = MapCalibration::fit(difference_maps(0, true), {"left", "right"});
  const at::Tensor held_out = difference_maps(1000, true);
  const at::Tensor healthy = calibration.image_p_values(held_out);
  const at::Tensor regions = calibration.region_p_values(held_out);
  const at::Tensor diseased = calibration.image_p_values(difference_maps(1000, false));
  const double critical = 1.95 * std::sqrt(2.0 / kImages);  // two samples, level 0.001
  for (std::int64_t k = 0; k < 2; ++k) {
    INFO("map " << k);
    // Each target changes its own half of an image.
    const auto change = [&](std::int64_t half) {
      return held_out.select(1, k).narrow(2, 18 * half, 14).mean().item<double>();
    };
    CHECK(change(k) > 5 * change(1 - k));
    CHECK(*uniform_distance(to_doubles(healthy.select(1, k))) < critical);
    CHECK(*uniform_distance(to_doubles(regions.select(1, k).select(1, k).select(1, 2 * k))) < critical);
    CHECK(*uniform_distance(to_doubles(diseased.select(1, k))) > critical);
  }
}

TEST_CASE("p-values by hand", "[map_calibration]") {
  // One cell, four healthy images of one constant each.
  const at::Tensor healthy = at::tensor({1.0, 2.0, 3.0, 4.0}, at::kDouble).reshape({4, 1, 1, 1}).expand({4, 1, 2, 2});
  const auto calibration = MapCalibration::fit(healthy, {"x"}, {1, 19});
  const auto map_of = [](double value) { return at::full({1, 1, 2, 2}, value, at::kDouble); };
  const auto cell = [&](double value) { return calibration.region_p_values(map_of(value)).item<double>(); };
  CHECK(cell(0) == 1);             // all four are at least as large
  CHECK(cell(3) == 3.0 / 5);       // 3 and 4
  CHECK(cell(3.5) == 2.0 / 5);     // 4
  CHECK(cell(4.0001) == 1.0 / 5);  // none, and still not 0
  // In deviations of the other three from their mean: 1 is -2 / sqrt(2 / 3) = -2.45, 2 is -0.53, 3 is 0.53, 4 is 2.45.
  // Of other images, from 2.5 in deviations of sqrt(5 / 4).
  const auto image = [&](double value) { return calibration.image_p_values(map_of(value)).item<double>(); };
  CHECK(image(-0.3) == 1);       // -2.50
  CHECK(image(0) == 4.0 / 5);    // -2.24
  CHECK(image(3) == 3.0 / 5);    // 0.45
  CHECK(image(5) == 2.0 / 5);    // 2.24
  CHECK(image(5.3) == 1.0 / 5);  // 2.50
  CHECK(calibration.pixel_p_values(at::full({1, 1, 2, 2}, 9.0)).max().item<double>() == 1.0 / 20);
}

TEST_CASE("p-values count healthy values, in cells of any size and maps of any layout", "[map_calibration]") {
  constexpr std::int64_t kHealthy = 6, kMaps = 4, kHeight = 7, kWidth = 11, kRegions = 3, kQuantiles = 19;
  const at::Tensor healthy = random_tensor({kHealthy, 2, kHeight, kWidth}, 1);
  const at::Tensor maps = random_tensor({kMaps, 2, kWidth, kHeight}, 2).transpose(2, 3);
  const auto calibration = MapCalibration::fit(healthy, {"a", "b"}, {kRegions, kQuantiles});
  const auto values_in = [](const at::Tensor& plane, std::int64_t row, std::int64_t column) {
    std::vector<double> values;
    for (std::int64_t y = 0; y < kHeight; ++y)
      for (std::int64_t x = 0; x < kWidth; ++x)
        if (y * kRegions / kHeight == row && x * kRegions / kWidth == column)
          values.push_back(plane[y][x].item<double>());
    return values;
  };
  const auto mean_of = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  const auto p_of = [](const std::vector<double>& null, double value) {
    const auto reached = std::count_if(null.begin(), null.end(), [&](double other) { return other >= value; });
    return (1 + static_cast<double>(reached)) / (1 + static_cast<double>(null.size()));
  };
  const at::Tensor pixels = calibration.pixel_p_values(maps), regions = calibration.region_p_values(maps);
  REQUIRE(pixels.sizes() == maps.sizes());
  REQUIRE(regions.sizes() == at::IntArrayRef({kMaps, 2, kRegions, kRegions}));
  for (std::int64_t k = 0; k < 2; ++k)
    for (std::int64_t row = 0; row < kRegions; ++row)
      for (std::int64_t column = 0; column < kRegions; ++column) {
        INFO("map " << k << ", row " << row << ", column " << column);
        std::vector<double> all, means, null;
        for (std::int64_t i = 0; i < kHealthy; ++i) {
          const std::vector<double> values = values_in(healthy[i][k], row, column);
          all.insert(all.end(), values.begin(), values.end());
          means.push_back(mean_of(values));
        }
        std::sort(all.begin(), all.end());
        for (std::int64_t q = 0; q < kQuantiles; ++q) {
          const double level = (static_cast<double>(q) + 0.5) / static_cast<double>(kQuantiles);
          null.push_back(all[static_cast<std::size_t>(level * static_cast<double>(all.size()))]);
        }
        for (std::int64_t i = 0; i < kMaps; ++i) {
          const std::vector<double> values = values_in(maps[i][k], row, column);
          const std::vector<double> found = values_in(pixels[i][k], row, column);
          for (std::size_t pixel = 0; pixel < values.size(); ++pixel) CHECK(found[pixel] == p_of(null, values[pixel]));
          CHECK(regions[i][k][row][column].item<double>() == p_of(means, mean_of(values)));
        }
      }
  const at::Tensor none = maps.narrow(0, 0, 0);
  CHECK(calibration.pixel_p_values(none).sizes() == none.sizes());
  CHECK(calibration.region_p_values(none).sizes() == at::IntArrayRef({0, 2, kRegions, kRegions}));
  CHECK(calibration.image_p_values(none).sizes() == at::IntArrayRef({0, 2}));
}

TEST_CASE("numbers that are rounded down are less than the same float32 numbers as before", "[map_calibration]") {
  std::vector<double> numbers = {0.0, -0.0, 0.1, -0.1, 1e-50, -1e-50, 1e300, -1e300, 16777217, -16777217};
  for (const double number : to_doubles(random_tensor({200}, 3))) {
    numbers.push_back(number);
    numbers.push_back(static_cast<float>(number));
  }
  const at::Tensor rounded = rounded_down(at::tensor(numbers, at::kDouble));
  REQUIRE(rounded.scalar_type() == at::kFloat);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const float down = rounded.const_data_ptr<float>()[i], next = std::nextafter(down, INFINITY);
    INFO(numbers[i] << " became " << down);
    CHECK(down <= numbers[i]);
    CHECK(next > numbers[i]);
    for (const float value : {-INFINITY, -0.5F, 0.0F, 0.5F, INFINITY, down, next})
      CHECK((down < value) == (numbers[i] < value));
  }
  CHECK(std::isnan(rounded_down(at::full({1}, std::nan(""), at::kDouble)).item<float>()));
}

TEST_CASE("tables for kernels rank float32 pixels as calibrated does", "[map_calibration]") {
  constexpr std::int64_t kHeight = 7, kWidth = 11, kRegions = 3, kQuantiles = 19;
  const at::Tensor healthy = random_tensor({6, 2, kHeight, kWidth}, 1);
  // And those that only rounding sets apart from a healthy value.
  const at::Tensor maps = at::cat({random_tensor({4, 2, kHeight, kWidth}, 2), healthy}).to(at::kFloat);
  for (const at::ScalarType fitted_on : {at::kDouble, at::kFloat}) {
    const auto calibration = MapCalibration::fit(healthy.to(fitted_on), {"a", "b"}, {kRegions, kQuantiles});
    CHECK(calibration.regions() == kRegions);
    CHECK(calibration.height() == kHeight);
    CHECK(calibration.width() == kWidth);
    const MapCalibration::PixelTables& tables = calibration.pixel_tables();
    REQUIRE(tables.healthy.sizes() == at::IntArrayRef({2, kRegions * kRegions, kQuantiles}));
    REQUIRE(tables.healthy.scalar_type() == at::kFloat);
    REQUIRE(tables.minus_log_p.sizes() == at::IntArrayRef({kQuantiles + 1}));
    REQUIRE(tables.minus_log_p.scalar_type() == at::kFloat);
    at::Tensor ranked = at::empty_like(maps);
    for (std::int64_t k = 0; k < 2; ++k)
      for (std::int64_t y = 0; y < kHeight; ++y)
        for (std::int64_t x = 0; x < kWidth; ++x) {
          const std::int64_t cell = y * kRegions / kHeight * kRegions + x * kRegions / kWidth;
          const at::Tensor values = maps.select(3, x).select(2, y).select(1, k).unsqueeze(1);
          const at::Tensor below = tables.healthy[k][cell].lt(values).sum(1);
          ranked.select(3, x).select(2, y).select(1, k).copy_(tables.minus_log_p.index_select(0, below));
        }
    CHECK(largest_difference(ranked, calibration.calibrated(maps)) < 1e-6);
  }
}

TEST_CASE("maps on a device are calibrated there as on the CPU", "[map_calibration][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const at::Tensor healthy = random_tensor({20, 2, 33, 47}, 1).abs(), maps = random_tensor({7, 2, 33, 47}, 2).abs();
  const MapCalibrationOptions options{5, 99};
  const auto here = MapCalibration::fit(healthy, {"a", "b"}, options);
  const at::Tensor there = maps.to(device);
  for (const MapCalibration& calibration :
       {here, here.to(device), MapCalibration::fit(healthy.to(device), {"a", "b"}, options)}) {
    const at::Tensor pixels = calibration.pixel_p_values(there);
    CHECK(pixels.is_cuda());
    CHECK(same_bits(pixels.cpu(), here.pixel_p_values(maps)));
    CHECK(largest_difference(calibration.region_p_values(there).cpu(), here.region_p_values(maps)) < 1e-12);
    CHECK(largest_difference(calibration.image_p_values(there).cpu(), here.image_p_values(maps)) < 1e-12);
    CHECK(largest_difference(calibration.calibrated(there).cpu(), here.calibrated(maps)) < 1e-12);
    CHECK(calibration.calibrated(there.narrow(0, 0, 0)).size(0) == 0);
    CHECK(same_bits(calibration.pixel_tables().healthy.cpu(), here.pixel_tables().healthy));
    CHECK(same_bits(calibration.pixel_tables().minus_log_p.cpu(), here.pixel_tables().minus_log_p));

    at::Tensor spoiled = there.clone();
    spoiled[1][0][4][5] = std::nan("");
    const at::Tensor of_pixels = calibration.pixel_p_values(spoiled).isnan();
    CHECK(of_pixels.sum().item<std::int64_t>() == 1);
    CHECK(of_pixels[1][0][4][5].item<bool>());
    const at::Tensor of_images = calibration.image_p_values(spoiled).isnan();
    CHECK(of_images.sum().item<std::int64_t>() == 1);
    CHECK(of_images[1][0].item<bool>());
  }
}

TEST_CASE("a batch of one is calibrated as a batch of many, and files keep everything", "[map_calibration]") {
  const auto some = phantoms(0, 20);
  const auto calibration = MapCalibration::fit(maps_of(some, true), {"fine", "coarse"}, {3, 99});
  const at::Tensor maps = maps_of(some, false);
  const auto copy = MapCalibration::from_file(calibration.to_file());
  CHECK(copy.targets() == calibration.targets());
  CHECK(same_bits(copy.pixel_tables().healthy, calibration.pixel_tables().healthy));
  CHECK(same_bits(copy.pixel_tables().minus_log_p, calibration.pixel_tables().minus_log_p));
  const at::Tensor images = calibration.image_p_values(maps), regions = calibration.region_p_values(maps);
  const at::Tensor pixels = calibration.pixel_p_values(maps);
  CHECK(same_bits(copy.image_p_values(maps), images));
  CHECK(same_bits(copy.pixel_p_values(maps), pixels));
  for (std::int64_t i = 0; i < 20; i += 7) {
    const at::Tensor one = maps.narrow(0, i, 1);
    CHECK(same_bits(copy.image_p_values(one), images.narrow(0, i, 1)));
    CHECK(same_bits(copy.region_p_values(one), regions.narrow(0, i, 1)));
    CHECK(same_bits(copy.pixel_p_values(one), pixels.narrow(0, i, 1)));
  }
}

TEST_CASE("calibrations refuse what does not fit", "[map_calibration]") {
  const at::Tensor maps = at::rand({5, 2, 8, 8});
  const auto calibration = MapCalibration::fit(maps, {"a", "b"});
  check_refused(ErrorCode::kInvalidArgument, "fit: maps", [&] { MapCalibration::fit(maps, {"a"}); });
  check_refused(ErrorCode::kInvalidArgument, "fit: maps", [&] {
    MapCalibration::fit(maps.narrow(0, 0, 2), {"a", "b"});
  });
  check_refused(ErrorCode::kInvalidArgument, "fit: maps", [&] { MapCalibration::fit(maps, {"a", "b"}, {9}); });
  check_refused(ErrorCode::kInvalidArgument, "fit: maps", [&] {
    MapCalibration::fit(maps * std::nan(""), {"a", "b"});
  });
  check_refused(ErrorCode::kInvalidArgument, "image_p_values: maps", [&] {
    calibration.image_p_values(at::rand({1, 2, 8, 9}));
  });
  check_refused(ErrorCode::kInvalidArgument, "pixel_p_values: maps", [&] {
    calibration.pixel_p_values(at::full({1, 2, 8, 8}, INFINITY));
  });
  const auto refused = [&](const std::function<void(SafetensorsFile&)>& spoil) {
    auto file = calibration.to_file();
    spoil(file);
    CHECK_THROWS_AS(MapCalibration::from_file(file), Error);
  };
  refused([](auto& f) { f.metadata["format"] = "other"; });
  refused([](auto& f) { f.metadata["targets"] = "[1]"; });
  refused([](auto& f) { f.metadata["targets"] = "[\"a\"]"; });
  refused([](auto& f) { f.metadata["regions"] = "99999999999999"; });
  refused([](auto& f) { f.tensors.erase("spread"); });
  refused([](auto& f) { std::reverse(f.tensors["image_scores"].data.begin(), f.tensors["image_scores"].data.end()); });
  refused([](auto& f) { f.tensors["pixels"] = Array::from(std::vector<double>(2 * 16 * 65536), {2, 16, 65536}); });
  refused([](auto& f) { f.tensors["centre"] = Array::from(std::vector<double>{1}, {1}); });
}

TEST_CASE("the spread of equal maps is zero, of others their standard deviation", "[map_calibration]") {
  MapSpread spread;
  check_refused(ErrorCode::kInvalidArgument, "MapSpread::mean", [&] { spread.mean(); });
  const at::Tensor map = random_tensor({1, 2, 3, 3}, 1);
  for (int i = 0; i < 5; ++i) spread.add(map);
  CHECK(spread.deviation().abs().max().item<double>() == 0);
  CHECK(same_bits(spread.mean(), map));
  MapSpread other;
  std::vector<at::Tensor> all;
  for (std::uint64_t i = 0; i < 6; ++i) {
    all.push_back(random_tensor({1, 2, 3, 3}, i));
    other.add(all.back());
  }
  const at::Tensor stacked = at::stack(all);
  CHECK(largest_difference(other.mean(), stacked.mean(0)) < 1e-14);
  CHECK(largest_difference(other.deviation(), stacked.std(0, false)) < 1e-12);
  check_refused(ErrorCode::kInvalidArgument, "MapSpread::add: maps", [&] { other.add(map.narrow(1, 0, 1)); });
}
