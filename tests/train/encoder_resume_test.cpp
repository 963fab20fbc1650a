// Batches of encoders, and trainings that are stopped and gone on with.

#include <ATen/ATen.h>

#include <cstdint>
#include <limits>
#include <string>

#include "daug/train/encoder_trainer.h"
#include "support/catch.h"
#include "support/scratch.h"
#include "train/stop_after.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("encoder training repeats, and resumes bit for bit", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 4);
  options.augment.max_rotation = 10;
  const EncoderPair straight = train_encoders(toy.dataset, options);
  CHECK(same_weights(train_encoders(toy.dataset, options), straight));

  const Scratch scratch;
  const std::string path = scratch.path("checkpoint");
  options.optimizer.checkpoint = path;
  TrainingHistory history;
  train_encoders(toy.dataset, options, StopAfter(5).control, &history);
  CHECK_FALSE(history.finished);
  CHECK(history.loss.size() == 5);
  CHECK(same_weights(train_encoders(toy.dataset, options), straight));
}

TEST_CASE("batches of encoders across epochs have no item twice, wherever a training is stopped", "[encoder_trainer]") {
  const ToyCohort toy(10);
  auto options = small(ChannelMode::kAppend, 7);
  options.batch_size = 7;
  options.optimizer.max_skipped = 11;
  // The steps with an item that is not finite are left out: as many as there are epochs.
  for (std::int64_t item = 0; item < 10; ++item) {
    INFO("item " << item);
    EncoderDataset dataset = toy.dataset;
    dataset.images = toy.dataset.images.clone();
    dataset.images[item].fill_(std::numeric_limits<float>::quiet_NaN());
    TrainingHistory history;
    train_encoders(dataset, options, {}, &history);
    REQUIRE(history.loss.size() == 10);
    CHECK(history.skipped_steps == 7);
  }
  const EncoderPair straight = train_encoders(toy.dataset, options);
  const Scratch scratch;
  for (std::int64_t steps = 1; steps < 10; ++steps) {
    INFO("stopped after " << steps << " steps");
    options.optimizer.checkpoint = scratch.path("after_" + std::to_string(steps));
    TrainingHistory history;
    train_encoders(toy.dataset, options, StopAfter(steps).control, &history);
    CHECK_FALSE(history.finished);
    CHECK(same_weights(train_encoders(toy.dataset, options), straight));
  }
}

TEST_CASE("a batch of more items than there are is all of them", "[encoder_trainer]") {
  const ToyCohort toy(10);
  auto options = small(ChannelMode::kAppend, 3);
  options.batch_size = 10;
  const EncoderPair all = train_encoders(toy.dataset, options);
  options.batch_size = 64;
  TrainingHistory history;
  CHECK(same_weights(train_encoders(toy.dataset, options, {}, &history), all));
  CHECK(history.loss.size() == 3);
}
