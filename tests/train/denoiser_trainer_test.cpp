#include "daug/train/denoiser_trainer.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/translator/noise_predictor.h"
#include "daug/translator/noise_schedule.h"
#include "daug/translator/solver.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "train/autocast.h"
#include "train/stop_after.h"
#include "train/toy_training.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

DenoiserTrainerOptions tiny_denoiser(std::int64_t steps) {
  DenoiserTrainerOptions options;
  make_tiny(options.network);
  options.network.use_scale_shift_norm = true;
  options.max_level = 600;
  options.batch_size = 8;
  options.optimizer.steps = steps;
  options.optimizer.learning_rate = 3e-3;
  options.optimizer.ema_decay = 0.9;
  return options;
}

/// 24 images of 8x8: a bright or dark square on a gradient, and the state that says which.
struct ToyImages {
  at::Tensor images = at::empty({24, 1, 8, 8}), states = at::empty({24, 1});

  ToyImages() {
    const at::Tensor gradient = at::linspace(-0.5, 0.5, 8).reshape({1, 8}).expand({8, 8});
    for (std::int64_t i = 0; i < 24; ++i) {
      const double sign = i % 2 ? 1 : -1;
      images[i][0].copy_(gradient);
      images[i][0].narrow(0, 1 + i % 3, 4).narrow(1, 2, 4).add_(0.5 * sign);
      states[i][0] = sign;
    }
  }
};

double mean_of(const std::vector<float>& values, std::size_t first, std::size_t count) {
  double sum = 0;
  for (std::size_t i = first; i < first + count; ++i) sum += values.at(i);
  return sum / static_cast<double>(count);
}

}  // namespace

TEST_CASE("a denoiser learns a toy set, and its condition", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(1000);
  auto options = tiny_denoiser(160);
  options.workers = 1;
  TrainingHistory history;
  auto network = train_denoiser(toy.images, toy.states, schedule, options, {}, &history);
  REQUIRE(history.finished);
  REQUIRE(history.loss.size() == 160);
  const double early = mean_of(history.loss, 0, 20), late = mean_of(history.loss, 140, 20);
  INFO("loss " << early << " -> " << late);
  CHECK(late < 0.5 * early);
  CHECK(network->options().num_findings == 1);
  CHECK_FALSE(network->is_training());
  for (const auto& parameter : network->parameters()) CHECK_FALSE(parameter.requires_grad());

  // Noised almost beyond recognition, the square's sign is what the condition says it is.
  const auto predictor = make_noise_predictor(network, schedule, options.loss.prediction);
  const std::int64_t level = 550;
  const at::Tensor noise = random_tensor({16, 1, 8, 8}, 3).to(at::kFloat);
  const auto clean_square = [&](double state) {
    const at::Tensor x = schedule.noise(level) * noise;
    const at::Tensor eps = predictor->noise(x, level, at::full({16, 1}, state));
    const at::Tensor clean = transition(schedule, x, eps, level, 0);
    return clean.narrow(2, 3, 2).narrow(3, 2, 4).mean().item<double>();
  };
  const double difference = clean_square(1) - clean_square(-1);
  CHECK(difference > 0.3);
}

TEST_CASE("denoiser training repeats, resumes and splits over workers", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(1000);
  auto options = tiny_denoiser(9);
  TrainingHistory straight, history;
  const auto expected = weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &straight));
  CHECK(same_weights(weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &history)), expected));
  CHECK(history.loss == straight.loss);

  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
  options.optimizer.checkpoint = file;
  StopAfter request(4);
  train_denoiser(toy.images, toy.states, schedule, options, request.control, &history);
  CHECK_FALSE(history.finished);
  CHECK(history.loss.size() == 4);
  const auto resumed = weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &history));
  CHECK(history.finished);
  CHECK(history.loss == straight.loss);
  CHECK(same_weights(resumed, expected));

  options = tiny_denoiser(9);
  options.workers = 1;
  train_denoiser(toy.images, toy.states, schedule, options, {}, &history);
  for (std::size_t i = 0; i < 9; ++i) CHECK(history.loss[i] == Approx(straight.loss[i]).epsilon(1e-3));
  options.seed = 1;
  train_denoiser(toy.images, toy.states, schedule, options, {}, &history);
  CHECK(history.loss[0] != Approx(straight.loss[0]).epsilon(1e-3));
}

TEST_CASE("a denoiser trained in bfloat16 learns as in float32", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(1000);
  for (const std::int64_t workers : {1, 2}) {
    auto options = tiny_denoiser(60);
    options.workers = workers;
    options.network.dropout = 0.1;
    TrainingHistory full, half, again;
    const auto single = weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &full));
    options.precision = TrainingPrecision::kBfloat16;
    const auto reduced = weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &half));
    for (const at::Tensor& value : reduced) CHECK(value.scalar_type() == at::kFloat);
    CHECK_FALSE(same_weights(reduced, single));
    REQUIRE(half.loss.size() == full.loss.size());
    CHECK(half.loss[0] == full.loss[0]);  // the last layer is zero
    CHECK(half.loss[5] != full.loss[5]);
    for (std::size_t first = 0; first < 60; first += 10)
      CHECK(mean_of(half.loss, first, 10) == Approx(mean_of(full.loss, first, 10)).epsilon(0.05));
    // What the backward pass computes again is computed in the same precision; gradients of what several layers read
    // are added up in another order.
    options.network.use_checkpoint = true;
    train_denoiser(toy.images, toy.states, schedule, options, {}, &again);
    CHECK(again.loss[5] != full.loss[5]);
    for (std::size_t i = 0; i < 60; ++i) CHECK(again.loss[i] == Approx(half.loss[i]).epsilon(0.05));
  }
}

TEST_CASE("autocast in a training leaves that of its caller as it was", "[denoiser_trainer]") {
  at::autocast::set_autocast_dtype(at::kCPU, at::kHalf);
  for (const bool enabled : {true, false}) {
    at::autocast::set_autocast_enabled(at::kCPU, enabled);
    {
      const Autocast autocast(TrainingPrecision::kBfloat16, at::kCPU);
      CHECK(at::autocast::is_autocast_enabled(at::kCPU));
      CHECK(at::autocast::get_autocast_dtype(at::kCPU) == at::kBFloat16);
    }
    CHECK(at::autocast::is_autocast_enabled(at::kCPU) == enabled);
    CHECK(at::autocast::get_autocast_dtype(at::kCPU) == at::kHalf);
  }
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
}

TEST_CASE("learned variance, dropout and loss-aware levels train, repeat and resume", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(20);
  auto options = tiny_denoiser(120);
  options.max_level = 20;
  options.loss.variance = VarianceKind::kLearnedRange;
  options.loss.objective = DenoisingObjective::kRescaledMse;
  options.loss_aware_levels = true;
  options.network.dropout = 0.1;
  options.network.use_checkpoint = true;
  TrainingHistory straight, history;
  auto network = train_denoiser(toy.images, toy.states, schedule, options, {}, &straight);
  CHECK(network->options().out_channels == 2);
  CHECK(mean_of(straight.loss, 100, 20) < mean_of(straight.loss, 0, 20));
  const auto expected = weights_of(*network);

  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
  options.optimizer.checkpoint = file;
  StopAfter request(70);  // every level has its ten losses by then, so that the history matters
  train_denoiser(toy.images, toy.states, schedule, options, request.control, &history);
  CHECK_FALSE(history.finished);
  // The same weights from the beginning on once more, and over the stop.
  CHECK(same_weights(weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &history)), expected));
  CHECK(history.loss == straight.loss);

  // Uniform levels take another way once every level has its losses.
  options.optimizer.checkpoint.clear();
  options.loss_aware_levels = false;
  StopAfter enough(75);
  train_denoiser(toy.images, toy.states, schedule, options, enough.control, &history);
  REQUIRE(history.loss.size() == 75);
  CHECK(std::equal(history.loss.begin(), history.loss.begin() + 5, straight.loss.begin()));
  CHECK_FALSE(std::equal(history.loss.begin(), history.loss.end(), straight.loss.begin()));
}

TEST_CASE("a noise-aware classifier separates a toy set", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(1000);
  ClassifierTrainerOptions options;
  make_tiny(options.network);
  options.network.num_head_channels = 8;
  options.batch_size = 8;
  options.workers = 1;
  options.max_level = 300;
  options.optimizer.steps = 80;
  options.optimizer.learning_rate = 3e-3;
  // A second finding that is never known, and images about which nothing is known.
  at::Tensor states = at::cat({toy.states, at::zeros({24, 1})}, 1);
  states.narrow(0, 20, 4).zero_();
  TrainingHistory history;
  auto network = train_noise_aware_classifier(toy.images, states, schedule, options, {}, &history);
  REQUIRE(history.finished);
  CHECK(mean_of(history.loss, 60, 20) < 0.4 * mean_of(history.loss, 0, 20));
  REQUIRE(network->options().out_channels == 2);
  for (const std::int64_t level : {0, 100}) {
    const at::Tensor noise = random_tensor({24, 1, 8, 8}, 4).to(at::kFloat);
    const at::Tensor noisy = schedule.signal(level) * toy.images + schedule.noise(level) * noise;
    const at::Tensor logits = network->forward(noisy, at::full({24}, schedule.timestep(level), at::kLong)).select(1, 0);
    const at::Tensor right = (logits * toy.states.select(1, 0) > 0).to(at::kFloat);
    INFO("level " << level);
    CHECK(right.mean().item<double>() > 0.9);
  }
  TrainingHistory half;
  options.precision = TrainingPrecision::kBfloat16;
  train_noise_aware_classifier(toy.images, states, schedule, options, {}, &half);
  CHECK(half.loss[0] != history.loss[0]);
  CHECK(half.loss[0] == Approx(history.loss[0]).epsilon(0.02));
  CHECK(mean_of(half.loss, 60, 20) < 0.4 * mean_of(half.loss, 0, 20));
}

TEST_CASE("training sets and options that do not fit are refused", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(1000);
  const auto train = [&](const at::Tensor& images, const at::Tensor& states, const DenoiserTrainerOptions& options) {
    return caught([&] { train_denoiser(images, states, schedule, options); });
  };
  auto options = tiny_denoiser(2);
  CHECK(mentions(train(toy.images[0], toy.states, options), "images"));
  CHECK(mentions(train(toy.images.narrow(0, 0, 0), toy.states.narrow(0, 0, 0), options), "images"));
  CHECK(mentions(train(toy.images, toy.states.narrow(0, 0, 3), options), "states"));
  CHECK(mentions(train(toy.images, toy.states.select(1, 0), options), "states"));
  CHECK(mentions(train(toy.images, {}, options), "states"));
  const auto guide = [&](const at::Tensor& images, const at::Tensor& states) {
    return caught([&] { train_noise_aware_classifier(images, states, schedule, {}); });
  };
  // What training would take in silence: pixels as files have them, a pixel that is no number, states of another code.
  at::Tensor broken = toy.images.clone(), unknown = toy.states.clone(), halfway = toy.states.clone();
  broken[23][0][7][7].fill_(std::nan(""));
  unknown[23][0].fill_(std::nan(""));
  halfway[23][0].fill_(0.5);
  const at::Tensor pixels = (toy.images + 1) * 127.5;
  for (const Error& error : {train(pixels, toy.states, options), guide(pixels, toy.states)}) {
    CHECK(error.code() == ErrorCode::kInvalidArgument);
    CHECK(mentions(error, "images", "0..255"));
  }
  CHECK(mentions(train(broken, toy.states, options), "images", "finite"));
  CHECK(mentions(train(toy.images.to(at::kLong), toy.states, options), "images", "floating-point"));
  CHECK(mentions(train(toy.images, unknown, options), "states", "got nan"));
  CHECK(mentions(train(toy.images, halfway, options), "states", "got 0.5"));
  CHECK(mentions(guide(toy.images, 2 * toy.states), "states", "got -2"));
  const auto refused = [&](const char* option, const std::function<void(DenoiserTrainerOptions&)>& spoil) {
    auto spoiled = options;
    spoil(spoiled);
    INFO(option);
    CHECK(mentions(train(toy.images, toy.states, spoiled), option));
  };
  refused("max_level", [](auto& o) { o.max_level = 1001; });
  refused("workers", [](auto& o) { o.workers = 0; });
  refused("batch_size", [](auto& o) { o.batch_size = 7; });
  refused("finding_dropout", [](auto& o) { o.finding_dropout = 1.1; });
  refused("min_snr", [](auto& o) { o.loss.min_snr = -1; });
  refused("dropout", [](auto& o) { o.network.dropout = 1; });
  refused("condition_dropout", [](auto& o) { o.condition_dropout = -0.1; });
  refused("learning_rate", [](auto& o) { o.optimizer.learning_rate = -1; });
  options.loss.prediction = Prediction::kEps;
  CHECK(mentions(
      caught([&] { train_denoiser(toy.images, toy.states, NoiseSchedule::named("zero_snr_linear"), options); }),
      "without signal"));
  CHECK(mentions(caught([&] { train_noise_aware_classifier(toy.images, at::zeros_like(toy.states), schedule, {}); }),
                 "states"));
}

TEST_CASE("positives weigh as much as there are negatives to one of them", "[trainer]") {
  // By column: one positive and two negatives; four negatives; four positives.
  const at::Tensor states =
      at::tensor({1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, -1.0, 1.0, 0.0, -1.0, 1.0}, at::kFloat).view({4, 3});
  const auto weights = to_doubles(positive_weights(states, 3));
  REQUIRE(weights.size() == 3);
  CHECK(weights[0] == 2);
  CHECK(weights[1] == 3);
  CHECK(weights[2] == Approx(1 / 3.0));
  CHECK(mentions(caught([&] { positive_weights(states, 0.5); }), "most"));
}
