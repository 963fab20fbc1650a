#include "daug/train/trainer.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "train/toy_training.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

double rate_by_hand(const TrainerOptions& options, std::int64_t step) {
  if (step < options.warmup_steps)
    return options.learning_rate * static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
  const double progress =
      static_cast<double>(step - options.warmup_steps) / static_cast<double>(options.steps - options.warmup_steps);
  return options.learning_rate *
         (options.final_rate + (1 - options.final_rate) * (1 + std::cos(std::acos(-1.0) * progress)) / 2);
}

/// AdamW on the regression in plain doubles: three weights (decayed) and a bias (not), clipping and averaging included.
struct AdamByHand {
  std::array<double, 4> value{}, first{}, second{}, average{};
  std::vector<double> losses;

  AdamByHand(const RegressionProblem& problem, const TrainerOptions& options) {
    const Regression start;
    const auto w = to_doubles(start.weight), xs = to_doubles(problem.x), ys = to_doubles(problem.y);
    value = {w[0], w[1], w[2], start.bias.item<double>()};
    average = value;
    for (std::int64_t step = 0; step < options.steps; ++step) {
      std::array<double, 4> gradient{};
      double loss = 0;
      for (std::int64_t i = 0; i < 8; ++i) {
        const auto row = static_cast<std::size_t>(step * 8 % 64 + i);
        const double error =
            value[0] * xs[3 * row] + value[1] * xs[3 * row + 1] + value[2] * xs[3 * row + 2] + value[3] - ys[row];
        loss += error * error / 8;
        for (std::size_t k = 0; k < 3; ++k) gradient[k] += 2 * error * xs[3 * row + k] / 8;
        gradient[3] += 2 * error / 8;
      }
      losses.push_back(loss);
      double norm = 0;
      for (double g : gradient) norm += g * g;
      norm = std::sqrt(norm);
      const double rate = rate_by_hand(options, step), t = static_cast<double>(step + 1);
      for (std::size_t k = 0; k < 4; ++k) {
        double g = gradient[k];
        if (options.clip_norm > 0 && norm > options.clip_norm) g *= options.clip_norm / norm;
        if (k < 3) value[k] *= 1 - rate * options.weight_decay;
        first[k] = options.beta1 * first[k] + (1 - options.beta1) * g;
        second[k] = options.beta2 * second[k] + (1 - options.beta2) * g * g;
        const double m = first[k] / (1 - std::pow(options.beta1, t)), v = second[k] / (1 - std::pow(options.beta2, t));
        value[k] -= rate * m / (std::sqrt(v) + options.epsilon);
        const double decay = std::min(options.ema_decay, t / (t + 9));
        average[k] = decay * average[k] + (1 - decay) * value[k];
      }
    }
  }
};

void check_values(const Regression& model, const std::array<double, 4>& expected, double tolerance) {
  for (std::int64_t k = 0; k < 3; ++k)
    CHECK(model.weight[0][k].item<double>() == Approx(expected[static_cast<std::size_t>(k)]).margin(tolerance));
  CHECK(model.bias.item<double>() == Approx(expected[3]).margin(tolerance));
}

}  // namespace

TEST_CASE("training equals AdamW written out in double", "[trainer]") {
  const RegressionProblem problem;
  for (const double clip : {0.0, 0.7})
    for (const double ema : {0.0, 0.3, 0.9}) {
      auto options = rich_options(12);
      options.clip_norm = clip;
      options.ema_decay = ema;
      const AdamByHand expected(problem, options);
      for (const std::int64_t read_every : {1, 5}) {
        INFO("clip " << clip << ", average " << ema << ", read every " << read_every);
        options.read_every = read_every;
        const auto replicas = regressions(1);
        Trainer trainer(modules(replicas), options);
        const TrainingHistory history = trainer.run(problem.loss(replicas));
        CHECK(history.finished);
        CHECK(history.skipped_steps == 0);
        REQUIRE(history.loss.size() == 12);
        for (std::size_t i = 0; i < 12; ++i) CHECK(history.loss[i] == Approx(expected.losses[i]).epsilon(1e-6));
        check_values(*replicas[0], expected.value, 1e-10);
        trainer.use_averaged_weights();
        check_values(*replicas[0], ema > 0 ? expected.average : expected.value, 1e-10);
      }
    }
}

TEST_CASE("decay shrinks matrices and leaves vectors alone", "[trainer]") {
  auto options = rich_options(5);
  const auto replicas = regressions(1);
  const double weight = replicas[0]->weight[0][0].item<double>(), bias = replicas[0]->bias.item<double>();
  Trainer trainer(modules(replicas), options);
  trainer.run([&](std::size_t, std::int64_t) { return 0 * (replicas[0]->weight.sum() + replicas[0]->bias.sum()); });
  double kept = 1;
  for (std::int64_t step = 0; step < 5; ++step) kept *= 1 - rate_by_hand(options, step) * options.weight_decay;
  CHECK(replicas[0]->weight[0][0].item<double>() == Approx(weight * kept).epsilon(1e-12));
  CHECK(replicas[0]->bias.item<double>() == bias);
}

TEST_CASE("the learning rate warms up, peaks and follows a cosine down", "[trainer]") {
  // Without moments AdamW moves a weight by exactly the learning rate, against the sign of its gradient.
  TrainerOptions options;
  options.steps = 10;
  options.learning_rate = 0.1;
  options.warmup_steps = 4;
  options.final_rate = 0.2;
  options.weight_decay = 0;
  options.beta1 = options.beta2 = 0;
  options.epsilon = 1e-300;
  const auto replicas = regressions(1);
  std::vector<double> positions;
  Trainer trainer(modules(replicas), options);
  trainer.run([&](std::size_t, std::int64_t) {
    positions.push_back(replicas[0]->bias.item<double>());
    return replicas[0]->bias.sum() + 0 * replicas[0]->weight.sum();
  });
  positions.push_back(replicas[0]->bias.item<double>());
  const double expected[] = {0.025,
                             0.05,
                             0.075,
                             0.1,
                             0.1,
                             0.1 * (0.2 + 0.8 * (1 + std::sqrt(3) / 2) / 2),
                             0.1 * (0.2 + 0.8 * 0.75),
                             0.06,
                             0.1 * (0.2 + 0.8 * 0.25),
                             0.1 * (0.2 + 0.8 * (1 - std::sqrt(3) / 2) / 2)};
  REQUIRE(positions.size() == 11);
  for (std::size_t i = 0; i < 10; ++i) CHECK(positions[i] - positions[i + 1] == Approx(expected[i]).epsilon(1e-9));
}

TEST_CASE("workers share a batch: as good as one, and bit-equal when repeated", "[trainer]") {
  const RegressionProblem problem;
  auto options = rich_options(20);
  options.ema_decay = 0.9;
  options.clip_norm = 1;
  const auto train = [&](std::size_t workers, at::ScalarType type) {
    const auto replicas = regressions(workers, type);
    Trainer trainer(modules(replicas), options);
    const TrainingHistory history = trainer.run(problem.loss(replicas));
    // Every replica looks at the same memory.
    for (const auto& replica : replicas) CHECK(replica->weight.data_ptr() == replicas[0]->weight.data_ptr());
    return std::make_pair(at::cat({replicas[0]->weight.detach().reshape({-1}), replicas[0]->bias.detach()}),
                          history.loss);
  };
  const auto one = train(1, at::kDouble), two = train(2, at::kDouble), four = train(4, at::kDouble);
  CHECK(largest_difference(two.first, one.first) < 1e-10);
  CHECK(largest_difference(four.first, one.first) < 1e-10);
  for (std::size_t i = 0; i < 20; ++i) CHECK(two.second[i] == Approx(one.second[i]).epsilon(1e-6));
  const auto single = train(2, at::kFloat), again = train(2, at::kFloat);
  CHECK(largest_difference(single.first, one.first) < 1e-4);
  CHECK(same_bits(single.first, again.first));
  CHECK(single.second == again.second);
}

TEST_CASE("an error in one worker ends the run with that error", "[trainer]") {
  const auto replicas = regressions(3);
  const RegressionProblem problem;
  Trainer trainer(modules(replicas), rich_options(8));
  CHECK(caught([&] {
          trainer.run([&](std::size_t worker, std::int64_t step) {
            if (worker == 1 && step == 2) throw Error(ErrorCode::kIo, "disk on fire");
            return replicas[worker]->error(problem.x, problem.y);
          });
        }).code() == ErrorCode::kIo);
}

TEST_CASE("a device that fails ends a training in its name, whichever of its calls found out", "[trainer]") {
  const RegressionProblem problem;
  const std::string said = "CUDA error: unspecified launch failure";
  const auto fault = [&said] { C10_THROW_ERROR(Error, said); };
  for (const std::size_t workers : {std::size_t{1}, std::size_t{2}}) {
    INFO(workers << " workers");
    const auto replicas = regressions(workers);
    auto options = rich_options(4);
    options.read_every = 2;
    const auto end_of = [&](const StepLoss& loss, const Validation& validation, const StepsRead& steps_read) {
      Trainer trainer(modules(replicas), options);
      return error_text(ErrorCode::kDevice, [&] { trainer.run(loss, {}, validation, steps_read); });
    };
    const StepLoss sound = problem.loss(replicas);
    const std::string expected = "daug::Trainer::run: its device has failed, in this call or in one before it: " + said;
    const StepLoss failing = [&](std::size_t worker, std::int64_t step) {
      if (step == 1 && worker + 1 == workers) fault();
      return sound(worker, step);
    };
    CHECK(end_of(failing, {}, {}) == expected);
    CHECK(end_of(sound, {}, fault) == expected);  // as losses are read
    const StepLoss named = [](std::size_t, std::int64_t) -> at::Tensor {
      throw Error(ErrorCode::kDevice, "daug::operation: out of luck");
    };
    CHECK(end_of(named, {}, {}) == "daug::Trainer::run: daug::operation: out of luck");
    options.validate_every = 2;
    const Validation unsound = [&] {
      fault();
      return 0.0;
    };
    CHECK(end_of(sound, unsound, {}) == expected);
  }
}

TEST_CASE("options and replicas out of range are refused", "[trainer]") {
  const auto refused = [](const char* option, const std::function<void(TrainerOptions&)>& spoil) {
    auto options = rich_options(3);
    spoil(options);
    INFO(option);
    CHECK(mentions(caught([&] { Trainer(modules(regressions(1)), options); }), option));
  };
  refused("steps", [](auto& o) { o.steps = -1; });
  refused("learning_rate", [](auto& o) { o.learning_rate = 0; });
  refused("learning_rate", [](auto& o) { o.learning_rate = std::nan(""); });
  refused("warmup_steps", [](auto& o) { o.warmup_steps = -1; });
  refused("final_rate", [](auto& o) { o.final_rate = 1.5; });
  refused("weight_decay", [](auto& o) { o.weight_decay = -1; });
  refused("beta1", [](auto& o) { o.beta1 = 1; });
  refused("beta2", [](auto& o) { o.beta2 = 1; });
  refused("epsilon", [](auto& o) { o.epsilon = 0; });
  refused("ema_decay", [](auto& o) { o.ema_decay = 1; });
  refused("clip_norm", [](auto& o) { o.clip_norm = -1; });
  refused("checkpoint_every", [](auto& o) { o.checkpoint_every = -1; });
  refused("layer_decay", [](auto& o) { o.layer_decay = 0; });
  refused("layer_decay", [](auto& o) { o.layer_decay = 1.1; });
  refused("max_skipped", [](auto& o) { o.max_skipped = 0; });
  refused("read_every", [](auto& o) { o.read_every = -1; });
  refused("validate_every", [](auto& o) { o.validate_every = -1; });
  refused("patience", [](auto& o) { o.patience = 1; });
  refused("patience", [](auto& o) { o.patience = -1; });
  refused("min_improvement", [](auto& o) { o.min_improvement = std::nan(""); });
  CHECK_THROWS_AS(Trainer({}, rich_options(1)), Error);
  CHECK_THROWS_AS(
      Trainer({std::make_shared<Regression>(), std::make_shared<Regression>(at::kDouble, 4)}, rich_options(1)), Error);
  const auto replicas = regressions(1);
  const auto before = weights_of(*replicas[0]);
  Trainer nothing(modules(replicas), rich_options(0));
  const TrainingHistory history =
      nothing.run([](std::size_t, std::int64_t) -> at::Tensor { throw std::logic_error("no step was asked for"); });
  CHECK(history.finished);
  CHECK(history.loss.empty());
  CHECK(same_weights(weights_of(*replicas[0]), before));
}
