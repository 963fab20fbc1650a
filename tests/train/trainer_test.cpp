#include "daug/train/trainer.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "daug/core/random.h"
#include "daug/io/file.h"
#include "daug/io/weights.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/parameter_groups.h"
#include "daug/translator/diffusion_translator.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// y = x W^T + b with a matrix, which is decayed, and a vector, which is not.
struct Regression : torch::nn::Module {
  explicit Regression(at::ScalarType type = at::kDouble, std::int64_t inputs = 3) {
    weight = register_parameter("weight", random_tensor({1, inputs}, 1).to(type));
    bias = register_parameter("bias", random_tensor({1}, 2).to(type));
  }
  at::Tensor error(const at::Tensor& x, const at::Tensor& y) const {
    return (at::linear(x, weight, bias) - y).square().mean();
  }
  at::Tensor weight, bias;
};

std::vector<std::shared_ptr<torch::nn::Module>> modules(const std::vector<std::shared_ptr<Regression>>& replicas) {
  return {replicas.begin(), replicas.end()};
}

std::vector<std::shared_ptr<Regression>> regressions(std::size_t count, at::ScalarType type = at::kDouble) {
  std::vector<std::shared_ptr<Regression>> replicas;
  for (std::size_t i = 0; i < count; ++i) replicas.push_back(std::make_shared<Regression>(type));
  return replicas;
}

/// A batch of 8 for each step, split over the workers.
struct Problem {
  at::Tensor x = random_tensor({64, 3}, 5), y = random_tensor({64, 1}, 6);

  StepLoss loss(std::vector<std::shared_ptr<Regression>> replicas) const {
    const auto type = replicas[0]->weight.scalar_type();
    return [replicas, x = x.to(type), y = y.to(type)](std::size_t worker, std::int64_t step) {
      const auto share = static_cast<std::int64_t>(8 / replicas.size());
      const std::int64_t first = step * 8 % 64 + static_cast<std::int64_t>(worker) * share;
      return replicas[worker]->error(x.narrow(0, first, share), y.narrow(0, first, share));
    };
  }
};

TrainerOptions rich_options(std::int64_t steps) {
  TrainerOptions options;
  options.steps = steps;
  options.learning_rate = 0.05;
  options.warmup_steps = 4;
  options.final_rate = 0.1;
  options.weight_decay = 0.3;
  options.beta1 = 0.8;
  options.beta2 = 0.95;
  options.epsilon = 1e-6;
  return options;
}

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

  AdamByHand(const Problem& problem, const TrainerOptions& options) {
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

/// A file name of its own, removed before and after.
struct TemporaryFile {
  explicit TemporaryFile(const char* name) : path((std::filesystem::temp_directory_path() / name).string()) {
    std::filesystem::remove(path);
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
  std::string path;
};

/// Requests a stop once `steps` steps are done.
struct StopAfter {
  explicit StopAfter(std::int64_t steps)
      : control{[this, steps](const Progress& progress) {
                  if (progress.done == steps) source.request_stop();
                },
                source.token()} {}
  StopSource source;
  RunControl control;
};

DenoiserTrainerOptions tiny_denoiser(std::int64_t steps) {
  DenoiserTrainerOptions options;
  options.network.image_size = 8;
  options.network.model_channels = 8;
  options.network.num_res_blocks = 1;
  options.network.channel_mult = {1, 2};
  options.network.norm_groups = 4;
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

std::vector<at::Tensor> weights_of(torch::nn::Module& module) {
  std::vector<at::Tensor> weights;
  for (const auto& parameter : module.parameters()) weights.push_back(parameter.detach().clone());
  return weights;
}

bool same_weights(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_bits);
}

double mean_of(const std::vector<float>& values, std::size_t first, std::size_t count) {
  double sum = 0;
  for (std::size_t i = first; i < first + count; ++i) sum += values.at(i);
  return sum / static_cast<double>(count);
}

}  // namespace

TEST_CASE("training equals AdamW written out in double", "[trainer]") {
  const Problem problem;
  for (const double clip : {0.0, 0.7})
    for (const double ema : {0.0, 0.3, 0.9}) {
      auto options = rich_options(12);
      options.clip_norm = clip;
      options.ema_decay = ema;
      const AdamByHand expected(problem, options);
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
  const Problem problem;
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

TEST_CASE("a stopped and resumed training ends bit-identical", "[trainer]") {
  const Problem problem;
  const TemporaryFile file("daug_trainer_test.checkpoint");
  for (const std::size_t workers : {1U, 2U})
    for (const std::int64_t every : {0, 3}) {
      INFO(workers << " workers, a checkpoint every " << every << " steps");
      auto options = rich_options(17);
      options.ema_decay = 0.9;
      const auto straight = regressions(workers, at::kFloat);
      Trainer uninterrupted(modules(straight), options);
      const TrainingHistory expected = uninterrupted.run(problem.loss(straight));
      CHECK_FALSE(std::filesystem::exists(file.path));

      options.checkpoint = file.path;
      options.checkpoint_every = every;
      options.fingerprint = "toy";
      for (const std::int64_t stop : {7, 8}) {
        StopAfter request(stop);
        const auto replicas = regressions(workers, at::kFloat);
        Trainer trainer(modules(replicas), options);
        const TrainingHistory history = trainer.run(problem.loss(replicas), request.control);
        CHECK_FALSE(history.finished);
        CHECK(history.loss.size() == static_cast<std::size_t>(stop));
        CHECK(std::filesystem::exists(file.path));
      }
      const auto resumed = regressions(workers, at::kFloat);
      {
        at::NoGradGuard no_grad;
        resumed[0]->weight.zero_();  // where a resumed network starts does not matter
      }
      Trainer trainer(modules(resumed), options);
      const TrainingHistory history = trainer.run(problem.loss(resumed));
      CHECK(history.finished);
      CHECK(history.loss == expected.loss);
      CHECK(same_bits(resumed[0]->weight.detach(), straight[0]->weight.detach()));
      CHECK(same_bits(resumed[0]->bias.detach(), straight[0]->bias.detach()));
      trainer.use_averaged_weights();
      uninterrupted.use_averaged_weights();
      CHECK(same_bits(resumed[0]->weight.detach(), straight[0]->weight.detach()));
      CHECK(std::filesystem::exists(file.path));
      std::filesystem::remove(file.path);
    }
}

TEST_CASE("a run that was killed goes on from its last checkpoint", "[trainer]") {
  const Problem problem;
  const TemporaryFile file("daug_trainer_test.checkpoint");
  auto options = rich_options(10);
  const auto straight = regressions(1);
  Trainer(modules(straight), options).run(problem.loss(straight));
  options.checkpoint = file.path;
  options.checkpoint_every = 4;
  const auto dying = regressions(1);
  const StepLoss loss = problem.loss(dying);
  Trainer killed(modules(dying), options);
  CHECK_THROWS_AS(killed.run([&](std::size_t worker, std::int64_t step) -> at::Tensor {
    if (step == 6) throw std::runtime_error("power cut");
    return loss(worker, step);
  }),
                  std::runtime_error);
  std::vector<std::int64_t> steps;
  const auto resumed = regressions(1);
  const StepLoss rest = problem.loss(resumed);
  Trainer trainer(modules(resumed), options);
  trainer.run([&](std::size_t worker, std::int64_t step) {
    steps.push_back(step);
    return rest(worker, step);
  });
  CHECK(steps == std::vector<std::int64_t>{4, 5, 6, 7, 8, 9});
  CHECK(same_bits(resumed[0]->weight.detach(), straight[0]->weight.detach()));
}

TEST_CASE("a checkpoint of something else is refused and changes nothing", "[trainer]") {
  const Problem problem;
  const TemporaryFile file("daug_trainer_test.checkpoint");
  auto options = rich_options(6);
  options.checkpoint = file.path;
  options.fingerprint = "first";
  StopAfter request(3);
  const auto first = regressions(1);
  Trainer(modules(first), options).run(problem.loss(first), request.control);

  const auto refused = [&](const TrainerOptions& wanted, std::shared_ptr<torch::nn::Module> module) {
    const auto before = weights_of(*module);
    Trainer trainer({module}, wanted);
    const Error error = error_of([&] { trainer.run([](std::size_t, std::int64_t) { return at::zeros({}); }); });
    CHECK(mentions(error, file.path));
    CHECK(same_weights(weights_of(*module), before));
    return error;
  };
  auto other = options;
  other.fingerprint = "second";
  Error error = refused(other, std::make_shared<Regression>());
  CHECK(error.code() == ErrorCode::kMismatch);
  CHECK(mentions(error, "first"));
  CHECK(mentions(error, "second"));
  CHECK(refused(options, std::make_shared<Regression>(at::kDouble, 4)).code() == ErrorCode::kMismatch);

  SafetensorsFile broken = read_safetensors(file.path);
  broken.metadata["step"] = "many";
  write_safetensors(file.path, broken);
  CHECK(refused(options, std::make_shared<Regression>()).code() == ErrorCode::kFormat);
  broken.metadata.erase("format");
  write_safetensors(file.path, broken);
  CHECK(refused(options, std::make_shared<Regression>()).code() == ErrorCode::kMismatch);
  write_file_atomically(file.path, "half a checkpoint");
  CHECK(refused(options, std::make_shared<Regression>()).code() == ErrorCode::kFormat);
}

TEST_CASE("non-finite steps are skipped, counted, and too many of them are an error", "[trainer]") {
  const Problem problem;
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
      const Error error = error_of(run);
      CHECK(error.code() == ErrorCode::kNumeric);
      CHECK(mentions(error, "10 steps in a row, last step 22"));
    }
    CHECK(fresh[0]->weight.isfinite().all().item<bool>());
  }
}

TEST_CASE("ten thousand steps of NaN and infinity leave no trace", "[trainer]") {
  // The good steps among them are the whole training: with a constant rate and average every state has to end with the
  // bits of a training that never saw the others.
  constexpr std::int64_t kGood = 200, kBad = 10000;
  const Problem problem;
  const TemporaryFile clean_file("daug_trainer_clean.checkpoint"), dirty_file("daug_trainer_dirty.checkpoint");
  auto options = rich_options(kGood);
  options.warmup_steps = 0;
  options.final_rate = 1;
  options.ema_decay = 0.1;
  options.clip_norm = 1;
  options.max_skipped = kBad;
  options.checkpoint = clean_file.path;
  options.checkpoint_every = kGood;
  const auto clean = regressions(1, at::kFloat);
  const StepLoss expected = problem.loss(clean);
  Trainer(modules(clean), options).run(expected);

  options.steps = options.checkpoint_every = kGood + kBad;
  options.checkpoint = dirty_file.path;
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
  const SafetensorsFile left = read_safetensors(clean_file.path), right = read_safetensors(dirty_file.path);
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
  const Problem problem;
  const TemporaryFile file("daug_trainer_test.checkpoint");
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

  options.checkpoint = file.path;
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
    std::filesystem::remove(file.path);
  }
  const auto another = std::make_shared<Counting>();
  CHECK(mentions(error_of([&] { Trainer({straight, another}, options); }), "buffers"));
}

TEST_CASE("steps skipped before a stop count towards the error after it", "[trainer]") {
  const Problem problem;
  const TemporaryFile file("daug_trainer_test.checkpoint");
  auto options = rich_options(30);
  options.max_skipped = 5;
  options.checkpoint = file.path;
  const auto train = [&](const RunControl& control) {
    const auto replicas = regressions(1);
    const StepLoss good = problem.loss(replicas);
    return Trainer(modules(replicas), options)
        .run([&](std::size_t worker, std::int64_t step) { return good(worker, step) * (step < 2 ? 1 : std::nan("")); },
             control);
  };
  StopAfter request(5);
  CHECK(train(request.control).skipped_steps == 3);
  CHECK(mentions(error_of([&] { train({}); }), "5 steps in a row, last step 6"));
}

TEST_CASE("the best validation decides the weights, and patience ends a training", "[trainer]") {
  const Problem problem;
  struct Case {
    std::vector<double> values;
    std::int64_t patience;
    double improvement;
    std::int64_t best_step;
    std::size_t validations;
  };
  const double nan = std::nan("");
  // A validation after steps 3, 6, 9, 12, 15 and the last one, 16.
  const Case cases[] = {
      {{1, 3, 2, 2, 2, 2}, 0, 0, 6, 6},          {{1, 3, 2, 2, 4, 5}, 2, 0, 6, 4},
      {{1, 3, 2, 4, 4, 4}, 2, 0, 12, 6},         {{1, 1.5, 1.9, 2, 9, 9}, 3, 1, 3, 4},
      {{nan, nan, 0, nan, -1, nan}, 3, 0, 9, 6}, {{nan, nan, 7, 7, 7, 7}, 2, 0, 0, 2},
      {{0, 1, 2, 3, 4, 5}, 1, 0.5, 16, 6},
  };
  for (const auto& one : cases) {
    INFO("best after " << one.best_step);
    auto options = rich_options(16);
    options.ema_decay = 0.9;
    options.validate_every = 3;
    options.patience = one.patience;
    options.min_improvement = one.improvement;
    const auto replicas = regressions(2);
    std::vector<std::vector<at::Tensor>> seen;
    Trainer trainer(modules(replicas), options);
    const TrainingHistory history = trainer.run(problem.loss(replicas), {}, [&] {
      seen.push_back(weights_of(*replicas[0]));
      return one.values.at(seen.size() - 1);
    });
    CHECK(history.finished);
    CHECK(history.best_step == one.best_step);
    CHECK(history.validation.size() == one.validations);
    CHECK(history.stopped_early == (history.loss.size() < 16));
    CHECK(history.loss.size() == (one.validations == 6 ? 16 : 3 * one.validations));

    // Validation sees the averaged weights and changes nothing.
    auto plain = rich_options(16);
    plain.ema_decay = 0.9;
    std::vector<std::vector<at::Tensor>> averages;
    for (const std::int64_t stop : {3, 6, 9, 12, 15, 16}) {
      const auto partial = regressions(2);
      Trainer shorter(modules(partial), plain);
      StopAfter request(stop);
      shorter.run(problem.loss(partial), request.control);
      shorter.use_averaged_weights();
      averages.push_back(weights_of(*partial[0]));
    }
    for (std::size_t i = 0; i < seen.size(); ++i) CHECK(same_weights(seen[i], averages[i]));
    trainer.use_best_weights();
    const std::size_t kept = one.best_step == 0 ? seen.size() - 1 : static_cast<std::size_t>((one.best_step - 1) / 3);
    CHECK(same_weights(weights_of(*replicas[0]), averages[kept]));
  }

  auto options = rich_options(4);
  CHECK(mentions(error_of([&] {
                   const auto replicas = regressions(1);
                   Trainer(modules(replicas), options).run(problem.loss(replicas), {}, [] { return 0.0; });
                 }),
                 "validation"));
  options.validate_every = 2;
  CHECK(mentions(error_of([&] {
                   const auto replicas = regressions(1);
                   Trainer(modules(replicas), options).run(problem.loss(replicas));
                 }),
                 "validation"));
}

TEST_CASE("a resumed training keeps validations, best weights and patience", "[trainer]") {
  const Problem problem;
  const TemporaryFile file("daug_trainer_test.checkpoint");
  const double values[] = {1, 5, 4, 3, 2, 6};
  for (const std::int64_t patience : {0, 3})
    for (const std::int64_t stop : {1, 5, 7, 8}) {
      INFO("patience " << patience << ", stopped after " << stop);
      auto options = rich_options(12);
      options.ema_decay = 0.5;
      options.validate_every = 2;
      options.patience = patience;
      const auto train = [&](std::vector<at::Tensor>* weights, const RunControl& control) {
        const auto replicas = regressions(1, at::kFloat);
        std::int64_t step = 0;
        const StepLoss loss = problem.loss(replicas);
        Trainer trainer(modules(replicas), options);
        const TrainingHistory history = trainer.run(
            [&](std::size_t worker, std::int64_t now) {
              step = now + 1;
              return loss(worker, now);
            },
            control, [&] { return values[step / 2 - 1]; });
        trainer.use_best_weights();
        *weights = weights_of(*replicas[0]);
        return history;
      };
      std::vector<at::Tensor> expected, weights;
      const TrainingHistory straight = train(&expected, {});
      CHECK(straight.best_step == (patience == 0 ? 12 : 4));
      CHECK(straight.stopped_early == (patience == 3));
      options.checkpoint = file.path;
      options.checkpoint_every = 1;
      StopAfter request(stop);
      CHECK_FALSE(train(&weights, request.control).finished);
      for (int again = 0; again < 2; ++again) {  // what has ended stays ended
        const TrainingHistory resumed = train(&weights, {});
        CHECK(resumed.finished);
        CHECK(resumed.validation == straight.validation);
        CHECK(resumed.loss == straight.loss);
        CHECK(resumed.best_step == straight.best_step);
        CHECK(resumed.stopped_early == straight.stopped_early);
        CHECK(same_weights(weights, expected));
      }
      std::filesystem::remove(file.path);
    }
}

TEST_CASE("frozen parameters stay as they are, and a pattern has to fit", "[trainer]") {
  const Problem problem;
  auto options = rich_options(6);
  options.ema_decay = 0.5;
  for (const char* pattern : {"bias", "b*", "?ias", "[ab]ias"}) {
    INFO(pattern);
    options.freeze = {pattern};
    const auto replicas = regressions(2);
    const auto before = weights_of(*replicas[0]);
    Trainer trainer(modules(replicas), options);
    trainer.run(problem.loss(replicas));
    trainer.use_averaged_weights();
    CHECK_FALSE(same_bits(replicas[0]->weight.detach(), before[0]));
    for (const auto& replica : replicas) CHECK(same_bits(replica->bias.detach(), before[1]));
  }
  const auto refused = [&](std::vector<std::string> patterns) {
    options.freeze = std::move(patterns);
    const auto replicas = regressions(1);
    const Error error = error_of([&] { Trainer(modules(replicas), options); });
    CHECK(replicas[0]->weight.requires_grad() == !mentions(error, "is trained"));
    return error;
  };
  CHECK(mentions(refused({"w*", "weights"}), "'weights'"));
  CHECK(mentions(refused({"Bias"}), "'Bias'"));
  CHECK(mentions(refused({"*"}), "is trained"));
}

TEST_CASE("learning rates decay by depth, as the formula says", "[trainer]") {
  // A weight's exponent, counted by hand, in several towers.
  const std::vector<std::pair<std::string, int>> places = {
      {"image.vision_model.embeddings.patch_embedding.weight", 4},
      {"image.vision_model.embeddings.patch_embedding.extra_weight", 0},
      {"image.vision_model.embeddings.class_embedding", 4},
      {"image.vision_model.pre_layrnorm.weight", 4},
      {"image.vision_model.encoder.layers.0.self_attn.q_proj.weight", 3},
      {"image.vision_model.encoder.layers.2.layer_norm1.bias", 1},
      {"image.vision_model.post_layernorm.weight", 0},
      {"image.visual_projection.weight", 0},
      {"text.text_model.embeddings.token_embedding.weight", 2},
      {"text.text_model.encoder.layers.0.mlp.fc1.weight", 1},
      {"text.text_model.final_layer_norm.weight", 0},
      {"conv.stem.weight", 3},
      {"conv.blocks.0.conv1.weight", 2},
      {"conv.blocks.1.norm2.weight", 1},
      {"conv.pool.position_embedding.weight", 0},
      {"resnet.conv1.weight", 5},
      {"resnet.bn1.bias", 5},
      {"resnet.layer1.0.conv1.weight", 4},
      {"resnet.layer4.1.bn2.weight", 1},
      {"resnet.fc.weight", 0},
      {"densenet.features.conv0.weight", 3},
      {"densenet.features.denseblock1.denselayer2.conv1.weight", 2},
      {"densenet.features.transition1.conv.weight", 2},
      {"densenet.features.denseblock2.denselayer1.norm1.weight", 1},
      {"densenet.features.norm5.weight", 0},
      {"layer1.0.conv1.weight", 1},
      {"conv1.weight", 2},
  };
  std::vector<std::string> names;
  for (const auto& [name, exponent] : places) names.push_back(name);
  const auto scales = layer_rate_scales(names, 0.5);
  for (std::size_t i = 0; i < places.size(); ++i) {
    INFO(places[i].first);
    CHECK(scales[i] == std::pow(0.5, places[i].second));
  }
  for (const double scale : layer_rate_scales(names, 1)) CHECK(scale == 1);
  CHECK(layer_rate_scales({"weight", "bias"}, 1) == std::vector<double>{1, 1});
  CHECK_THROWS_WITH(layer_rate_scales({"weight", "bias"}, 0.9), contains_text("blocks"));
  CHECK_THROWS_WITH(layer_rate_scales(names, 0), contains_text("decay"));

  // Without moments AdamW moves a weight by its learning rate.
  struct Blocks : torch::nn::Module {
    Blocks() {
      for (const char* name : {"stem", "blocks", "head"}) register_module(name, std::make_shared<Regression>());
      const auto blocks = children()[1];
      for (const char* name : {"0", "1"}) blocks->register_module(name, std::make_shared<Regression>());
    }
  };
  TrainerOptions options;
  options.steps = 1;
  options.learning_rate = 0.1;
  options.warmup_steps = 0;
  options.weight_decay = 0;
  options.beta1 = options.beta2 = 0;
  options.epsilon = 1e-300;
  options.layer_decay = 0.3;
  const auto network = std::make_shared<Blocks>();
  std::map<std::string, at::Tensor> before;
  for (const auto& item : network->named_parameters()) before[item.key()] = item.value().detach().clone();
  Trainer({network}, options).run([&](std::size_t, std::int64_t) {
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const auto& parameter : network->parameters()) sum = sum + parameter.sum();
    return sum;
  });
  const std::map<std::string, int> exponents = {{"stem", 3}, {"blocks.0", 2}, {"blocks.1", 1}, {"head", 0}};
  for (const auto& item : network->named_parameters()) {
    const auto found = exponents.find(item.key().substr(0, item.key().rfind('.')));
    if (found == exponents.end()) continue;  // the container's own
    INFO(item.key());
    const at::Tensor moved = before[item.key()] - item.value().detach();
    CHECK(largest_difference(moved, at::full_like(moved, 0.1 * std::pow(0.3, found->second))) < 1e-12);
  }
}

TEST_CASE("an error in one worker ends the run with that error", "[trainer]") {
  const auto replicas = regressions(3);
  const Problem problem;
  Trainer trainer(modules(replicas), rich_options(8));
  CHECK(error_of([&] {
          trainer.run([&](std::size_t worker, std::int64_t step) {
            if (worker == 1 && step == 2) throw Error(ErrorCode::kIo, "disk on fire");
            return replicas[worker]->error(problem.x, problem.y);
          });
        }).code() == ErrorCode::kIo);
}

TEST_CASE("options and replicas out of range are refused", "[trainer]") {
  const auto refused = [](const char* option, const std::function<void(TrainerOptions&)>& spoil) {
    auto options = rich_options(3);
    spoil(options);
    INFO(option);
    CHECK(mentions(error_of([&] { Trainer(modules(regressions(1)), options); }), option));
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

TEST_CASE("a sample order visits everything once an epoch, anew each time", "[trainer]") {
  for (const std::size_t count : {1U, 2U, 7U, 100U}) {
    SampleOrder order(count, 3), same(count, 3), other(count, 4), backwards(count, 3);
    std::vector<std::size_t> visits, others;
    for (std::uint64_t position = 0; position < 3 * count; ++position) {
      visits.push_back(order.at(position));
      others.push_back(other.at(position));
      REQUIRE(same.at(position) == visits.back());
    }
    for (std::size_t epoch = 0; epoch < 3; ++epoch) {
      const auto begin = visits.begin() + static_cast<long>(epoch * count);
      const std::set<std::size_t> seen(begin, begin + static_cast<long>(count));
      CHECK(seen.size() == count);
      CHECK(*seen.rbegin() == count - 1);
    }
    if (count == 100) {
      CHECK_FALSE(std::equal(visits.begin(), visits.begin() + 100, visits.begin() + 100));
      CHECK(visits != others);
    }
    for (std::uint64_t position = 3 * count; position-- > 0;) REQUIRE(backwards.at(position) == visits[position]);
  }
  CHECK_THROWS_AS(SampleOrder(0, 1), Error);
}

TEST_CASE("a mixed order keeps its share at every length and visits each group evenly", "[trainer]") {
  const std::vector<std::int64_t> few = {4, 9, 11}, many = {0, 1, 2, 3, 5, 6, 7};
  for (const double share : {0.0, 0.25, 1.0 / 3, 0.5, 0.9, 1.0}) {
    INFO("share " << share);
    MixedSampleOrder order(few, many, share, 7);
    std::map<std::int64_t, int> visits;
    std::int64_t of_first = 0;
    for (std::uint64_t position = 0; position < 420; ++position) {
      const std::int64_t row = order.at(position);
      ++visits[row];
      of_first += std::count(few.begin(), few.end(), row);
      REQUIRE(of_first == static_cast<std::int64_t>(std::floor(static_cast<double>(position + 1) * share)));
    }
    for (const auto* group : {&few, &many}) {
      const auto [least, most] = std::minmax_element(
          group->begin(), group->end(), [&](std::int64_t a, std::int64_t b) { return visits[a] < visits[b]; });
      CHECK(visits[*most] - visits[*least] <= 1);
    }
  }
  MixedSampleOrder only_second({}, many, 0.5, 7);
  for (std::uint64_t position = 0; position < 20; ++position)
    CHECK(std::count(many.begin(), many.end(), only_second.at(position)) == 1);
  CHECK_THROWS_AS(MixedSampleOrder({}, {}, 0.5, 7), Error);
  CHECK_THROWS_AS(MixedSampleOrder(few, many, 1.5, 7), Error);
}

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

  const TemporaryFile file("daug_denoiser_test.checkpoint");
  options.optimizer.checkpoint = file.path;
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
  CHECK(same_weights(weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &history)), expected));

  const TemporaryFile file("daug_denoiser_test.checkpoint");
  options.optimizer.checkpoint = file.path;
  StopAfter request(70);  // every level has its ten losses by then, so that the history matters
  train_denoiser(toy.images, toy.states, schedule, options, request.control, &history);
  CHECK_FALSE(history.finished);
  CHECK(same_weights(weights_of(*train_denoiser(toy.images, toy.states, schedule, options, {}, &history)), expected));
  CHECK(history.loss == straight.loss);

  // Uniform levels take another way once every level has its losses.
  options.optimizer.checkpoint.clear();
  options.loss_aware_levels = false;
  train_denoiser(toy.images, toy.states, schedule, options, {}, &history);
  CHECK(std::equal(history.loss.begin(), history.loss.begin() + 5, straight.loss.begin()));
  CHECK(history.loss != straight.loss);
}

TEST_CASE("a noise-aware classifier separates a toy set", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(1000);
  ClassifierTrainerOptions options;
  options.network.image_size = 8;
  options.network.model_channels = 8;
  options.network.num_res_blocks = 1;
  options.network.channel_mult = {1, 2};
  options.network.norm_groups = 4;
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
}

TEST_CASE("training sets and options that do not fit are refused", "[denoiser_trainer]") {
  const ToyImages toy;
  const auto schedule = NoiseSchedule::linear(1000);
  const auto train = [&](const at::Tensor& images, const at::Tensor& states, const DenoiserTrainerOptions& options) {
    return error_of([&] { train_denoiser(images, states, schedule, options); });
  };
  auto options = tiny_denoiser(2);
  CHECK(mentions(train(toy.images[0], toy.states, options), "images"));
  CHECK(mentions(train(toy.images.narrow(0, 0, 0), toy.states.narrow(0, 0, 0), options), "images"));
  CHECK(mentions(train(toy.images, toy.states.narrow(0, 0, 3), options), "states"));
  CHECK(mentions(train(toy.images, toy.states.select(1, 0), options), "states"));
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
      error_of([&] { train_denoiser(toy.images, toy.states, NoiseSchedule::named("zero_snr_linear"), options); }),
      "without signal"));
  CHECK(mentions(error_of([&] { train_noise_aware_classifier(toy.images, at::zeros_like(toy.states), schedule, {}); }),
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
  CHECK(mentions(error_of([&] { positive_weights(states, 0.5); }), "most"));
}
