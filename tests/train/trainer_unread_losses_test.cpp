// Trainings that do not look at the loss of every step, as on a device.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/train/trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/scratch.h"
#include "train/stop_after.h"
#include "train/toy_training.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

/// A regression with buffers that every pass changes, as batch norm does.
struct CountedRegression : Regression {
  explicit CountedRegression(at::ScalarType type) : Regression(type) {
    last = register_buffer("last", at::zeros({1}, type));
    count = register_buffer("count", at::zeros({}, at::kLong));
  }
  at::Tensor last, count;
};

bool has_no_loss(std::int64_t step) { return step % 7 == 2; }
bool has_no_gradient(std::int64_t step) { return step % 11 == 5; }

/// 150 clipped and averaged steps, some of which have to be skipped: what is left of them, on the CPU, and the history.
std::pair<std::vector<at::Tensor>, TrainingHistory> with_skipped_steps(at::ScalarType type, std::int64_t read_every,
                                                                       const c10::Device& device,
                                                                       Execution execution = Execution::kAuto) {
  auto options = rich_options(150);
  options.clip_norm = 0.7;
  options.ema_decay = 0.9;
  options.read_every = read_every;
  options.execution = execution;
  RegressionProblem problem;
  problem.x = problem.x.to(device);
  problem.y = problem.y.to(device);
  const auto network = std::make_shared<CountedRegression>(type);
  network->to(device);
  Trainer trainer({network}, options);
  const StepLoss plain = problem.loss({network});
  const TrainingHistory history = trainer.run([&](std::size_t worker, std::int64_t step) {
    {
      const at::NoGradGuard no_grad;
      network->last.fill_(has_no_loss(step) ? kNotANumber : static_cast<double>(step));
      network->count.add_(1);
    }
    const at::Tensor loss = plain(worker, step);
    if (has_no_loss(step)) return loss * kNotANumber;
    if (has_no_gradient(step)) return loss + (0 * network->weight).sqrt().sum();  // 0 * infinity
    return loss;
  });
  std::vector<at::Tensor> left;
  const auto take = [&] {
    for (const at::Tensor& tensor : {network->weight, network->bias, network->last, network->count})
      left.push_back(tensor.detach().to(at::kCPU, at::kDouble).clone());
  };
  take();
  trainer.use_averaged_weights();
  take();
  return {left, history};
}

void check_same_training(const std::pair<std::vector<at::Tensor>, TrainingHistory>& actual,
                         const std::pair<std::vector<at::Tensor>, TrainingHistory>& expected, double tolerance) {
  REQUIRE(actual.first.size() == expected.first.size());
  for (std::size_t i = 0; i < expected.first.size(); ++i)
    CHECK(largest_difference(actual.first[i], expected.first[i]) <= tolerance);
  CHECK(actual.second.finished);
  CHECK(actual.second.skipped_steps == expected.second.skipped_steps);
  REQUIRE(actual.second.loss.size() == expected.second.loss.size());
  for (std::size_t i = 0; i < expected.second.loss.size(); ++i) {
    const float found = actual.second.loss[i], wanted = expected.second.loss[i];
    CHECK(std::isnan(found) == std::isnan(wanted));
    if (!std::isnan(wanted)) CHECK(found == Approx(wanted).epsilon(1e-4));
  }
}

/// 40 steps whose loss is no number from step `first` on.
struct EndingInNothing {
  std::vector<std::shared_ptr<Regression>> replicas = regressions(1);
  std::int64_t calls = 0;
  StepLoss loss;

  EndingInNothing(const RegressionProblem& problem, std::int64_t first) {
    loss = [this, good = problem.loss(replicas), first](std::size_t worker, std::int64_t step) {
      ++calls;
      return good(worker, step) * (step < first ? 1.0 : kNotANumber);
    };
  }
};

}  // namespace

TEST_CASE("a training that leaves losses unread for a while is the one that reads each", "[trainer]") {
  std::int64_t skipped = 0, left = 0;
  for (std::int64_t step = 0; step < 150; ++step) {
    const bool skips = has_no_loss(step) || has_no_gradient(step);
    skipped += skips ? 1 : 0;
    if (!skips) left = step;
  }
  for (const auto& [type, tolerance] : {std::pair(at::kDouble, 1e-12), std::pair(at::kFloat, 1e-6)}) {
    INFO(type);
    const auto expected = with_skipped_steps(type, 1, at::kCPU);
    CHECK(expected.second.skipped_steps == skipped);
    for (const std::int64_t read_every : {2, 7, 1000}) {
      INFO("read every " << read_every);
      const auto actual = with_skipped_steps(type, read_every, at::kCPU);
      check_same_training(actual, expected, tolerance);
      CHECK(actual.first[2].item<double>() == static_cast<double>(left));
      CHECK(actual.first[3].item<double>() == static_cast<double>(150 - skipped));
      for (std::size_t i = 0; i < 150; ++i) {
        const auto step = static_cast<std::int64_t>(i);
        CHECK(std::isnan(actual.second.loss[i]) == (has_no_loss(step) || has_no_gradient(step)));
      }
    }
  }
  // Several workers.
  const RegressionProblem problem;
  auto options = rich_options(30);
  options.ema_decay = 0.9;
  options.clip_norm = 0.5;
  const auto train = [&](std::int64_t read_every) {
    options.read_every = read_every;
    const auto replicas = regressions(4);
    Trainer trainer(modules(replicas), options);
    TrainingHistory history = trainer.run(problem.loss(replicas));
    auto weights = weights_of(*replicas[0]);
    return std::make_pair(std::move(weights), std::move(history));
  };
  check_same_training(train(4), train(1), 1e-12);
}

TEST_CASE("a training on a device is the one on the CPU", "[trainer][gpu]") {
  if (no_device()) return;
  for (const auto& [type, tolerance] : {std::pair(at::kDouble, 1e-10), std::pair(at::kFloat, 1e-4)}) {
    INFO(type);
    const auto expected = with_skipped_steps(type, 1, at::kCPU);
    for (const std::int64_t read_every : {0, 1, 7}) {
      INFO("read every " << read_every);
      const c10::Device device(at::kCUDA, 0);
      check_same_training(with_skipped_steps(type, read_every, device), expected, tolerance);
      if (type == at::kFloat)
        check_same_training(with_skipped_steps(type, read_every, device, Execution::kFused), expected, tolerance);
    }
  }
}

TEST_CASE("a training that insists on AdamW's kernel is refused where there is none", "[trainer]") {
  const RegressionProblem problem;
  auto options = rich_options(3);
  options.execution = Execution::kFused;
  for (const std::int64_t read_every : {1, 2}) {
    options.read_every = read_every;
    const auto replicas = regressions(1, at::kFloat);
    const auto before = weights_of(*replicas[0]);
    Trainer trainer(modules(replicas), options);
    check_refused(ErrorCode::kUnsupported, "kFused", [&] { trainer.run(problem.loss(replicas)); });
    CHECK(same_weights(weights_of(*replicas[0]), before));
  }
}

TEST_CASE("too many skipped steps end a training when they are read", "[trainer]") {
  const RegressionProblem problem;
  auto options = rich_options(40);
  // Ten in a row, steps 13 to 22: read after step 22, 23 and 39.
  for (const auto& [read_every, calls] : {std::pair(1, 23), std::pair(8, 24), std::pair(100, 40)}) {
    INFO("read every " << read_every);
    options.read_every = read_every;
    EndingInNothing training(problem, 13);
    Trainer trainer(modules(training.replicas), options);
    check_refused(ErrorCode::kNumeric, "10 steps in a row, last step 22", [&] { trainer.run(training.loss); });
    CHECK(training.calls == calls);
    CHECK(training.replicas[0]->weight.isfinite().all().item<bool>());
  }
  // A validation does not see such a training.
  options.read_every = 100;
  options.validate_every = 25;
  EndingInNothing training(problem, 13);
  Trainer trainer(modules(training.replicas), options);
  int validations = 0;
  CHECK(caught([&] {
          trainer.run(training.loss, {}, [&] {
            ++validations;
            return 0.0;
          });
        }).code() == ErrorCode::kNumeric);
  CHECK(validations == 0);
  CHECK(training.calls == 25);
}

TEST_CASE("a training with unread losses stops and goes on with the same bits", "[trainer]") {
  const RegressionProblem problem;
  const Scratch scratch;
  auto options = rich_options(17);
  options.ema_decay = 0.9;
  options.clip_norm = 0.7;
  options.read_every = 5;
  const auto straight = regressions(1, at::kFloat);
  Trainer uninterrupted(modules(straight), options);
  const TrainingHistory expected = uninterrupted.run(problem.loss(straight));
  CHECK(expected.loss.size() == 17);
  options.checkpoint = scratch.path("checkpoint");
  options.checkpoint_every = 3;
  StopAfter request(7);
  const auto stopped = regressions(1, at::kFloat);
  const TrainingHistory part = Trainer(modules(stopped), options).run(problem.loss(stopped), request.control);
  CHECK_FALSE(part.finished);
  CHECK(part.loss == std::vector<float>(expected.loss.begin(), expected.loss.begin() + 7));
  const auto resumed = regressions(1, at::kFloat);
  CHECK(Trainer(modules(resumed), options).run(problem.loss(resumed)).loss == expected.loss);
  CHECK(same_weights(weights_of(*resumed[0]), weights_of(*straight[0])));

  // Steps that were skipped before the stop count.
  options.checkpoint = scratch.path("skipped");
  options.steps = 30;
  options.max_skipped = 5;
  StopAfter early(5);
  EndingInNothing before(problem, 2), after(problem, 2);
  CHECK(Trainer(modules(before.replicas), options).run(before.loss, early.control).skipped_steps == 3);
  CHECK(mentions(caught([&] { Trainer(modules(after.replicas), options).run(after.loss); }),
                 "5 steps in a row, last step 6"));
}

TEST_CASE("reports say the loss that was read last", "[trainer]") {
  const RegressionProblem problem;
  auto options = rich_options(10);
  const auto reports = [&](std::int64_t read_every, std::shared_ptr<TrainingState> extra) {
    options.read_every = read_every;
    const auto replicas = regressions(1);
    std::vector<std::string> details;
    RunControl control;
    control.progress = [&](const Progress& progress) { details.push_back(progress.detail); };
    Trainer(modules(replicas), options, std::move(extra)).run(problem.loss(replicas), control);
    REQUIRE(details.size() == 10);
    return details;
  };
  const auto each = reports(1, nullptr), some = reports(4, nullptr);
  for (const std::string& detail : each) CHECK(detail.rfind("loss ", 0) == 0);
  // Read after steps 4, 8 and 10, whose losses those are.
  const std::size_t read_at[] = {0, 0, 0, 4, 4, 4, 4, 8, 8, 10};
  for (std::size_t i = 0; i < 10; ++i) {
    INFO("after step " << i + 1);
    CHECK(some[i] == (read_at[i] == 0 ? std::string() : each[read_at[i] - 1]));
  }

  /// Has to be told about every step that counts.
  struct Steps : TrainingState {
    std::int64_t done = 0;
    void step_done() override { ++done; }
    at::Tensor saved() const override { return at::zeros({1}); }
    void restore(const at::Tensor&) override {}
  };
  const auto steps = std::make_shared<Steps>();
  CHECK(reports(4, steps) == each);
  CHECK(steps->done == 10);

  /// Does not mind which steps count.
  struct AnySteps : Steps {
    bool counts_steps() const override { return false; }
  };
  const auto any = std::make_shared<AnySteps>();
  CHECK(reports(4, any) == some);
  CHECK(any->done == 10);
}

TEST_CASE("what unread steps left to be found is asked for before their losses are read", "[trainer]") {
  const RegressionProblem problem;
  auto options = rich_options(10);
  for (const auto& [read_every, readings] : {std::pair(1, 0), std::pair(4, 3), std::pair(100, 1)}) {
    options.read_every = read_every;
    const auto replicas = regressions(1);
    Trainer trainer(modules(replicas), options);
    CHECK(trainer.read_every() == read_every);
    int asked = 0;
    trainer.run(problem.loss(replicas), {}, {}, [&] { ++asked; });
    CHECK(asked == readings);
  }
  options.read_every = 4;
  options.max_skipped = 2;  // what was found comes first
  EndingInNothing training(problem, 0);
  Trainer trainer(modules(training.replicas), options);
  check_refused(ErrorCode::kMismatch, "found",
                [&] { trainer.run(training.loss, {}, {}, [] { throw Error(ErrorCode::kMismatch, "found"); }); });
  CHECK(training.calls == 4);
}
