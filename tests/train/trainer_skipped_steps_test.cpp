// Steps that a training leaves out.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/io/safetensors.h"
#include "daug/io/weights.h"
#include "daug/train/trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "train/stop_after.h"
#include "train/toy_training.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("non-finite steps are skipped, counted, and too many of them are an error", "[trainer]") {
  const RegressionProblem problem;
  const double nan = std::nan("");
  const auto replicas = regressions(2);
  const StepLoss loss = problem.loss(replicas);
  std::vector<at::Tensor> weights(9);
  Trainer trainer(modules(replicas), rich_options(8));
  const TrainingHistory history = trainer.run([&](std::size_t worker, std::int64_t step) {
    if (worker == 0) weights[static_cast<std::size_t>(step)] = replicas[0]->weight.detach().clone();
    const at::Tensor value = loss(worker, step);
    if (step == 2 && worker == 1) return value * nan;                           // the loss of one worker
    if (step == 5) return value + (0 * replicas[worker]->weight).sqrt().sum();  // a gradient alone: 0 * infinity
    return value;
  });
  CHECK(history.finished);
  CHECK(history.skipped_steps == 2);
  REQUIRE(history.loss.size() == 8);
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(std::isnan(history.loss[i]) == (i == 2 || i == 5));
    if (i < 7) CHECK(same_bits(weights[i], weights[i + 1]) == (i == 2 || i == 5));
  }

  for (const std::int64_t bad : {9, 10}) {
    const auto fresh = regressions(1);
    const StepLoss good = problem.loss(fresh);
    Trainer other(modules(fresh), rich_options(40));
    const auto run = [&] {
      return other.run([&](std::size_t worker, std::int64_t step) {
        const at::Tensor value = good(worker, step);
        // Two bursts: only failures in a row count together.
        return (step >= 3 && step < 12) || (step >= 13 && step < 13 + bad) ? value * nan : value;
      });
    };
    if (bad == 9) {
      CHECK(run().skipped_steps == 18);
    } else {
      check_refused(ErrorCode::kNumeric, "10 steps in a row, last step 22", run);
    }
    CHECK(fresh[0]->weight.isfinite().all().item<bool>());
  }
}

TEST_CASE("ten thousand steps of NaN and infinity leave no trace", "[trainer]") {
  // The good steps among them are the whole training: with a constant rate and average every state has to end with the
  // bits of a training that never saw the others.
  constexpr std::int64_t kGood = 200, kBad = 10000;
  const RegressionProblem problem;
  const Scratch scratch;
  const std::string clean_file = scratch.path("clean"), dirty_file = scratch.path("dirty");
  auto options = rich_options(kGood);
  options.warmup_steps = 0;
  options.final_rate = 1;
  options.ema_decay = 0.1;
  options.clip_norm = 1;
  options.max_skipped = kBad;
  options.checkpoint = clean_file;
  options.checkpoint_every = kGood;
  const auto clean = regressions(1, at::kFloat);
  const StepLoss expected = problem.loss(clean);
  Trainer(modules(clean), options).run(expected);

  options.steps = options.checkpoint_every = kGood + kBad;
  options.checkpoint = dirty_file;
  std::vector<char> good(kGood + kBad, 0);
  std::fill(good.begin(), good.begin() + kGood, 1);
  RandomStream(5, 0, "good steps").shuffle(good.begin(), good.end());
  const auto replicas = regressions(1, at::kFloat);
  const StepLoss loss = problem.loss(replicas);
  std::int64_t applied = 0;
  const auto inf = std::numeric_limits<float>::infinity();
  const TrainingHistory history = Trainer(modules(replicas), options).run([&](std::size_t, std::int64_t step) {
    if (good[static_cast<std::size_t>(step)]) return loss(0, applied++);
    const at::Tensor weight = replicas[0]->weight.sum();
    switch (step % 4) {
      case 0:
        return weight * std::numeric_limits<float>::quiet_NaN();
      case 1:
        return weight - inf;
      case 2:
        return weight + (0 * replicas[0]->weight).sqrt().sum();  // a finite loss, 0 * infinity in the gradient
      default:
        return (weight - weight.detach()) * 1e30;  // a gradient whose square overflows
    }
  });
  CHECK(history.finished);
  CHECK(history.skipped_steps == kBad);
  CHECK(std::count_if(history.loss.begin(), history.loss.end(), [](float value) { return std::isnan(value); }) == kBad);
  const SafetensorsFile left = read_safetensors(clean_file), right = read_safetensors(dirty_file);
  int compared = 0;
  for (const auto& [name, array] : left.tensors) {
    if (name.rfind("group", 0) != 0) continue;
    INFO(name);
    CHECK(same_bits(tensor_from(array), tensor_from(right.at(name))));
    ++compared;
  }
  CHECK(compared == 10);
}

TEST_CASE("buffers are averaged, chosen, resumed and kept from skipped steps with the weights", "[trainer]") {
  /// Changes its buffers in every pass, as batch norm does.
  struct Counting : Regression {
    at::Tensor last = register_buffer("last", at::zeros({1}, at::kDouble));
    at::Tensor count = register_buffer("count", at::zeros({}, at::kLong));
  };
  const RegressionProblem problem;
  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
  auto options = rich_options(12);
  options.ema_decay = 0.5;
  options.validate_every = 1;
  const auto skipped = [](std::int64_t step) { return step % 3 == 1; };
  const auto run = [&](Trainer& trainer, const std::shared_ptr<Counting>& network, const RunControl& control) {
    const StepLoss plain = problem.loss({network});
    const StepLoss loss = [&](std::size_t worker, std::int64_t step) {
      const double factor = skipped(step) ? std::nan("") : 1;
      at::NoGradGuard no_grad;
      network->last.fill_(factor * static_cast<double>(step));
      network->count.add_(1);
      const at::AutoGradMode grad(true);
      return plain(worker, step) * factor;
    };
    // Best after three steps that counted.
    return trainer.run(loss, control, [&] { return -std::abs(network->count.item<double>() - 3); });
  };

  double average = 0, average_at_best = 0;
  std::int64_t count = 0;
  for (std::int64_t step = 0; step < 12; ++step) {
    if (skipped(step)) continue;
    const double decay = std::min(0.5, static_cast<double>(1 + step) / static_cast<double>(10 + step));
    average = decay * average + (1 - decay) * static_cast<double>(step);
    if (++count == 3) average_at_best = average;
  }
  const auto straight = std::make_shared<Counting>();
  Trainer trainer({straight}, options);
  CHECK(run(trainer, straight, {}).skipped_steps == 4);
  CHECK(straight->last.item<double>() == 11);
  CHECK(straight->count.item<std::int64_t>() == count);
  trainer.use_averaged_weights();
  CHECK(straight->last.item<double>() == Approx(average).epsilon(1e-12));
  CHECK(straight->count.item<std::int64_t>() == count);
  trainer.use_best_weights();
  CHECK(straight->last.item<double>() == Approx(average_at_best).epsilon(1e-12));
  CHECK(straight->count.item<std::int64_t>() == 3);

  options.checkpoint = file;
  for (const bool averaged : {true, false}) {
    StopAfter request(5);
    const auto first = std::make_shared<Counting>(), second = std::make_shared<Counting>();
    Trainer stopped({first}, options), resumed({second}, options);
    CHECK_FALSE(run(stopped, first, request.control).finished);
    CHECK(run(resumed, second, {}).finished);
    averaged ? trainer.use_averaged_weights() : trainer.use_best_weights();
    averaged ? resumed.use_averaged_weights() : resumed.use_best_weights();
    CHECK(same_bits(second->last, straight->last));
    CHECK(same_bits(second->count, straight->count));
    CHECK(same_bits(second->weight, straight->weight));
    std::filesystem::remove(file);
  }
  const auto another = std::make_shared<Counting>();
  CHECK(mentions(caught([&] { Trainer({straight, another}, options); }), "buffers"));
}

TEST_CASE("steps skipped before a stop count towards the error after it", "[trainer]") {
  const RegressionProblem problem;
  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
  auto options = rich_options(30);
  options.max_skipped = 5;
  options.checkpoint = file;
  const auto train = [&](const RunControl& control) {
    const auto replicas = regressions(1);
    const StepLoss good = problem.loss(replicas);
    return Trainer(modules(replicas), options)
        .run([&](std::size_t worker, std::int64_t step) { return good(worker, step) * (step < 2 ? 1 : std::nan("")); },
             control);
  };
  StopAfter request(5);
  CHECK(train(request.control).skipped_steps == 3);
  CHECK(mentions(caught([&] { train({}); }), "5 steps in a row, last step 6"));
}
