// Trainings that are validated on their way.

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "daug/train/trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "train/stop_after.h"
#include "train/toy_training.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("the best validation decides the weights, and patience ends a training", "[trainer]") {
  const RegressionProblem problem;
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
  CHECK(mentions(caught([&] {
                   const auto replicas = regressions(1);
                   Trainer(modules(replicas), options).run(problem.loss(replicas), {}, [] { return 0.0; });
                 }),
                 "validation"));
  options.validate_every = 2;
  CHECK(mentions(caught([&] {
                   const auto replicas = regressions(1);
                   Trainer(modules(replicas), options).run(problem.loss(replicas));
                 }),
                 "validation"));
}

TEST_CASE("a resumed training keeps validations, best weights and patience", "[trainer]") {
  const RegressionProblem problem;
  const Scratch scratch;
  const std::string file = scratch.path("checkpoint");
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
      options.checkpoint = file;
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
      std::filesystem::remove(file);
    }
}
