// Trainings whose batches do not fit into memory.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_trainer.h"
#include "daug/train/student_trainer.h"
#include "daug/train/trainer.h"
#include "daug/translator/noise_schedule.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/full_device.h"
#include "support/memory_count.h"
#include "support/tensor.h"
#include "train/told_of_memory.h"
#include "train/toy_encoders.h"
#include "train/toy_training.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// A regression that notes its passes in buffers, as batch norm does.
struct NotingRegression : Regression {
  at::Tensor passes = register_buffer("passes", at::zeros({}, at::kLong));
};

/// The problem's loss in parts, on a machine that has memory for `room` items at a time. What does not fit is found out
/// in the backward pass, when gradients are there already. `tried` gets every part's size.
StepInParts regression_in_parts(const RegressionProblem& problem,
                                const std::vector<std::shared_ptr<Regression>>& replicas, std::int64_t room,
                                std::vector<std::vector<std::int64_t>>& tried) {
  tried.resize(replicas.size());
  return [&problem, replicas, room, &tried](std::size_t worker, std::int64_t step, std::int64_t most) {
    const auto share = static_cast<std::int64_t>(8 / replicas.size());
    const std::int64_t first = step * 8 % 64 + static_cast<std::int64_t>(worker) * share;
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (std::int64_t begin = 0; begin < share; begin += most) {
      const std::int64_t count = std::min(most, share - begin);
      tried[worker].push_back(count);
      const at::Tensor loss = replicas[worker]->error(problem.x.narrow(0, first + begin, count),
                                                      problem.y.narrow(0, first + begin, count)) *
                              (static_cast<double>(count) / static_cast<double>(share));
      loss.backward();
      if (count > room) C10_THROW_ERROR(OutOfMemoryError, "no memory is left");
      sum = sum + loss.detach();
    }
    return sum;
  };
}

/// What a training came to, without tensors: those may not outlive a MemoryCount.
struct Outcome {
  std::vector<double> weights;
  std::vector<float> losses;
  std::vector<std::pair<std::int64_t, std::string>> told;
  std::int64_t peak = 0;  ///< bytes
};

/// Trains a network and returns its weights.
using Training = std::function<std::vector<double>(const RunControl& control, TrainingHistory* history)>;

Outcome outcome_of(const Training& train, std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
  Outcome result;
  TrainingHistory history;
  Told told;
  {
    const MemoryCount count(most);
    result.weights = train(told.control, &history);
    result.peak = count.peak();
  }
  result.losses = history.loss;
  result.told = told.reports;
  return result;
}

double largest_gap(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

std::vector<double> flat(const std::vector<at::Tensor>& tensors) {
  std::vector<double> values;
  for (const at::Tensor& tensor : tensors) {
    const auto more = to_doubles(tensor);
    values.insert(values.end(), more.begin(), more.end());
  }
  return values;
}

/// Checks that a training with 32 items a step ends the same in a part of the memory that it takes, and that `other`,
/// that of smaller batches, does not.
void check_made_in_parts(const Training& train, const Training& other) {
  NothingHeard nothing;
  const c10::WarningUtils::WarningHandlerGuard guard(&nothing);
  outcome_of(train);  // what LibTorch makes once
  const Outcome whole = outcome_of(train);
  CHECK(whole.told.empty());
  const Outcome parts = outcome_of(train, static_cast<std::int64_t>(0.6 * static_cast<double>(whole.peak)));
  REQUIRE(parts.told.size() == 1);
  CHECK(parts.told[0].first == 1);
  contains(parts.told[0].second, "out of memory with 32 items at a time, ");
  REQUIRE(whole.losses.size() == 4);
  REQUIRE(parts.losses.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(parts.losses[i] == Approx(whole.losses[i]).epsilon(1e-4));
  constexpr double kRounding = 2e-4;
  CHECK(largest_gap(parts.weights, whole.weights) < kRounding);
  CHECK(largest_gap(outcome_of(other).weights, whole.weights) > 10 * kRounding);
}

/// Four large steps whose size hardly depends on rounding of gradients that are nearly zero.
TrainerOptions four_steps() {
  TrainerOptions options;
  options.steps = 4;
  options.warmup_steps = 0;
  options.learning_rate = 0.05;
  options.epsilon = 1e-3;
  return options;
}

/// Settings that the denoiser's, the guide's and the student's trainings share.
template <class Options>
Options small_training(std::int64_t batch_size) {
  Options options;
  make_tiny(options.network, 16);
  options.network.dropout = 0.3;
  options.batch_size = batch_size;
  options.workers = 1;
  options.optimizer = four_steps();
  return options;
}

at::Tensor toy_images(std::int64_t count) {
  return (0.3 * random_tensor({count, 1, 16, 16}, 1)).clamp(-1, 1).to(at::kFloat);
}

/// [count, 2]: present, absent and unknown, the latter more often in some parts of a batch than in others.
at::Tensor toy_states(std::int64_t count) {
  const at::Tensor numbers = random_tensor({count, 2}, 2);
  return at::where(numbers.abs() < 0.4, at::zeros_like(numbers), numbers.sign()).to(at::kFloat);
}

}  // namespace

TEST_CASE("a step that does not fit into memory is made again in parts, with the gradients of the whole",
          "[trainer][memory]") {
  NothingHeard nothing;
  const c10::WarningUtils::WarningHandlerGuard guard(&nothing);
  const RegressionProblem problem;
  auto options = rich_options(6);
  options.ema_decay = 0.5;
  options.clip_norm = 0.5;
  for (const std::size_t workers : {std::size_t{1}, std::size_t{2}}) {
    INFO(workers << " workers");
    const auto whole = regressions(workers), parts = regressions(workers);
    Trainer expected(modules(whole), options), actual(modules(parts), options);
    const TrainingHistory straight = expected.run(problem.loss(whole));
    std::vector<std::vector<std::int64_t>> tried;
    Told told;
    const auto share = static_cast<std::int64_t>(8 / workers);
    const TrainingHistory history =
        actual.run_in_parts(regression_in_parts(problem, parts, 3, tried), share, told.control);
    CHECK(history.finished);
    REQUIRE(history.loss.size() == straight.loss.size());
    for (std::size_t i = 0; i < history.loss.size(); ++i)
      CHECK(history.loss[i] == Approx(straight.loss[i]).epsilon(1e-6));
    CHECK(largest_difference(parts[0]->weight, whole[0]->weight) < 1e-12);
    CHECK(largest_difference(parts[0]->bias, whole[0]->bias) < 1e-12);
    expected.use_averaged_weights(), actual.use_averaged_weights();
    CHECK(largest_difference(parts[0]->weight, whole[0]->weight) < 1e-12);
    // What did not fit is tried once; what does stays for the rest of the training.
    std::vector<std::int64_t> by_hand = workers == 1 ? std::vector<std::int64_t>{8, 4} : std::vector<std::int64_t>{4};
    by_hand.insert(by_hand.end(), static_cast<std::size_t>(6 * share / 2), 2);
    for (const auto& worker : tried) CHECK(worker == by_hand);
    REQUIRE(told.reports.size() == 1);
    CHECK(told.reports[0].first == 1);
    contains(told.reports[0].second,
             daug::detail::concat("out of memory with ", share, " items at a time, 2 from here on"));
    contains(told.reports[0].second, "loss ");
  }
}

TEST_CASE("parts may be uneven, and what passes count begins a step again as it was", "[trainer][memory]") {
  NothingHeard nothing;
  const c10::WarningUtils::WarningHandlerGuard guard(&nothing);
  const RegressionProblem problem;
  const auto network = std::make_shared<NotingRegression>();
  const auto plain = regressions(1);
  Trainer trainer({network}, rich_options(5));
  Trainer(modules(plain), rich_options(5)).run(problem.loss(plain));
  std::vector<std::vector<std::int64_t>> tried;
  const StepInParts parts = regression_in_parts(problem, {network}, 6, tried);
  const auto noting = [&](std::size_t worker, std::int64_t step, std::int64_t most) {
    {
      const at::NoGradGuard no_grad;
      network->passes.add_(1);
    }
    // Eight items at a time do not fit; then three, three and two.
    return parts(worker, step, most == 4 ? 3 : most);
  };
  trainer.run_in_parts(noting, 8);
  CHECK(network->passes.item<std::int64_t>() == 5);
  std::vector<std::int64_t> by_hand = {8};
  for (int step = 0; step < 5; ++step) by_hand.insert(by_hand.end(), {3, 3, 2});
  CHECK(tried.at(0) == by_hand);
  CHECK(largest_difference(network->weight, plain[0]->weight) < 1e-12);
}

TEST_CASE("memory that is too small for one item ends a training by its own error", "[trainer][memory]") {
  const RegressionProblem problem;
  const auto replicas = regressions(1);
  std::vector<std::vector<std::int64_t>> tried;
  {
    Trainer trainer(modules(replicas), rich_options(6));
    const std::string text = error_text(
        ErrorCode::kOutOfMemory, [&] { trainer.run_in_parts(regression_in_parts(problem, replicas, 0, tried), 8); });
    contains(text, "daug::Trainer::run: memory: expected enough for the smallest part of step 0");
    contains(text, "no memory is left");
    CHECK(tried.at(0) == std::vector<std::int64_t>{8, 4, 2, 1});
  }
  // A loss that is made in one piece is not asked for again.
  int asked = 0;
  const auto ends_with = [&](ErrorCode code, const std::string& part, const std::function<void(Trainer&)>& run) {
    Trainer trainer(modules(replicas), rich_options(6));
    check_refused(code, part, [&] { run(trainer); });
  };
  ends_with(ErrorCode::kOutOfMemory, "smallest part of step 0", [&](Trainer& trainer) {
    trainer.run([&](std::size_t, std::int64_t) -> at::Tensor {
      ++asked;
      C10_THROW_ERROR(OutOfMemoryError, "no memory is left");
    });
  });
  CHECK(asked == 1);
  // What a step calls may have made parts already.
  std::vector<std::int64_t> shares;
  ends_with(ErrorCode::kOutOfMemory, "smallest part of step 0, got daug::embed_images: one image",
            [&](Trainer& trainer) {
              trainer.run_in_parts(
                  [&](std::size_t, std::int64_t, std::int64_t most) -> at::Tensor {
                    shares.push_back(most);
                    throw Error(ErrorCode::kOutOfMemory, "daug::embed_images: one image");
                  },
                  8);
            });
  CHECK(shares == std::vector<std::int64_t>{8, 4, 2, 1});
  // Other errors are none of memory's.
  const auto broken = [&](std::size_t, std::int64_t, std::int64_t) -> at::Tensor {
    ++asked;
    throw Error(ErrorCode::kMismatch, "another error");
  };
  ends_with(ErrorCode::kMismatch, "another error", [&](Trainer& trainer) { trainer.run_in_parts(broken, 8); });
  CHECK(asked == 2);
  ends_with(ErrorCode::kInvalidArgument, "items", [&](Trainer& trainer) { trainer.run_in_parts(broken, 0); });
  CHECK(asked == 2);
}

TEST_CASE("a denoiser trains the same in less memory than its batches want", "[denoiser_trainer][memory]") {
  const at::Tensor images = toy_images(48), states = toy_states(48);
  const auto schedule = NoiseSchedule::linear(20);
  const auto training = [&](std::int64_t batch_size) -> Training {
    auto options = small_training<DenoiserTrainerOptions>(batch_size);
    options.max_level = 2;  // soon each has its ten losses, which decide from then on
    options.loss_aware_levels = true;
    return [=](const RunControl& control, TrainingHistory* history) {
      return flat(train_denoiser(images, states, schedule, options, control, history)->parameters());
    };
  };
  check_made_in_parts(training(32), training(16));
}

TEST_CASE("a training's batches are halved on a device that others have left little of", "[denoiser_trainer][gpu]") {
  if (no_device()) return;
  NothingHeard nothing;
  const c10::WarningUtils::WarningHandlerGuard guard(&nothing);
  constexpr std::int64_t kImages = 1024;  // features of the first level alone take 8 MB each time
  const at::Tensor images = toy_images(kImages), states = toy_states(kImages);
  const auto schedule = NoiseSchedule::linear(20);
  const auto losses = [&](std::int64_t batch_size, const RunControl& control) {
    auto options = small_training<DenoiserTrainerOptions>(batch_size);
    options.max_level = 2;
    options.network.dropout = 0;
    options.network.execution = options.graphs = Execution::kReference;
    options.device = c10::Device(at::kCUDA, 0);
    TrainingHistory history;
    train_denoiser(images, states, schedule, options, control, &history);
    return history.loss;
  };
  // What libraries and kernels of all sizes of batches take for themselves.
  for (std::int64_t size = 1; size < kImages; size *= 2) (void)losses(size, {});
  const std::vector<float> expected = losses(kImages, {});
  const FullDevice full(std::int64_t{48} << 20);
  Told told;
  const std::vector<float> actual = losses(kImages, told.control);
  REQUIRE(told.reports.size() == 1);
  contains(told.reports[0].second, "out of memory with 1024 items at a time, ");
  REQUIRE(expected.size() == 4);
  REQUIRE(actual.size() == 4);
  constexpr double kOtherKernels = 1e-2;  // smaller batches may get others, which round to TF32 or do not
  for (std::size_t i = 0; i < 4; ++i) CHECK(actual[i] == Approx(expected[i]).epsilon(kOtherKernels));
}

TEST_CASE("a noise-aware classifier trains the same in less memory than its batches want",
          "[denoiser_trainer][memory]") {
  const at::Tensor images = toy_images(48), states = toy_states(48);
  const auto schedule = NoiseSchedule::linear(1000);
  const auto training = [&](std::int64_t batch_size) -> Training {
    auto options = small_training<ClassifierTrainerOptions>(batch_size);
    options.network.num_head_channels = 8;
    return [=](const RunControl& control, TrainingHistory* history) {
      return flat(train_noise_aware_classifier(images, states, schedule, options, control, history)->parameters());
    };
  };
  check_made_in_parts(training(32), training(16));
}

TEST_CASE("a student trains the same in less memory than its batches want", "[student_trainer][memory]") {
  const at::Tensor images = toy_images(48);
  const at::Tensor maps = at::cat({images.square(), images.abs()}, 1);
  const auto training = [&](std::int64_t batch_size) -> Training {
    const auto options = small_training<StudentTrainerOptions>(batch_size);
    return [=](const RunControl& control, TrainingHistory* history) {
      return flat(train_map_student(images, maps, options, control, history).network->parameters());
    };
  };
  check_made_in_parts(training(32), training(16));
}

TEST_CASE("encoders keep all negatives of a batch that does not fit into memory", "[encoder_trainer][memory]") {
  const ToyCohort toy(32);
  const auto training = [&](std::int64_t batch_size, std::int64_t epochs) -> Training {
    auto options = small(ChannelMode::kAppend, epochs);
    options.image.drop_path = 0.2;
    options.batch_size = batch_size;
    options.optimizer = four_steps();
    options.optimizer.learning_rate = 5e-3;
    return [&toy, options](const RunControl& control, TrainingHistory* history) {
      return flat(train_encoders(toy.dataset, options, control, history).as_module()->parameters());
    };
  };
  // Half the items a step have half the negatives.
  check_made_in_parts(training(32, 4), training(16, 2));
}

TEST_CASE("batches of towers that use batch statistics are not made smaller by themselves",
          "[encoder_trainer][memory]") {
  ToyCohort toy(32);
  // Large enough that a pass takes more memory than weights and moments.
  toy.dataset.images = toy.dataset.images.repeat({1, 1, 4, 4});
  toy.dataset.maps = at::Tensor();
  auto options = small(ChannelMode::kNone, 4);
  options.image.kind = ImageEncoderKind::kResNet;
  options.image.image_size = 64;
  options.image.resnet.blocks = {1, 1, 1, 1};
  options.image.resnet.base_width = 8;
  options.batch_size = 32;
  options.optimizer = four_steps();
  options.optimizer.learning_rate = 5e-3;
  const auto training = [&](std::int64_t chunk_size) -> Training {
    auto chunked = options;
    chunked.chunk_size = chunk_size;
    return [&toy, chunked](const RunControl& control, TrainingHistory* history) {
      return flat(train_encoders(toy.dataset, chunked, control, history).as_module()->parameters());
    };
  };
  outcome_of(training(0));  // what LibTorch makes once
  const auto limit = static_cast<std::int64_t>(0.8 * static_cast<double>(outcome_of(training(0)).peak));
  check_refused(ErrorCode::kOutOfMemory, "smallest part of step 0", [&] { outcome_of(training(0), limit); });
  const Outcome chosen = outcome_of(training(8), limit);
  CHECK(chosen.losses.size() == 4);
  CHECK(chosen.told.empty());
}
