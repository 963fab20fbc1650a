#include "daug/heatmap/encoder_maps.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "daug/core/error.h"
#include "daug/heatmap/heatmap_store.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/map_scaler.h"
#include "daug/heatmap/maps.h"
#include "daug/heatmap/precompute.h"
#include "daug/image/tensor_resize.h"
#include "daug/io/file.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/scratch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

double difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

EncoderMapOptions with(MapNormalization normalization, double sigma, std::int64_t height, std::int64_t width) {
  EncoderMapOptions options;
  options.normalization = normalization;
  options.sigma = sigma;
  options.height = height;
  options.width = width;
  return options;
}

/// Images and their translations, 777 x 301, that do not lie row by row.
struct TurnedImages {
  at::Tensor upright = random_tensor({3, 1, 301, 777}, 1);
  at::Tensor x = upright.to(at::kFloat).transpose(2, 3);
  at::Tensor images =
      (upright.unsqueeze(1) + 0.3 * random_tensor({3, 2, 1, 301, 777}, 2)).to(at::kFloat).transpose(3, 4);
  MapScaler scaler = MapScaler::fit(difference_map(x, images), 1.5);

  /// Every kind of maps, 224 x 171 of the smoothed ones and 800 x 400 of the others.
  static std::vector<EncoderMapOptions> kinds() {
    std::vector<EncoderMapOptions> all = {
        with(MapNormalization::kNone, 1, 224, 171), with(MapNormalization::kMinMax, 1, 224, 171),
        with(MapNormalization::kMinMax, 0, 800, 400), with(MapNormalization::kReference, 1, 224, 171),
        with(MapNormalization::kScaler, 2.3, 224, 171)};
    all.push_back(all[1]);
    all.back().upper_quantile = 0.99;
    return all;
  }
};

/// kReference takes the operators to the end, whichever kernels kAuto takes here.
void check_operators(const at::Device& device) {
  const at::Tensor x = random_tensor({2, 1, 40, 33}, 1).to(device, at::kFloat);
  const at::Tensor images = random_tensor({2, 3, 1, 40, 33}, 2).to(device, at::kFloat);
  EncoderMapOptions options = with(MapNormalization::kNone, 0, 16, 50);
  options.execution = Execution::kReference;
  CHECK(at::equal(encoder_maps(x, images, options),
                  resized(difference_map(x, images), 16, 50, options.antialias, Execution::kReference)));
}

/// `found` against smoothed maps, calibrated and resized. Rounding may put a pixel on the other side of a healthy
/// value, but none that is farther from it.
void check_calibrated(const at::Tensor& found, const at::Tensor& smooth, const MapCalibration& calibration) {
  const auto expected = [&](double shift) {
    return resized(calibration.calibrated(smooth.to(at::kDouble) + shift), found.size(2), found.size(3));
  };
  const at::Tensor wide = found.to(at::kCPU, at::kDouble);
  CHECK((wide - expected(-1e-5)).min().item<double>() > -1e-5);
  CHECK((expected(1e-5) - wide).min().item<double>() > -1e-5);
}

}  // namespace

TEST_CASE("encoder_maps: the fused kernel agrees with LibTorch's operators in float64", "[heatmap]") {
  const at::Tensor x = random_tensor({2, 2, 40, 33}, 1).to(at::kFloat);
  const at::Tensor images = (x.unsqueeze(1) + 0.3 * random_tensor({2, 3, 2, 40, 33}, 2)).to(at::kFloat);
  const MapScaler scaler = MapScaler::fit(difference_map(x, images), 1.5);
  for (const MapNormalization kind :
       {MapNormalization::kNone, MapNormalization::kMinMax, MapNormalization::kReference, MapNormalization::kScaler})
    for (const double sigma : {0.0, 1.0, 2.3})
      for (const auto& [height, width] : {std::pair<std::int64_t, std::int64_t>{0, 0}, {35, 29}, {16, 50}, {80, 66}})
        for (const bool antialias : {true, false}) {
          EncoderMapOptions options = with(kind, sigma, height, width);
          options.antialias = antialias;
          options.execution = Execution::kFused;
          const at::Tensor fused = encoder_maps(x, images, options, &scaler);
          options.execution = Execution::kAuto;
          CHECK(at::equal(fused, encoder_maps(x, images, options, &scaler)));
          INFO("kind " << static_cast<int>(kind) << " sigma " << sigma << " size " << height << " antialias "
                       << antialias);
          // float64 has no kernel: these are the operators.
          CHECK(difference(fused, encoder_maps(x.to(at::kDouble), images.to(at::kDouble), options, &scaler)) < 1e-5);
          options.execution = Execution::kReference;
          CHECK(difference(fused, encoder_maps(x, images, options, &scaler)) < 1e-5);
        }
}

TEST_CASE("encoder_maps: the operators, which devices take, agree with the kernel on large images, one or many",
          "[heatmap]") {
  const TurnedImages problem;
  REQUIRE_FALSE(problem.images.is_contiguous());
  for (EncoderMapOptions options : TurnedImages::kinds()) {
    INFO("kind " << static_cast<int>(options.normalization) << " sigma " << options.sigma);
    options.execution = Execution::kFused;
    const at::Tensor fused = encoder_maps(problem.x, problem.images, options, &problem.scaler);
    options.execution = Execution::kReference;
    const at::Tensor operators = encoder_maps(problem.x, problem.images, options, &problem.scaler);
    CHECK(difference(operators, fused) < 1e-5);
    const at::Tensor one =
        encoder_maps(problem.x.narrow(0, 1, 1), problem.images.narrow(0, 1, 1), options, &problem.scaler);
    CHECK(difference(one, operators.narrow(0, 1, 1)) < 1e-6);
  }
}

TEST_CASE("encoder_maps on a device are those of the CPU", "[heatmap][gpu]") {
  if (no_device()) return;
  const TurnedImages problem;
  const at::Device device(at::kCUDA, 0);
  check_operators(device);
  const at::Tensor x = problem.x.to(device), images = problem.images.to(device);
  for (EncoderMapOptions options : TurnedImages::kinds()) {
    INFO("kind " << static_cast<int>(options.normalization) << " sigma " << options.sigma);
    const at::Tensor expected = encoder_maps(problem.x, problem.images, options, &problem.scaler);
    const double of_kernel = options.upper_quantile < 1 ? 2e-5 : 1e-5;
    for (const Execution execution : {Execution::kReference, Execution::kAuto}) {
      options.execution = execution;
      const double most = execution == Execution::kAuto ? of_kernel : 1e-5;  // which may take the kernel
      const at::Tensor maps = encoder_maps(x, images, options, &problem.scaler);
      CHECK(maps.is_cuda());
      CHECK(difference(maps.cpu(), expected) < most);
      const at::Tensor one = encoder_maps(x.narrow(0, 1, 1), images.narrow(0, 1, 1), options, &problem.scaler);
      CHECK(difference(one.cpu(), expected.narrow(0, 1, 1)) < most);
      CHECK(encoder_maps(x.narrow(0, 0, 0), images.narrow(0, 0, 0), options, &problem.scaler).size(0) == 0);
    }
    // The kernel, whether or not kAuto takes it.
    options.execution = Execution::kFused;
    const at::Tensor fused = encoder_maps(x, images, options, &problem.scaler);
    CHECK(fused.is_cuda());
    CHECK(difference(fused.cpu(), expected) < of_kernel);
    CHECK(at::equal(fused, encoder_maps(x, images, options, &problem.scaler)));
    CHECK(at::equal(fused.narrow(0, 1, 1),
                    encoder_maps(x.narrow(0, 1, 1), images.narrow(0, 1, 1), options, &problem.scaler)));
    CHECK(encoder_maps(x.narrow(0, 0, 0), images.narrow(0, 0, 0), options, &problem.scaler).size(0) == 0);
    options.half = true;
    CHECK(at::equal(encoder_maps(x, images, options, &problem.scaler), fused.to(at::kHalf)));
    CHECK(encoder_maps(x.narrow(0, 0, 0), images.narrow(0, 0, 0), options, &problem.scaler).scalar_type() == at::kHalf);
  }
}

TEST_CASE("encoder_maps on a device: the kernel takes many maps, maps that are made already and NaN",
          "[heatmap][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  // 120 maps of 90,000 pixels go in two groups.
  at::Tensor x = random_tensor({40, 2, 300, 300}, 1).to(at::kFloat);
  at::Tensor images = (x.unsqueeze(1) + 0.3 * random_tensor({40, 3, 2, 300, 300}, 2)).to(at::kFloat);
  images[7][1][0][20][30] = std::numeric_limits<float>::quiet_NaN();
  images[9][2].copy_(x[9]);  // nothing changed: all pixels are equal
  for (const MapNormalization kind : {MapNormalization::kMinMax, MapNormalization::kReference})
    for (const double q : {1.0, 0.3, 0.995}) {
      INFO("kind " << static_cast<int>(kind) << " quantile " << q);
      EncoderMapOptions options = with(kind, 1.5, 224, 320);
      options.upper_quantile = q, options.execution = Execution::kFused;
      const at::Tensor maps = encoder_maps(x.to(device), images.to(device), options).cpu();
      CHECK(difference(maps, encoder_maps(x, images, options)) < 2e-5);
      CHECK(maps[7][1].abs().max().item<float>() == 0);
      CHECK(maps[9][2].abs().max().item<float>() == 0);
    }
  // 99 maps go in groups of 50 and 49: the second one begins with the last map of an image.
  images[7][1].copy_(x[7]);
  images.select(1, 2).mul_(2);
  x = x.narrow(0, 0, 33), images = images.narrow(0, 0, 33);
  const MapScaler of_many = MapScaler::fit(difference_map(x, images), 1.5);
  EncoderMapOptions standard = with(MapNormalization::kScaler, 1.5, 224, 320);
  standard.execution = Execution::kFused;
  CHECK(difference(encoder_maps(x.to(device), images.to(device), standard, &of_many).cpu(),
                   encoder_maps(x, images, standard, &of_many)) < 2e-5);
  const at::Tensor made = random_tensor({2, 3, 61, 75}, 3).to(at::kFloat);
  const MapScaler scaler = MapScaler::fit(made, 1.5);
  for (const MapNormalization kind : {MapNormalization::kNone, MapNormalization::kMinMax, MapNormalization::kScaler}) {
    EncoderMapOptions options = with(kind, 1, 20, 90);
    options.execution = Execution::kFused;
    CHECK(difference(encoder_maps(made.to(device), options, &scaler).cpu(), encoder_maps(made, options, &scaler)) <
          1e-5);
    options.antialias = false;
    CHECK(difference(encoder_maps(made.to(device), options, &scaler).cpu(), encoder_maps(made, options, &scaler)) <
          1e-5);
    // Scaled by its own range, what so wide a blur leaves of noise magnifies rounding.
    const double of_wide = kind == MapNormalization::kMinMax ? 1e-4 : 1e-5;
    for (const double sigma : {7.0, 11.0, 16.0}) {
      options.sigma = sigma;
      const at::Tensor wide = encoder_maps(made.to(device), options, &scaler);
      CHECK(difference(wide.cpu(), encoder_maps(made, options, &scaler)) < of_wide);
      CHECK(at::equal(wide.narrow(0, 1, 1), encoder_maps(made.narrow(0, 1, 1).to(device), options, &scaler)));
    }
    // Wider than a launch takes, and another type: LibTorch's operators, or refused.
    options.sigma = 17;
    CHECK_THROWS_WITH(encoder_maps(made.to(device), options, &scaler), contains_text("kFused"));
    options.sigma = 1;
    CHECK_THROWS_WITH(encoder_maps(made.to(device, at::kHalf), options, &scaler), contains_text("kFused"));
    options.sigma = 17, options.execution = Execution::kAuto;
    CHECK(difference(encoder_maps(made.to(device), options, &scaler).cpu(), encoder_maps(made, options, &scaler)) <
          of_wide);
  }
}

TEST_CASE("calibrated encoder_maps of a device are those of the CPU", "[heatmap][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const at::Tensor maps = float_tensor({3, 2, 61, 75}, 1);
  const auto here = MapCalibration::fit(smoothed(random_tensor({6, 2, 61, 75}, 2), 1), {"a", "b"}, {4, 99});
  const at::Tensor smooth = smoothed(maps, 1), there = maps.to(device);
  for (const MapCalibration& calibration : {here, here.to(device)})
    for (const Execution execution : {Execution::kAuto, Execution::kFused}) {
      EncoderMapOptions options = with(MapNormalization::kCalibrated, 1, 20, 90);
      options.execution = execution;
      const at::Tensor found = encoder_maps(there, options, nullptr, &calibration);
      CHECK(found.is_cuda());
      check_calibrated(found, smooth, here);
      CHECK(at::equal(found, encoder_maps(there, options, nullptr, &calibration)));
      CHECK(encoder_maps(there.narrow(0, 0, 0), options, nullptr, &calibration).size(0) == 0);
      const at::Tensor zeros = at::zeros({3, 1, 61, 75}, there.options()), images = there.unsqueeze(2);
      check_calibrated(encoder_maps(zeros, images, options, nullptr, &calibration), smoothed(maps.abs(), 1), here);
      options.half = true;
      CHECK(at::equal(encoder_maps(there, options, nullptr, &calibration), found.to(at::kHalf)));
      if (execution == Execution::kFused)
        CHECK(at::equal(encoder_maps(there.narrow(0, 1, 1), options, nullptr, &calibration),
                        found.narrow(0, 1, 1).to(at::kHalf)));
      // Nothing is rounded before a pixel is ranked.
      options = with(MapNormalization::kCalibrated, 0, 0, 0);
      options.execution = execution;
      CHECK(difference(encoder_maps(there, options, nullptr, &calibration).cpu(), here.calibrated(maps)) < 1e-6);
      at::Tensor spoiled = there.clone();
      spoiled[1][1][7][8] = std::numeric_limits<float>::quiet_NaN();
      const at::Tensor nan = encoder_maps(spoiled, options, nullptr, &calibration).isnan();
      CHECK(nan.sum().item<std::int64_t>() == 1);
      CHECK(nan[1][1][7][8].item<bool>());
    }
}

TEST_CASE("encoder_maps: an upper quantile keeps a bright pixel from setting the scale", "[heatmap]") {
  // 0 .. 99 and, in one pixel, a thousand: the 0.9-quantile of 100 values lies between the 90th and the 91st.
  at::Tensor maps = at::arange(100, at::kDouble).reshape({1, 1, 10, 10}).clone();
  maps[0][0][9][9] = 1000;
  EncoderMapOptions options = with(MapNormalization::kMinMax, 0, 0, 0);
  options.upper_quantile = 0.9;
  const at::Tensor expected = (maps / 89.1).clamp_max(1);
  CHECK(difference(encoder_maps(maps, options), expected) < 1e-12);
  CHECK(difference(encoder_maps(maps.to(at::kFloat), options), expected) < 1e-6);
  // Bilinear halving of neighbours 0.5 and 1.5 of the scale: held at 1 after resizing.
  const at::Tensor step = at::tensor({0.0, 0.0, 1.0, 1.0, 2.0, 6.0}, at::kDouble).reshape({1, 1, 1, 6});
  EncoderMapOptions halved = with(MapNormalization::kMinMax, 0, 1, 3);
  halved.upper_quantile = 0.8, halved.antialias = false;
  const at::Tensor wanted = at::tensor({0.0, 0.5, 1.0}, at::kDouble).reshape({1, 1, 1, 3});
  CHECK(difference(encoder_maps(step, halved), wanted) < 1e-12);
  // Nine in ten pixels at the minimum: the quantile is the minimum, and nothing is left to scale by.
  const at::Tensor flat = at::constant_pad_nd(at::ones({1, 1, 3, 3}), {0, 7, 0, 7});
  CHECK(encoder_maps(flat, options).abs().max().item<float>() == 0);
  const at::Tensor x = random_tensor({2, 2, 40, 33}, 1).to(at::kFloat);
  const at::Tensor images = (x.unsqueeze(1) + 0.3 * random_tensor({2, 3, 2, 40, 33}, 2)).to(at::kFloat);
  images[1][2][0][3][4] = std::numeric_limits<float>::quiet_NaN();
  for (const MapNormalization kind : {MapNormalization::kMinMax, MapNormalization::kReference})
    for (const double q : {0.05, 0.5, 0.99, 0.9999}) {
      EncoderMapOptions both = with(kind, 1, 35, 29);
      both.upper_quantile = q, both.execution = Execution::kFused;
      const at::Tensor fused = encoder_maps(x, images, both);
      both.execution = Execution::kReference;
      CHECK(difference(fused, encoder_maps(x.to(at::kDouble), images.to(at::kDouble), both)) < 2e-5);
      CHECK(fused[1][2].abs().max().item<float>() == 0);
      CHECK((q > 0.5 ? fused.max().item<float>() <= 1 : fused.max().item<float>() == 1));
    }
  options.upper_quantile = 0;
  CHECK_THROWS_WITH(encoder_maps(maps, options), contains_text("upper_quantile"));
}

TEST_CASE("encoder_maps is the functions it stands for", "[heatmap]") {
  const at::Tensor x = random_tensor({2, 1, 12, 10}, 1), images = random_tensor({2, 2, 1, 12, 10}, 2);
  CHECK(at::equal(encoder_maps(x, images), difference_map(x, images)));
  CHECK(at::equal(encoder_maps(x, images, with(MapNormalization::kReference, 0, 0, 0)),
                  reference_difference_map(x, images)));
  CHECK(at::equal(encoder_maps(x, images, with(MapNormalization::kMinMax, 1, 0, 0)),
                  min_max_scaled(smoothed(difference_map(x, images), 1))));
  const at::Tensor maps = random_tensor({2, 2, 12, 10}, 3);
  const MapScaler scaler = MapScaler::fit(maps);
  CHECK(at::equal(encoder_maps(maps, with(MapNormalization::kScaler, 0, 0, 0), &scaler), scaler.apply(maps)));
  CHECK(difference(encoder_maps(maps.to(at::kFloat), with(MapNormalization::kScaler, 1, 7, 9), &scaler),
                   encoder_maps(maps, with(MapNormalization::kScaler, 1, 7, 9), &scaler)) < 1e-5);
  check_operators(at::kCPU);
}

TEST_CASE("encoder_maps calibrates smoothed maps, and resizes what becomes of them", "[heatmap]") {
  const at::Tensor x = random_tensor({5, 2, 20, 26}, 1), images = random_tensor({5, 2, 2, 20, 26}, 2);
  const at::Tensor smooth = smoothed(difference_map(x, images), 1);
  const auto calibration = MapCalibration::fit(smooth, {"a", "b"}, {3, 19});
  for (const at::ScalarType type : {at::kFloat, at::kDouble})
    for (const Execution execution : {Execution::kAuto, Execution::kReference}) {
      EncoderMapOptions options = with(MapNormalization::kCalibrated, 1, 12, 30);
      options.execution = execution;
      const at::Tensor made = difference_map(x.to(type), images.to(type));
      const at::Tensor expected = resized(calibration.calibrated(smoothed(made, 1)), 12, 30);
      const at::Tensor found = encoder_maps(x.to(type), images.to(type), options, nullptr, &calibration);
      CHECK(found.scalar_type() == type);
      CHECK(found.max().item<double>() > 0.5);
      CHECK(at::equal(found, expected));
      check_calibrated(found, smooth, calibration);
      CHECK(at::equal(encoder_maps(made, options, nullptr, &calibration), expected));
      CHECK(encoder_maps(made.narrow(0, 0, 0), options, nullptr, &calibration).sizes() ==
            at::IntArrayRef({0, 2, 12, 30}));
      options.half = true;
      CHECK(at::equal(encoder_maps(made, options, nullptr, &calibration), expected.to(at::kHalf)));
    }
}

TEST_CASE("encoder_maps: NaN, constant maps, empty batches and gaps are treated alike by both", "[heatmap]") {
  at::Tensor x = random_tensor({2, 1, 16, 16}, 1).to(at::kFloat);
  at::Tensor images = random_tensor({2, 3, 1, 16, 16}, 2).to(at::kFloat);
  images[0][1].copy_(x[0]);
  images[1][2][0][3][4] = std::numeric_limits<float>::quiet_NaN();
  for (const MapNormalization kind : {MapNormalization::kMinMax, MapNormalization::kReference}) {
    EncoderMapOptions options = with(kind, 0, 14, 14);
    const at::Tensor fused = encoder_maps(x, images, options);
    options.execution = Execution::kReference;
    CHECK(difference(fused, encoder_maps(x, images, options)) < 1e-5);
    CHECK(fused[1][2].abs().max().item<float>() == 0);
  }
  const at::Tensor first = x.narrow(0, 0, 1), apart = images.narrow(0, 0, 1).transpose(3, 4);
  CHECK(at::equal(encoder_maps(first, apart), encoder_maps(first, at::clone(apart, at::MemoryFormat::Contiguous))));
  for (const Execution execution : {Execution::kReference, Execution::kFused}) {
    EncoderMapOptions options = with(MapNormalization::kMinMax, 1, 7, 9);
    options.execution = execution;
    CHECK(encoder_maps(x.narrow(0, 0, 0), images.narrow(0, 0, 0), options).sizes() == at::IntArrayRef({0, 3, 7, 9}));
    CHECK(encoder_maps(x, images.narrow(1, 0, 0), options).sizes() == at::IntArrayRef({2, 0, 7, 9}));
  }
}

TEST_CASE("encoder_maps in halves are those of the images' type, rounded once", "[heatmap]") {
  const at::Tensor x = random_tensor({2, 2, 40, 33}, 1).to(at::kFloat);
  const at::Tensor images = (x.unsqueeze(1) + 0.3 * random_tensor({2, 3, 2, 40, 33}, 2)).to(at::kFloat);
  for (const at::ScalarType type : {at::kFloat, at::kDouble})
    for (const Execution execution : {Execution::kAuto, Execution::kReference})
      for (const MapNormalization kind : {MapNormalization::kNone, MapNormalization::kMinMax}) {
        EncoderMapOptions options = with(kind, 1, 35, 29);
        options.execution = execution;
        const at::Tensor wide = encoder_maps(x.to(type), images.to(type), options);
        const at::Tensor made = difference_map(x.to(type), images.to(type)), wide_made = encoder_maps(made, options);
        CHECK(wide.scalar_type() == type);
        options.half = true;
        const at::Tensor halves = encoder_maps(x.to(type), images.to(type), options);
        CHECK(halves.scalar_type() == at::kHalf);
        CHECK(at::equal(halves, wide.to(at::kHalf)));
        CHECK(at::equal(encoder_maps(made, options), wide_made.to(at::kHalf)));
        const at::Tensor none = encoder_maps(x.to(type).narrow(0, 0, 0), images.to(type).narrow(0, 0, 0), options);
        CHECK(none.scalar_type() == at::kHalf);
        CHECK(none.sizes() == at::IntArrayRef({0, 3, 35, 29}));
      }
}

namespace {

/// Halves of a device reach a store, and come back, without a value changing.
void check_stored_halves(const at::Device& device) {
  const at::Tensor x = random_tensor({3, 1, 20, 16}, 1).to(at::kFloat);
  const at::Tensor images = (x.unsqueeze(1) + 0.3 * random_tensor({3, 2, 1, 20, 16}, 2)).to(at::kFloat);
  EncoderMapOptions options = with(MapNormalization::kMinMax, 1, 12, 10);
  options.half = true;
  const at::Tensor halves = encoder_maps(x.to(device), images.to(device), options).cpu().contiguous();
  const std::vector<std::uint64_t> keys = {4, 7, 1};
  const HeatmapLayout layout{"fp", {"a", "b"}, 12, 10, MapStorage::kFloat16};
  const Scratch scratch;
  {
    HeatmapStoreWriter writer(scratch.path("halves"), layout, false), floats(scratch.path("floats"), layout, false);
    PrecomputeOptions together;
    together.batch = 3;
    precompute_half_heatmaps(
        writer, keys,
        [&](const std::vector<std::size_t>&, std::uint16_t* maps) {
          std::memcpy(maps, halves.const_data_ptr(), halves.nbytes());
        },
        together);
    for (std::int64_t i = 0; i < 3; ++i) {
      const at::Tensor wide = halves[i].to(at::kFloat).contiguous();
      floats.append(keys[static_cast<std::size_t>(i)], wide.const_data_ptr<float>(), layout.values());
    }
  }
  CHECK(read_text_file(scratch.path("halves")) == read_text_file(scratch.path("floats")));
  const HeatmapStore store(scratch.path("halves"), "fp");
  for (std::int64_t i = 0; i < 3; ++i) {
    const at::Tensor back = at::tensor(store.read(keys[static_cast<std::size_t>(i)]), at::kFloat);
    CHECK(at::equal(back.reshape({2, 12, 10}).to(at::kHalf), halves[i]));
  }
}

}  // namespace

TEST_CASE("encoder_maps in halves go into a store of float16 as they are", "[heatmap][device]") {
  check_stored_halves(at::kCPU);
}

TEST_CASE("encoder_maps in halves go from a device into a store of float16 as they are", "[heatmap][gpu]") {
  if (no_device()) return;
  check_stored_halves(at::Device(at::kCUDA, 0));
}

TEST_CASE("encoder_maps refuses what it cannot do", "[heatmap]") {
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 1), images = random_tensor({2, 3, 1, 8, 8}, 2);
  check_refused(ErrorCode::kInvalidArgument, "encoder_maps: images", [&] { encoder_maps(x, images.narrow(0, 0, 1)); });
  const at::Tensor elsewhere = at::empty(images.sizes(), images.options().device(at::kMeta));
  check_refused(ErrorCode::kInvalidArgument, "encoder_maps: images", [&] { encoder_maps(x, elsewhere); });
  check_refused(ErrorCode::kInvalidArgument, "EncoderMapOptions: sigma",
                [&] { encoder_maps(x, images, with(MapNormalization::kNone, -1, 0, 0)); });
  check_refused(ErrorCode::kInvalidArgument, "EncoderMapOptions: height",
                [&] { encoder_maps(x, images, with(MapNormalization::kNone, 0, 20000, 0)); });
  CHECK_THROWS_WITH(encoder_maps(x, images, with(MapNormalization::kScaler, 0, 0, 0)), contains_text("null"));
  const MapScaler other = MapScaler::fit(random_tensor({2, 2, 8, 8}, 3));
  check_refused(ErrorCode::kInvalidArgument, "encoder_maps: scaler",
                [&] { encoder_maps(x, images, with(MapNormalization::kScaler, 0, 0, 0), &other); });
  CHECK_THROWS_AS(encoder_maps(x.narrow(1, 0, 1).squeeze(1).unsqueeze(1), with(MapNormalization::kReference, 0, 0, 0)),
                  Error);
  EncoderMapOptions fused;
  fused.execution = Execution::kFused;
  CHECK_THROWS_WITH(encoder_maps(x, images, fused), contains_text("kFused"));  // float64
  EncoderMapOptions calibrated = with(MapNormalization::kCalibrated, 0, 0, 0);
  const auto healthy = MapCalibration::fit(random_tensor({3, 3, 8, 8}, 4), {"a", "b", "c"}, {2, 19});
  const auto refused = [&](const std::string& part, const at::Tensor& maps, const MapCalibration* calibration) {
    check_refused(ErrorCode::kInvalidArgument, part, [&] { encoder_maps(maps, calibrated, nullptr, calibration); });
  };
  const at::Tensor maps = images.squeeze(2);
  refused("encoder_maps: calibration: expected a MapCalibration", maps, nullptr);
  refused("encoder_maps: calibration: expected fitted on 2 maps of 8 x 8", maps.narrow(1, 0, 2), &healthy);
  refused("encoder_maps: calibration: expected fitted on 3 maps of 8 x 7", maps.narrow(3, 0, 7), &healthy);
  refused("finite", at::full_like(maps, std::numeric_limits<double>::infinity()), &healthy);
  calibrated.execution = Execution::kFused;
  check_refused(ErrorCode::kUnsupported, "the kernel that calibrates maps",
                [&] { encoder_maps(maps.to(at::kFloat), calibrated, nullptr, &healthy); });
}
