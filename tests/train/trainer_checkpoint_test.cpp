// Trainings that end and go on.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/train/trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "train/stop_after.h"
#include "train/toy_training.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a stopped and resumed training ends bit-identical", "[trainer]") {
  const RegressionProblem problem;
  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
  for (const std::size_t workers : {1U, 2U})
    for (const std::int64_t every : {0, 3}) {
      INFO(workers << " workers, a checkpoint every " << every << " steps");
      auto options = rich_options(17);
      options.ema_decay = 0.9;
      const auto straight = regressions(workers, at::kFloat);
      Trainer uninterrupted(modules(straight), options);
      const TrainingHistory expected = uninterrupted.run(problem.loss(straight));
      CHECK_FALSE(std::filesystem::exists(file));

      options.checkpoint = file;
      options.checkpoint_every = every;
      options.fingerprint = "toy";
      for (const std::int64_t stop : {7, 8}) {
        StopAfter request(stop);
        const auto replicas = regressions(workers, at::kFloat);
        Trainer trainer(modules(replicas), options);
        const TrainingHistory history = trainer.run(problem.loss(replicas), request.control);
        CHECK_FALSE(history.finished);
        CHECK(history.loss.size() == static_cast<std::size_t>(stop));
        CHECK(std::filesystem::exists(file));
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
      CHECK(std::filesystem::exists(file));
      std::filesystem::remove(file);
    }
}

TEST_CASE("a run that was killed goes on from its last checkpoint", "[trainer]") {
  const RegressionProblem problem;
  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
  auto options = rich_options(10);
  const auto straight = regressions(1);
  Trainer(modules(straight), options).run(problem.loss(straight));
  options.checkpoint = file;
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

TEST_CASE("a checkpoint that cannot be written ends the training, by the next one or the end", "[trainer]") {
  const RegressionProblem problem;
  const Scratch scratch;
  auto options = rich_options(17);
  options.checkpoint = scratch.path("no folder/checkpoint");
  options.fingerprint = "toy";
  for (const std::int64_t every : {3, 17}) {  // 17: after the last step
    options.checkpoint_every = every;
    const auto replicas = regressions(1, at::kFloat);
    Trainer trainer(modules(replicas), options);
    std::int64_t last = 0;
    const auto loss = problem.loss(replicas);
    const Error error = caught([&] {
      trainer.run([&](std::size_t worker, std::int64_t step) {
        last = step;
        return loss(worker, step);
      });
    });
    CHECK(error.code() == ErrorCode::kIo);
    CHECK(mentions(error.what(), options.checkpoint));
    CHECK(last == (every == 3 ? 5 : 16));
  }
  StopAfter request(2);
  const auto stopped = regressions(1, at::kFloat);
  Trainer trainer(modules(stopped), options);
  check_refused(ErrorCode::kIo, options.checkpoint.c_str(),
                [&] { trainer.run(problem.loss(stopped), request.control); });

  options.checkpoint_every = 3;  // what ends the training before is the news
  const auto replicas = regressions(1, at::kFloat);
  Trainer other(modules(replicas), options);
  const auto loss = problem.loss(replicas);
  check_refused(ErrorCode::kNotFound, "item 4", [&] {
    other.run([&](std::size_t worker, std::int64_t step) {
      if (step == 4) throw Error(ErrorCode::kNotFound, "item 4");
      return loss(worker, step);
    });
  });
}

TEST_CASE("a checkpoint of something else is refused and changes nothing", "[trainer]") {
  const RegressionProblem problem;
  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
  auto options = rich_options(6);
  options.checkpoint = file;
  options.fingerprint = "first";
  StopAfter request(3);
  const auto first = regressions(1);
  Trainer(modules(first), options).run(problem.loss(first), request.control);

  const auto refused = [&](const TrainerOptions& wanted, std::shared_ptr<torch::nn::Module> module) {
    const auto before = weights_of(*module);
    Trainer trainer({module}, wanted);
    const Error error = caught([&] { trainer.run([](std::size_t, std::int64_t) { return at::zeros({}); }); });
    CHECK(mentions(error, file, "without " + file + " the training begins anew"));
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

  SafetensorsFile broken = read_safetensors(file);
  broken.metadata["step"] = "many";
  write_safetensors(file, broken);
  CHECK(refused(options, std::make_shared<Regression>()).code() == ErrorCode::kFormat);
  broken.metadata.erase("format");
  write_safetensors(file, broken);
  CHECK(refused(options, std::make_shared<Regression>()).code() == ErrorCode::kMismatch);
  write_file_atomically(file, "half a checkpoint");
  CHECK(refused(options, std::make_shared<Regression>()).code() == ErrorCode::kFormat);
}
