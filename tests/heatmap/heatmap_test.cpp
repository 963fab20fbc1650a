#include <ATen/ATen.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/map_scaler.h"
#include "daug/heatmap/maps.h"
#include "daug/translator/noise.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/golden_device.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

at::Tensor doubles(const std::vector<double>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kDouble).reshape(shape);
}

/// Blur of one plane by its definition: a normalised kernel cut at 3 sigma, borders reflected without repetition.
std::vector<double> blurred_by_hand(const std::vector<double>& plane, int height, int width, double sigma) {
  const auto blur = [sigma](const std::vector<double>& line) {
    const int size = static_cast<int>(line.size());
    const int radius = std::min(static_cast<int>(std::ceil(3 * sigma)), size - 1);
    std::vector<double> result(line.size(), 0.0);
    double total = 0;
    for (int k = -radius; k <= radius; ++k) total += std::exp(-0.5 * k * k / (sigma * sigma));
    for (int i = 0; i < size; ++i)
      for (int k = -radius; k <= radius; ++k) {
        int j = i + k;
        if (j < 0) j = -j;
        if (j >= size) j = 2 * (size - 1) - j;
        result[static_cast<std::size_t>(i)] +=
            line[static_cast<std::size_t>(j)] * std::exp(-0.5 * k * k / (sigma * sigma)) / total;
      }
    return result;
  };
  std::vector<double> result = plane;
  const auto at = [&](int y, int x) -> double& { return result[static_cast<std::size_t>(y * width + x)]; };
  for (int y = 0; y < height; ++y) {
    std::vector<double> line;
    for (int x = 0; x < width; ++x) line.push_back(at(y, x));
    line = blur(line);
    for (int x = 0; x < width; ++x) at(y, x) = line[static_cast<std::size_t>(x)];
  }
  for (int x = 0; x < width; ++x) {
    std::vector<double> line;
    for (int y = 0; y < height; ++y) line.push_back(at(y, x));
    line = blur(line);
    for (int y = 0; y < height; ++y) at(y, x) = line[static_cast<std::size_t>(y)];
  }
  return result;
}

const std::vector<double> kWeights = {0.5, -0.2, 0.11};

using Conditions = std::vector<std::vector<double>>;
const Conditions kEachAlone = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};

/// Both noise-based maps by loops over images, conditions, levels, samples and pixels.
at::Tensor maps_by_hand(bool evidence, const NoiseSchedule& schedule, const at::Tensor& x,
                        const std::vector<std::uint64_t>& items, const EvidenceOptions& options,
                        const Conditions& present = kEachAlone) {
  const LinearPredictor predictor(0.3, kWeights);
  const std::int64_t count = static_cast<std::int64_t>(present.size());
  at::Tensor maps = at::zeros({x.size(0), count, x.size(2), x.size(3)}, at::kDouble);
  auto out = maps.accessor<double, 4>();
  const auto in = x.accessor<double, 4>();
  for (std::int64_t b = 0; b < x.size(0); ++b)
    for (const std::int64_t level : options.levels)
      for (std::int64_t sample = 0; sample < options.samples; ++sample) {
        const std::string purpose = "evidence/" + std::to_string(level) + "/" + std::to_string(sample / 2);
        const double sign = sample % 2 ? -1 : 1;
        const at::Tensor drawn =
            item_noise({items[static_cast<std::size_t>(b)]}, x.size(1), x.size(2), x.size(3), options.seed, purpose);
        for (std::int64_t k = 0; k < count; ++k)
          for (std::int64_t c = 0; c < x.size(1); ++c)
            for (std::int64_t h = 0; h < x.size(2); ++h)
              for (std::int64_t w = 0; w < x.size(3); ++w) {
                const double noise = sign * drawn[0][c][h][w].item<double>();
                const double noisy =
                    std::sqrt(schedule.abar(level)) * in[b][c][h][w] + std::sqrt(1 - schedule.abar(level)) * noise;
                const auto estimate = [&](double state) {
                  std::vector<double> condition = present[static_cast<std::size_t>(k)];
                  for (double& value : condition) value *= state;
                  return predictor.scalar(noisy, level, condition);
                };
                out[b][k][h][w] += evidence ? std::pow(noise - estimate(-1), 2) - std::pow(noise - estimate(1), 2)
                                            : std::abs(estimate(1) - estimate(0));
              }
      }
  return maps / static_cast<double>(options.samples * static_cast<std::int64_t>(options.levels.size()));
}

/// Every random change of geometry and gray levels.
ChannelAugmenterOptions every_change() {
  ChannelAugmenterOptions options;
  options.max_rotation = 25, options.max_shift = 0.1, options.max_scale = 0.2, options.flip = true;
  options.max_brightness = 0.2, options.max_contrast = 0.3;
  return options;
}

ChannelAugmenterOptions mode(const char* name) {
  ChannelAugmenterOptions options;
  options.mode = channel_mode(name);
  return options;
}

}  // namespace

TEST_CASE("difference maps by hand", "[heatmap]") {
  const at::Tensor x = doubles({0.0, 0.5, -1.0, 1.0, /* second channel */ 0.25, 0.0, 0.0, -0.5}, {1, 2, 2, 2});
  const at::Tensor images = at::stack({x, doubles({0.5, 0.5, 1.0, 0.0, 0.0, 0.25, 0.0, -1.0}, {1, 2, 2, 2})}, 1);
  const at::Tensor maps = difference_map(x, images);
  REQUIRE(maps.sizes() == at::IntArrayRef({1, 2, 2, 2}));
  CHECK(to_doubles(maps) == std::vector<double>{0, 0, 0, 0, 0.75, 0.25, 2.0, 1.5});
  CHECK_THROWS_AS(difference_map(x, images.select(1, 0)), Error);
  CHECK_THROWS_AS(difference_map(x[0], images), Error);
  CHECK_THROWS_AS(difference_map(at::cat({x, x}), images), Error);
  CHECK_THROWS_AS(difference_map(x.narrow(3, 0, 1), images), Error);
}

TEST_CASE("planes are scaled each on their own, constants to zero", "[heatmap]") {
  const at::Tensor planes = doubles({1, 2, 3, 5, 7, 7, 7, 7, -4, 0, 4, 2}, {1, 3, 2, 2});
  CHECK(to_doubles(min_max_scaled(planes)) == std::vector<double>{0, 0.25, 0.5, 1, 0, 0, 0, 0, 0, 0.5, 1, 0.75});
}

TEST_CASE("the reference map by hand, channels scaled together", "[heatmap]") {
  // x spans [-1, 1] over both channels, the translation [0, 4]: (0 .5 .75 1) against (0 1 .25 .5).
  const at::Tensor x = doubles({-1, 0, 0.5, 1}, {1, 2, 1, 2});
  const at::Tensor image = doubles({0, 4, 1, 2}, {1, 1, 2, 1, 2});
  // |difference| summed over channels: |0-0| + |.75-.25| = .5 and |.5-1| + |1-.5| = 1, then scaled again.
  CHECK(to_doubles(reference_difference_map(x, image)) == std::vector<double>{0, 1});
  CHECK(to_doubles(reference_difference_map(x, x.unsqueeze(1))) == std::vector<double>{0, 0});
  // A constant translation beside a good one: only its own map is zero.
  const at::Tensor both = reference_difference_map(x, at::cat({at::full_like(image, 0.3), image}, 1));
  CHECK(to_doubles(both) == std::vector<double>{0, 0, 0, 1});
}

TEST_CASE("smoothing is a direct convolution with a Gaussian", "[heatmap]") {
  for (const double sigma : {0.4, 1.0, 1.7, 6.0}) {  // 6: the kernel is cut at the image
    const at::Tensor planes = random_tensor({2, 3, 9, 7}, 5);
    const at::Tensor result = smoothed(planes, sigma);
    REQUIRE(result.sizes() == planes.sizes());
    for (int b = 0; b < 2; ++b)
      for (int k = 0; k < 3; ++k) {
        const auto expected = blurred_by_hand(to_doubles(planes[b][k]), 9, 7, sigma);
        CHECK(absolute_error(to_doubles(result[b][k]), expected) < 1e-13);
      }
    CHECK(largest_difference(smoothed(planes.to(at::kFloat), sigma), result) < 1e-5);
    CHECK(largest_difference(smoothed(at::full({2, 8, 8}, 3.5, at::kDouble), sigma),
                             at::full({2, 8, 8}, 3.5, at::kDouble)) < 1e-13);
    CHECK(largest_difference(smoothed(planes.flip(3), sigma).flip(3), result) < 1e-13);
    CHECK(largest_difference(smoothed(planes.transpose(2, 3), sigma).transpose(2, 3), result) < 1e-13);
  }
  at::Tensor point = at::zeros({21, 21}, at::kDouble);
  point[10][10].fill_(2);
  const at::Tensor spot = smoothed(point, 1.5);
  CHECK(spot.sum().item<double>() == Approx(2).epsilon(1e-12));  // nothing reaches a border, nothing is lost
  CHECK(spot[10][10].item<double>() == spot.max().item<double>());
  CHECK(spot[10][13].item<double>() == Approx(spot[10][10].item<double>() * std::exp(-0.5 * 4)).epsilon(1e-12));
  CHECK(spot[7][10].item<double>() == Approx(spot[10][13].item<double>()).epsilon(1e-12));
  CHECK(same_bits(smoothed(point, 0), point));
  for (const double sigma : {1e-3, 1e-30, 1e-300})
    for (const auto type : {at::kFloat, at::kDouble})
      CHECK(largest_difference(smoothed(point.to(type), sigma), point.to(type)) == 0);
  CHECK(smoothed(at::ones({1, 5}), 2.0).sizes() == at::IntArrayRef({1, 5}));
  check_refused(ErrorCode::kInvalidArgument, "smoothed: sigma", [&] { smoothed(point, -1); });
  check_refused(ErrorCode::kInvalidArgument, "smoothed: sigma", [&] { smoothed(point, std::nan("")); });
  CHECK_THROWS_AS(smoothed(point[0], 1), Error);
}

TEST_CASE("evidence and score differences equal loops over the definition", "[heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const LinearPredictor predictor(0.3, kWeights);
  const at::Tensor x = (0.4 * random_tensor({3, 2, 3, 4}, 6)).clamp(-1, 1);
  const std::vector<std::uint64_t> items = {4, 1, 77};
  EvidenceOptions options;
  options.levels = {1, 60, 400};
  options.samples = 3;
  options.seed = 9;
  const at::Tensor evidence = evidence_maps(predictor, schedule, x, items, 3, options);
  const at::Tensor score = score_difference_maps(predictor, schedule, x, items, 3, options);
  REQUIRE(evidence.sizes() == at::IntArrayRef({3, 3, 3, 4}));
  CHECK(largest_difference(evidence, maps_by_hand(true, schedule, x, items, options)) < 1e-12);
  CHECK(largest_difference(score, maps_by_hand(false, schedule, x, items, options)) < 1e-12);
  CHECK(evidence.min().item<double>() < 0);
  CHECK(evidence.max().item<double>() > 0);
  CHECK(score.min().item<double>() >= 0);

  // Groups: one map for several findings, whose order and dtype do not matter.
  const at::Tensor groups = at::tensor(std::vector<float>{1, 0, 1, 0, 1, 0}).view({2, 3});
  const Conditions by_hand = {{1, 0, 1}, {0, 1, 0}};
  CHECK(largest_difference(evidence_maps(predictor, schedule, x, items, groups, options),
                           maps_by_hand(true, schedule, x, items, options, by_hand)) < 1e-12);
  CHECK(largest_difference(score_difference_maps(predictor, schedule, x, items, groups, options),
                           maps_by_hand(false, schedule, x, items, options, by_hand)) < 1e-12);
  // Both from the same evaluations.
  const WatchedPredictor watched(std::make_shared<LinearPredictor>(predictor));
  const at::Tensor both = evidence_and_score_difference_maps(watched, schedule, x, items, groups, options);
  REQUIRE(both.sizes() == at::IntArrayRef({2, 3, 2, 3, 4}));
  CHECK(largest_difference(both[0], evidence_maps(predictor, schedule, x, items, groups, options)) < 1e-12);
  CHECK(largest_difference(both[1], score_difference_maps(predictor, schedule, x, items, groups, options)) < 1e-12);
  CHECK(watched.rows == 3 * 9 * 5);  // images x noises x conditions
  CHECK(watched.largest_batch == 3 * 5);
  check_refused(ErrorCode::kInvalidArgument, "score_difference_maps: present",
                [&] { evidence_and_score_difference_maps(predictor, schedule, x, items, groups[0], options); });
  check_refused(ErrorCode::kInvalidArgument, "evidence_maps: present",
                [&] { evidence_maps(predictor, schedule, x, items, at::Tensor(), options); });
  check_refused(ErrorCode::kInvalidArgument, "score_difference_maps: present",
                [&] { score_difference_maps(predictor, schedule, x, items, groups[0], options); });
}

TEST_CASE("noise-based maps belong to the item, not to the batch", "[heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const LinearPredictor predictor(0.3, kWeights);
  const at::Tensor x = (0.4 * random_tensor({4, 1, 3, 4}, 8)).clamp(-1, 1);
  const std::vector<std::uint64_t> items = {10, 3, 6, 500};
  using Maps = at::Tensor (*)(const NoisePredictor&, const NoiseSchedule&, const at::Tensor&,
                              const std::vector<std::uint64_t>&, std::int64_t, const EvidenceOptions&);
  for (const Maps maps : {Maps(evidence_maps), Maps(score_difference_maps)}) {
    const at::Tensor all = maps(predictor, schedule, x, items, 3, {});
    CHECK(same_bits(maps(predictor, schedule, x, items, 3, {}), all));
    for (std::int64_t i = 0; i < 4; ++i)
      CHECK(
          largest_difference(maps(predictor, schedule, x.narrow(0, i, 1), {items[static_cast<std::size_t>(i)]}, 3, {}),
                             all.narrow(0, i, 1)) < 1e-12);
    const at::Tensor order = at::tensor(std::vector<std::int64_t>{2, 0, 3, 1});
    CHECK(largest_difference(maps(predictor, schedule, x.index_select(0, order), {6, 10, 500, 3}, 3, {}),
                             all.index_select(0, order)) < 1e-12);
    EvidenceOptions options;
    options.max_batch = 5;
    const WatchedPredictor watched(std::make_shared<LinearPredictor>(predictor));
    CHECK(largest_difference(maps(watched, schedule, x, items, 3, options), all) < 1e-12);
    CHECK(watched.largest_batch <= 5);
    WatchedPredictor weighed(std::make_shared<LinearPredictor>(predictor));
    weighed.bytes_per_pixel = 100;
    EvidenceOptions bounded;
    bounded.memory_budget = 100 * 3 * 4 * 3 + 1;  // three images of 3 x 4 pixels
    CHECK(largest_difference(maps(weighed, schedule, x, items, 3, bounded), all) < 1e-12);
    CHECK(weighed.largest_batch == 3);
    CHECK(watched.rows == 4 * 3 * (maps == Maps(evidence_maps) ? 6 : 4));  // images x levels x conditions
    CHECK(maps(predictor, schedule, x.narrow(0, 0, 0), {}, 3, {}).sizes() == at::IntArrayRef({0, 3, 3, 4}));

    CHECK_THROWS_AS(maps(predictor, schedule, x, {1, 2}, 3, {}), Error);
    WatchedPredictor idle(std::make_shared<LinearPredictor>(predictor));
    idle.known_channels = 1;
    for (const auto& [images, part] : not_images(x)) {
      INFO(part);
      CHECK(mentions(caught([&, images = images] { maps(idle, schedule, images, items, 3, {}); }), part));
      CHECK(idle.rows == 0);
    }
    CHECK_THROWS_AS(maps(predictor, schedule, x, items, 0, {}), Error);
    for (const std::vector<std::int64_t>& levels : {std::vector<std::int64_t>{}, {0}, {1001}}) {
      options.levels = levels;
      CHECK(mentions(caught([&] { maps(predictor, schedule, x, items, 3, options); }), "levels"));
    }
    options.levels = {100, 1000};
    CHECK_NOTHROW(maps(predictor, schedule, x, items, 3, options));
    check_refused(ErrorCode::kInvalidArgument, "EvidenceOptions: levels: expected levels with some signal",
                  [&] { maps(predictor, NoiseSchedule::named("zero_snr_linear"), x, items, 3, options); });
    options = {};
    options.samples = 0;
    CHECK(mentions(caught([&] { maps(predictor, schedule, x, items, 3, options); }), "samples"));
  }
  EvidenceOptions one, other;
  other.seed = 1;
  const auto moved = [&] {
    return largest_difference(evidence_maps(predictor, schedule, x, items, 3, other),
                              evidence_maps(predictor, schedule, x, items, 3, one));
  };
  CHECK(moved() > 1e-3);
  // This predictor is linear, so its evidence is linear in the noise: a draw and its negative leave nothing of it.
  one.samples = other.samples = 2;
  CHECK(moved() < 1e-9);
}

TEST_CASE("every mode builds the encoder input it promises", "[channel_augmenter]") {
  const at::Tensor image = random_tensor({2, 3, 4, 5}, 1), maps = random_tensor({2, 2, 4, 5}, 2);
  const at::Tensor image_before = image.clone(), maps_before = maps.clone();

  CHECK(same_bits(HeatmapChannelAugmenter(mode("none")).apply(image, {}), image));

  const HeatmapChannelAugmenter append(mode("append"));
  const at::Tensor appended = append.apply(image, maps.to(at::kFloat));
  REQUIRE(appended.sizes() == at::IntArrayRef({2, 5, 4, 5}));
  CHECK(appended.scalar_type() == image.scalar_type());
  CHECK(same_bits(appended.narrow(1, 0, 3), image));
  CHECK(same_bits(appended.narrow(1, 3, 2), maps.to(at::kFloat).to(at::kDouble)));

  auto options = mode("channel");
  options.map_index = 1;
  options.image_channel = 2;
  at::Tensor replaced = HeatmapChannelAugmenter(options).apply(image, maps);
  REQUIRE(replaced.sizes() == image.sizes());
  CHECK(same_bits(replaced.narrow(1, 0, 2), image.narrow(1, 0, 2)));
  CHECK(same_bits(replaced.select(1, 2), maps.select(1, 1)));
  replaced.zero_();

  options.mode = ChannelMode::kAdd;
  at::Tensor second = HeatmapChannelAugmenter(options).apply(image, maps);
  REQUIRE(second.sizes() == image.sizes());
  for (int c = 0; c < 3; ++c) CHECK(same_bits(second.select(1, c), maps.select(1, 1)));
  second.zero_();

  CHECK(same_bits(image, image_before));  // whatever a caller does with the result
  CHECK(same_bits(maps, maps_before));
  CHECK(append.channels(3, 2) == 5);
  for (const char* name : {"none", "channel", "add"}) CHECK(HeatmapChannelAugmenter(mode(name)).channels(3, 2) == 3);
  CHECK(to_doubles(combined_embedding(doubles({1, 2}, {1, 2}), doubles({3, -2}, {1, 2}))) == std::vector<double>{2, 0});

  check_refused(ErrorCode::kInvalidArgument, "apply: maps", [&] { append.apply(image, {}); });
  check_refused(ErrorCode::kInvalidArgument, "apply: image", [&] { append.apply(image[0], maps); });
  check_refused(ErrorCode::kInvalidArgument, "apply: maps", [&] { append.apply(image, maps.narrow(0, 0, 1)); });
  check_refused(ErrorCode::kInvalidArgument, "apply: maps", [&] { append.apply(image, maps.narrow(2, 0, 3)); });
  const at::Tensor elsewhere = at::empty(maps.sizes(), maps.options().device(at::kMeta));
  check_refused(ErrorCode::kInvalidArgument, "apply: maps", [&] { append.apply(image, elsewhere); });
  options = mode("channel");
  options.map_index = 2;
  CHECK(mentions(caught([&] { HeatmapChannelAugmenter(options).apply(image, maps); }), "map_index"));
  options.map_index = 0;
  options.image_channel = 3;
  CHECK(mentions(caught([&] { HeatmapChannelAugmenter(options).apply(image, maps); }), "image_channel"));
  check_refused(ErrorCode::kInvalidArgument, "channel_mode: name", [&] { channel_mode("replace"); });
  const auto spoiled = [](const char* option, void (*spoil)(ChannelAugmenterOptions&)) {
    ChannelAugmenterOptions some;
    spoil(some);
    check_refused(ErrorCode::kInvalidArgument, std::string("ChannelAugmenterOptions: ") + option,
                  [&] { HeatmapChannelAugmenter{some}; });
  };
  spoiled("map_index", [](ChannelAugmenterOptions& o) { o.map_index = -1; });
  spoiled("image_channel", [](ChannelAugmenterOptions& o) { o.image_channel = -1; });
  spoiled("max_rotation", [](ChannelAugmenterOptions& o) { o.max_rotation = 181; });
  spoiled("max_shift", [](ChannelAugmenterOptions& o) { o.max_shift = 0.6; });
  spoiled("max_scale", [](ChannelAugmenterOptions& o) { o.max_scale = -0.1; });
  spoiled("max_brightness", [](ChannelAugmenterOptions& o) { o.max_brightness = 2; });
  spoiled("max_contrast", [](ChannelAugmenterOptions& o) { o.max_contrast = 1; });
}

TEST_CASE("a widened convolution starts as the narrow one", "[channel_augmenter]") {
  for (const std::int64_t channels : {1, 3})
    for (const std::int64_t extra : {1, 5, 14})
      for (const std::int64_t kernel : {3, 8}) {
        INFO(channels << " + " << extra << " channels, kernel " << kernel);
        const std::int64_t stride = kernel == 8 ? 8 : 1;  // a convolution and a patch embedding
        const at::Tensor image = random_tensor({2, channels, 32, 32}, 1).to(at::kFloat);
        const at::Tensor maps = (100 * random_tensor({2, extra, 32, 32}, 2)).to(at::kFloat);
        const at::Tensor weight = random_tensor({16, channels, kernel, kernel}, 3).to(at::kFloat);
        const at::Tensor bias = random_tensor({16}, 4).to(at::kFloat);
        const at::Tensor wide = widened_input_weight(weight, extra);
        REQUIRE(wide.sizes() == at::IntArrayRef({16, channels + extra, kernel, kernel}));
        CHECK(same_bits(wide.narrow(1, 0, channels), weight));
        CHECK(wide.narrow(1, channels, extra).abs().max().item<double>() == 0);
        const at::Tensor input = HeatmapChannelAugmenter(mode("append")).apply(image, maps);
        const at::Tensor narrow = at::conv2d(image, weight, bias, stride);
        // In one convolution a processor may sum in another order; added part by part not a bit can change.
        CHECK(largest_difference(at::conv2d(input, wide, bias, stride), narrow) <=
              1e-5 * narrow.abs().max().item<double>());
        CHECK(same_bits(narrow + at::conv2d(maps, wide.narrow(1, channels, extra), {}, stride), narrow));
      }
  const at::Tensor weight = random_tensor({4, 2, 3, 3}, 3);
  CHECK(same_bits(widened_input_weight(weight, 0), weight));
  check_refused(ErrorCode::kInvalidArgument, "widened_input_weight: weight", [&] { widened_input_weight(weight, -1); });
  check_refused(ErrorCode::kInvalidArgument, "widened_input_weight: weight",
                [&] { widened_input_weight(weight.reshape({-1}), 1); });
}

TEST_CASE("geometric changes move image and maps alike", "[channel_augmenter]") {
  ChannelAugmenterOptions options;
  options.max_rotation = 25;
  options.max_shift = 0.1;
  options.max_scale = 0.2;
  options.flip = true;
  CHECK(options.augments());
  const HeatmapChannelAugmenter augmenter(options);
  // The same plane in both: image -1 is map 0, which is also what lies outside.
  const at::Tensor plane = random_tensor({6, 1, 12, 20}, 3).abs().clamp_max(2);
  const std::vector<std::uint64_t> items = {0, 1, 2, 3, 4, 5};
  at::Tensor image = plane - 1, maps = at::cat({plane, 0.5 * plane}, 1);
  const at::Tensor image_before = image, image_copy = image.clone();
  augmenter.augment(image, maps, items, 11);
  CHECK(largest_difference(image + 1, maps.narrow(1, 0, 1)) < 1e-12);
  CHECK(largest_difference(maps.narrow(1, 1, 1), 0.5 * maps.narrow(1, 0, 1)) < 1e-12);
  CHECK(same_bits(image_before, image_copy));  // the caller's own tensor is not written to
  for (int i = 0; i < 6; ++i) CHECK(largest_difference(image[i], image_copy[i]) > 0.1);
  CHECK(image.min().item<double>() >= -1 - 1e-12);

  // By item, not by place in the batch; another seed, another change.
  at::Tensor some = (plane - 1).index_select(0, at::tensor(std::vector<std::int64_t>{4, 2})), none;
  augmenter.augment(some, none, {4, 2}, 11);
  CHECK(largest_difference(some[0], image[4]) < 1e-12);
  CHECK(largest_difference(some[1], image[2]) < 1e-12);
  CHECK_FALSE(none.defined());
  at::Tensor reseeded = plane - 1;
  augmenter.augment(reseeded, none, items, 12);
  CHECK(largest_difference(reseeded, image) > 0.1);
  const auto refused = [&](at::Tensor wrong, const std::vector<std::uint64_t>& numbers) {
    return error_text(ErrorCode::kInvalidArgument, [&] { augmenter.augment(some, wrong, numbers, 11); });
  };
  contains(refused({}, {4}), "augment: items");
  // Maps of another size would be resampled to the image's, those of another number read past their end.
  const std::int64_t side = some.size(2), across = some.size(3);
  contains(refused(at::zeros({2, 1, side + 1, across}), {4, 2}), "augment: maps");
  contains(refused(at::zeros({1, 1, side, across}), {4, 2}), "augment: maps");
  contains(refused(at::zeros({2, side, across}), {4, 2}), "augment: maps");
}

TEST_CASE("single geometric changes do what they are called", "[channel_augmenter]") {
  at::Tensor none;
  std::vector<std::uint64_t> items;
  for (std::uint64_t i = 0; i < 40; ++i) items.push_back(i);
  const at::Tensor plane = random_tensor({1, 1, 8, 16}, 3).clamp(-1, 1).expand({40, 1, 8, 16}).contiguous();

  ChannelAugmenterOptions flip;
  flip.flip = true;
  at::Tensor image = plane;
  HeatmapChannelAugmenter(flip).augment(image, none, items, 2);
  int flipped = 0;
  for (int i = 0; i < 40; ++i) {
    const bool same = largest_difference(image[i], plane[i]) < 1e-12;
    if (!same) CHECK(largest_difference(image[i], plane[i].flip(2)) < 1e-12);
    flipped += same ? 0 : 1;
  }
  CHECK(flipped > 8);
  CHECK(flipped < 32);

  // A rotation keeps distances in pixels, not in fractions of the sides: a centred disc stays a disc.
  const at::Tensor rows = at::arange(32, at::kDouble).reshape({32, 1}) - 15.5;
  const at::Tensor columns = at::arange(64, at::kDouble).reshape({1, 64}) - 31.5;
  const at::Tensor disc = (-(rows.square() + columns.square()) / 50).exp() * 2 - 1;
  ChannelAugmenterOptions rotation;
  rotation.max_rotation = 180;
  image = disc.expand({40, 1, 32, 64}).contiguous();
  HeatmapChannelAugmenter(rotation).augment(image, none, items, 2);
  CHECK(largest_difference(image, disc.expand({40, 1, 32, 64})) < 0.02);

  // A shift moves the disc's centre by at most the stated fraction of each side, either way.
  ChannelAugmenterOptions shift;
  shift.max_shift = 0.125;
  image = disc.expand({40, 1, 32, 64}).contiguous();
  HeatmapChannelAugmenter(shift).augment(image, none, items, 2);
  const at::Tensor mass = (image + 1).squeeze(1), total = mass.sum({1, 2});
  const at::Tensor down = (mass * rows).sum({1, 2}) / total, right = (mass * columns).sum({1, 2}) / total;
  CHECK(down.abs().max().item<double>() < 4.1);
  CHECK(right.abs().max().item<double>() < 8.1);
  for (const auto& moved : {down / 4, right / 8}) {
    CHECK(moved.min().item<double>() < -0.5);
    CHECK(moved.max().item<double>() > 0.5);
  }

  // A zoom changes the disc's area by the square of a factor in [1 - s, 1 + s].
  ChannelAugmenterOptions zoom;
  zoom.max_scale = 0.2;
  image = disc.expand({40, 1, 32, 64}).contiguous();
  HeatmapChannelAugmenter(zoom).augment(image, none, items, 2);
  const at::Tensor factor = ((image + 1).sum({1, 2, 3}) / (disc + 1).sum()).sqrt();
  CHECK(factor.min().item<double>() > 0.79);
  CHECK(factor.max().item<double>() < 1.21);
  CHECK(factor.max().item<double>() - factor.min().item<double>() > 0.2);
}

TEST_CASE("half types are augmented in float32, and a kernel is refused where there is none", "[channel_augmenter]") {
  const HeatmapChannelAugmenter augmenter(every_change());
  const std::vector<std::uint64_t> items = {3, 4};
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    INFO(type);
    at::Tensor image = (0.5 * random_tensor({2, 1, 33, 47}, 1)).clamp(-1, 1).to(type);
    at::Tensor maps = random_tensor({2, 2, 33, 47}, 2).to(type);
    at::Tensor wide_image = image.to(at::kFloat), wide_maps = maps.to(at::kFloat);
    augmenter.augment(image, maps, items, 11);
    augmenter.augment(wide_image, wide_maps, items, 11);
    CHECK(image.scalar_type() == type);
    CHECK(maps.scalar_type() == type);
    CHECK(same_bits(image, wide_image.to(type)));
    CHECK(same_bits(maps, wide_maps.to(type)));
  }
  at::Tensor image = at::zeros({2, 1, 8, 8}), maps = at::zeros({2, 1, 8, 8}, at::kHalf);
  check_refused(ErrorCode::kUnsupported, "kFused",
                [&] { augmenter.augment(image, maps, items, 11, Execution::kFused); });
  CHECK(maps.scalar_type() == at::kHalf);  // as it was
}

TEST_CASE("image and maps are augmented and joined on a device as on the CPU", "[channel_augmenter][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const std::vector<std::uint64_t> items = {0, 1, 2, 3, 4, 5};
  struct AugmentedType {
    at::ScalarType type;
    double operators, kernel;  ///< how far values may be off, as a part of 1 + their size
  };
  for (const bool shaded : {true, false})
    for (const AugmentedType& t : std::vector<AugmentedType>{
             {at::kDouble, 1e-10, 0}, {at::kFloat, 1e-4, 1e-5}, {at::kHalf, 1e-3, 1e-3}, {at::kBFloat16, 8e-3, 8e-3}}) {
      INFO(t.type << " shaded " << shaded);
      ChannelAugmenterOptions options = every_change();
      if (!shaded) options.max_brightness = options.max_contrast = 0;
      const HeatmapChannelAugmenter augmenter(options);
      const at::Tensor image_before = (0.5 * random_tensor({6, 1, 33, 47}, 1)).clamp(-1, 1).to(t.type);
      const at::Tensor maps_before = random_tensor({6, 3, 33, 47}, 2).to(t.type);
      at::Tensor image = image_before.to(at::kDouble), maps = maps_before.to(at::kDouble);
      augmenter.augment(image, maps, items, 11);
      const auto there = [&](Execution execution, std::int64_t first = 0) {
        at::Tensor x = image_before.to(device).narrow(0, first, 6 - first);
        at::Tensor h = maps_before.to(device).narrow(0, first, 6 - first);
        augmenter.augment(x, h, {items.begin() + first, items.end()}, 11, execution);
        CHECK(x.is_cuda());
        CHECK(x.scalar_type() == t.type);
        const at::Tensor joined = augmenter.apply(x, h);
        CHECK(same_bits(joined.narrow(1, 1, 3), h));
        CHECK_THROWS_WITH(augmenter.apply(x, h.cpu()), contains_text("device"));
        return joined;
      };
      const at::Tensor expected = at::cat({image, maps}, 1);
      const auto error = [&](const at::Tensor& found) {
        return ((found.cpu().to(at::kDouble) - expected).abs() / (1 + expected.abs())).max().item<double>();
      };
      CHECK(error(there(Execution::kReference)) < t.operators);
      CHECK(error(there(Execution::kAuto)) < t.operators);
      if (t.type == at::kDouble) {
        CHECK_THROWS_WITH(there(Execution::kFused), contains_text("kFused"));
        continue;
      }
      // The kernel, whether or not kAuto takes it.
      const at::Tensor fused = there(Execution::kFused);
      CHECK(error(fused) < t.kernel);
      CHECK(same_bits(there(Execution::kFused), fused));
      CHECK(same_bits(there(Execution::kFused, 4), fused.narrow(0, 4, 2)));
      // Where a gradient is recorded the operators stay.
      at::Tensor leaf = image_before.to(device).requires_grad_(true), moved = leaf, none;
      augmenter.augment(moved, none, items, 11);
      CHECK(moved.requires_grad());
      at::Tensor other = leaf;
      CHECK_THROWS_WITH(augmenter.augment(other, none, items, 11, Execution::kFused), contains_text("kFused"));
    }
}

TEST_CASE("intensity changes reach the image alone", "[channel_augmenter]") {
  ChannelAugmenterOptions options;
  options.max_brightness = 0.2;
  options.max_contrast = 0.3;
  const at::Tensor before = (0.3 * random_tensor({8, 1, 6, 6}, 4)).clamp(-1, 1);
  const at::Tensor maps_before = random_tensor({8, 2, 6, 6}, 5);
  at::Tensor image = before, maps = maps_before;
  HeatmapChannelAugmenter(options).augment(image, maps, {0, 1, 2, 3, 4, 5, 6, 7}, 3);
  CHECK(largest_difference(maps, maps_before) < 1e-12);
  CHECK(image.abs().max().item<double>() <= 1);
  std::set<double> gains;
  for (int i = 0; i < 8; ++i) {
    // Two pixels that were not clamped fix gain and offset; every other one must follow.
    const auto was = to_doubles(before[i]), is = to_doubles(image[i]);
    std::size_t low = 0, high = 0;
    for (std::size_t p = 0; p < was.size(); ++p) {
      if (std::abs(is[p]) == 1) continue;
      if (std::abs(is[low]) == 1 || was[p] < was[low]) low = p;
      if (std::abs(is[high]) == 1 || was[p] > was[high]) high = p;
    }
    const double gain = (is[high] - is[low]) / (was[high] - was[low]), offset = is[low] - gain * was[low];
    CHECK(std::abs(gain - 1) <= 0.3 + 1e-6);
    CHECK(std::abs(offset) <= 0.2 + 1e-6);
    gains.insert(gain);
    for (std::size_t p = 0; p < was.size(); ++p)
      CHECK(is[p] == Approx(std::min(1.0, std::max(-1.0, gain * was[p] + offset))).margin(1e-6));
  }
  CHECK(gains.size() == 8);

  ChannelAugmenterOptions off;
  CHECK_FALSE(off.augments());
  image = before;
  maps = maps_before;
  HeatmapChannelAugmenter(off).augment(image, maps, {0, 1, 2, 3, 4, 5, 6, 7}, 3);
  CHECK(image.is_same(before));
  CHECK(maps.is_same(maps_before));
}

TEST_CASE("scaled maps have mean 0 and deviation 1 over the training set, and stay comparable", "[heatmap]") {
  at::Tensor maps = at::cat({3 + 2 * random_tensor({5, 1, 6, 6}, 1), at::full({5, 1, 6, 6}, 0.7, at::kDouble)}, 1);
  const MapScaler scaler = MapScaler::fit(maps, 2);
  const auto first = to_doubles(maps.select(1, 0));
  double mean = 0, square = 0;
  for (const double value : first) mean += value / static_cast<double>(first.size());
  for (const double value : first) square += std::pow(value - mean, 2) / static_cast<double>(first.size());
  REQUIRE(scaler.mean().size() == 2);
  CHECK(scaler.mean()[0] == Approx(mean).epsilon(1e-6));
  CHECK(scaler.deviation()[0] == Approx(std::sqrt(square)).epsilon(1e-2));
  const at::Tensor scaled = scaler.apply(maps);
  REQUIRE(scaled.sizes() == maps.sizes());
  for (std::size_t i = 0; i < first.size(); ++i) {
    const double expected = (first[i] - scaler.mean()[0]) / scaler.deviation()[0];
    CHECK(scaled.select(1, 0).reshape({-1})[static_cast<std::int64_t>(i)].item<double>() ==
          Approx(std::min(2.0, std::max(-2.0, expected))).margin(1e-6));
  }
  CHECK(scaled.select(1, 1).abs().max().item<double>() == 0);  // a constant map carries nothing
  // One scale for all: half the signal stays half the signal.
  const at::Tensor faint = scaler.mean()[0] + 0.5 * scaler.deviation()[0] * at::ones({1, 2, 6, 6}, at::kDouble);
  CHECK(scaler.apply(faint)[0][0][0][0].item<double>() == Approx(0.5).epsilon(1e-6));
  CHECK_THROWS_AS(scaler.apply(maps.narrow(1, 0, 1)), Error);
  check_refused(ErrorCode::kInvalidArgument, "fit: maps", [&] { MapScaler::fit(maps.narrow(0, 0, 0)); });
  check_refused(ErrorCode::kInvalidArgument, "fit: limit", [&] { MapScaler::fit(maps, 0); });
}

namespace {

void check_normalisation_sets(const at::Device& device) {
  for_each_golden("heatmap_postprocess", [&device](const GoldenSet& set) {
    const std::string text = set.settings.at("tolerance");  // "float32 atol 1e-6; ..."
    const auto found = text.find("atol ");
    REQUIRE(found != std::string::npos);
    const double tolerance = std::stod(text.substr(found + 5));
    double worst = 0;
    std::vector<Unread> unread = {{"*.pixel_values", "CLIP's processing, which resize_clip_processor compares"}};
    for (const auto& [name, facts] : set.settings.at("config").at("cases").items()) {
      INFO(name);
      const auto plane = [&, prefix = name + "."](const char* tensor) {
        return to_tensor(set.at(prefix + tensor)).to(device, at::kFloat);
      };
      const auto close = [&](const at::Tensor& actual, const char* tensor) {
        // Where upstream divides zero by zero, or spreads one NaN over the plane, the plane is zero here.
        const at::Tensor expected = plane(tensor);
        const bool undefined = expected.isnan().any().item<bool>();
        if (undefined) CHECK(expected.isnan().all().item<bool>());
        const double error = largest_difference(actual, undefined ? at::zeros_like(expected) : expected);
        INFO(tensor);
        CHECK(error <= tolerance);
        worst = std::max(worst, error);
      };
      const at::Tensor x = plane("org"), image = plane("sample");
      close(min_max_scaled(x), "org_minmax");
      close(min_max_scaled(image), "sample_minmax");
      const at::Tensor diff = (min_max_scaled(x) - min_max_scaled(image)).abs();
      if (facts.at("diff_nan") == 0)
        close(diff, "diff");
      else
        unread.push_back({name + ".diff", "not a number, a map of the other image here"});
      const at::Tensor before = x.unsqueeze(0).unsqueeze(0), after = image.unsqueeze(0).unsqueeze(0).unsqueeze(0);
      if (set.file.contains(name + ".plain_abs_diff")) {
        if ((x + image).isnan().any().item<bool>())
          unread.push_back({name + ".plain_abs_diff", "of a plane that is not finite"});
        else
          close(difference_map(before, after)[0][0], "plain_abs_diff");
      }
      const auto rescaled = [&] { return reference_difference_map(before, after)[0][0]; };
      if (set.file.contains(name + ".rescaled")) close(rescaled(), "rescaled");
      if (set.file.contains(name + ".uint8")) {  // truncated, so the last bit of a float32 may be a level
        INFO("uint8");
        CHECK(largest_difference((rescaled() * 255).floor(), plane("uint8")) <= 1);
      }
    }
    check_outputs_read(set, unread, {"*_minmax", "*diff", "*.rescaled", "*.uint8", "*.pixel_values"});
    return worst;
  });
}

}  // namespace

TEST_CASE("golden: the published map normalisation", "[heatmap][golden]") { check_normalisation_sets(at::kCPU); }

TEST_CASE("golden map normalisation on a device", "[gpu]") {
  if (!no_golden_on_device()) check_normalisation_sets(at::Device(at::kCUDA, 0));
}
