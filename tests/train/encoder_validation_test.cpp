// Which weights of a training of encoders come back.

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>

#include "daug/train/encoder_trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "train/stop_after.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("the last weights are to be had beside the best", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 6);
  options.optimizer.ema_decay = 0.5;
  EncoderDataset held_out = toy.dataset;
  held_out.labels = 1 - held_out.labels;  // the longer it learns, the worse
  std::map<std::string, at::Tensor> last;
  const auto keep = [&](const EncoderPair& encoders) {
    CHECK_FALSE(encoders.image->is_training());
    last = weights_of(encoders);
  };
  TrainingHistory history;
  const EncoderPair best = train_encoders(toy.dataset, options, {}, &history, &held_out, keep);
  REQUIRE(history.best_step < 18);
  const auto without = weights_of(train_encoders(toy.dataset, options));
  REQUIRE(last.size() == without.size());
  for (const auto& [name, value] : without) CHECK(same_bits(last.at(name), value));
  const EncoderPair plain = train_encoders(toy.dataset, options, {}, nullptr, nullptr, keep);
  CHECK_FALSE(same_weights(best, plain));
  for (const auto& [name, value] : weights_of(plain)) CHECK(same_bits(last.at(name), value));
  // A training that was stopped has no last weights yet.
  last.clear();
  StopSource source;
  source.request_stop();
  train_encoders(toy.dataset, options, {{}, source.token()}, nullptr, nullptr, keep);
  CHECK(last.empty());
}

TEST_CASE("the encoders of the best validation are returned", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 8);
  options.optimizer.ema_decay = 0.5;
  EncoderDataset held_out = toy.dataset;
  held_out.text = TextBatch();
  held_out.text_mask = at::Tensor();
  // Labels that the training set contradicts: the longer it learns, the worse.
  held_out.labels = 1 - held_out.labels;
  TrainingHistory history;
  const EncoderPair best = train_encoders(toy.dataset, options, {}, &history, &held_out);
  REQUIRE(history.validation.size() == 8);  // once an epoch of three steps
  const auto highest = std::max_element(history.validation.begin(), history.validation.end());
  CHECK(history.best_step == 3 * (highest - history.validation.begin() + 1));
  CHECK(history.validation.back() < 0.4);

  // Training up to there without validation gives the same weights, and so the figure.
  CHECK(same_weights(train_encoders(toy.dataset, options, StopAfter(history.best_step).control), best));
  const HeatmapChannelAugmenter augmenter(options.augment);
  const at::Tensor scores = class_probabilities(embed_images(best, augmenter, held_out.images, held_out.maps),
                                                embed_texts(best, held_out.prompts), options.loss);
  CHECK(*highest == Approx(macro_auroc(scores, held_out.labels)).epsilon(1e-12));

  options.optimizer.validate_every = 1;
  options.optimizer.patience = 2;
  train_encoders(toy.dataset, options, {}, &history, &held_out);
  CHECK(history.stopped_early);
  CHECK(history.loss.size() == static_cast<std::size_t>(history.best_step) + 2);
  held_out.label_mask = at::zeros_like(held_out.label_mask);
  CHECK(mentions(caught([&] { train_encoders(toy.dataset, options, {}, nullptr, &held_out); }), "validation"));
}
