// What encoders learn beside their towers, and what their data and options bring into the loss.

#include <ATen/ATen.h>

#include <cmath>
#include <string>

#include "daug/train/encoder_trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "train/stop_after.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("temperature and biases are learnt, held in range after every step, and kept with the encoders",
          "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 10);
  options.loss.contrastive_form = ContrastiveForm::kSigmoid;
  options.loss.logit_bias = -3;
  options.loss.logit_scale = 2.296875;
  options.loss.min_logit_scale = 2.28125;
  options.loss.max_logit_scale = 2.3125;
  options.learn_logit_scale = options.learn_class_bias = options.learn_logit_bias = true;
  options.optimizer.ema_decay = 0.5;
  const EncoderPair pair = make_encoders(options, 2, 2);
  int at_limit = 0;
  const RunControl control{[&](const Progress&) {
                             const double scale = pair.logit_scale.item<double>();
                             CHECK(scale >= 2.28125);
                             CHECK(scale <= 2.3125);
                             at_limit += scale == 2.28125 || scale == 2.3125 ? 1 : 0;
                           },
                           {}};
  train_encoders(pair, toy.dataset, options, control);
  CHECK(at_limit > 0);
  const auto learnt = weights_of(pair);
  const double averaged = learnt.at("logit_scale").item<double>();
  CHECK(averaged >= 2.28125);
  CHECK(averaged <= 2.3125);
  CHECK(averaged != 2.296875);
  CHECK(learnt.at("logit_bias").item<double>() != -3);
  REQUIRE(learnt.at("class_bias").sizes() == at::IntArrayRef({2}));
  CHECK(learnt.at("class_bias").ne(0).all().item<bool>());

  // Probabilities use what was learnt.
  const at::Tensor images =
      embed_images(pair, HeatmapChannelAugmenter(options.augment), toy.dataset.images, toy.dataset.maps);
  const at::Tensor prompts = embed_texts(pair, toy.dataset.prompts);
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, 1, true); };
  const at::Tensor logits =
      learnt.at("logit_scale").exp() * unit(images).matmul(unit(prompts).t()) + learnt.at("class_bias");
  CHECK(largest_difference(class_probabilities(pair, images, prompts, options.loss), logits.sigmoid()) < 1e-5);

  // Stopped and resumed, it ends the same.
  const Scratch scratch;
  const std::string path = scratch.path("checkpoint");
  auto resumed = options;
  resumed.optimizer.checkpoint = path;
  train_encoders(toy.dataset, resumed, StopAfter(11).control);
  CHECK(same_weights(train_encoders(toy.dataset, resumed), pair));

  auto frozen = options;
  frozen.optimizer.freeze = {"logit_scale"};
  CHECK(train_encoders(toy.dataset, frozen).logit_scale.item<double>() == 2.296875);
  const auto refused = [&](const char* name, auto change) {
    auto bad = options;
    change(bad);
    CHECK(mentions(caught([&] { train_encoders(toy.dataset, bad); }), name));
  };
  refused("learn_logit_bias", [](auto& o) { o.loss.contrastive_form = ContrastiveForm::kSoftmax; });
  refused("learn_class_bias", [](auto& o) { o.loss.class_form = ClassForm::kPaired; });
  refused("logit_scale", [](auto& o) { o.loss.logit_scale = 3; });
  CHECK(mentions(caught([&] { make_encoders(options, 2); }), "findings"));
}

TEST_CASE("weights of positives, studies and kinds of pairs reach the loss", "[encoder_trainer]") {
  const ToyCohort toy;
  auto plain = small(ChannelMode::kAppend, 1);
  plain.batch_size = 24;  // one step over the whole cohort, whose order the loss does not see
  const auto first_loss = [&](const EncoderDataset& dataset, const EncoderTrainerOptions& options) {
    TrainingHistory history;
    train_encoders(dataset, options, {}, &history);
    REQUIRE(history.loss.size() == 1);
    const EncoderPair pair = make_encoders(options, 2);
    HybridLossInputs in;
    in.image = embed_images(pair, HeatmapChannelAugmenter(options.augment), dataset.images, dataset.maps);
    in.text = embed_texts(pair, dataset.text);
    in.class_prompts = embed_texts(pair, dataset.prompts);
    in.labels = dataset.labels;
    in.study = dataset.study;
    in.positive_weights = dataset.positive_weights;
    CHECK(history.loss[0] == Approx(hybrid_contrastive_loss(in, options.loss).total.item<double>()).epsilon(1e-4));
    return static_cast<double>(history.loss[0]);
  };
  const double published = first_loss(toy.dataset, plain);
  const auto changes_it = [&](const char* what, auto change) {
    INFO(what);
    EncoderDataset dataset = toy.dataset;
    auto options = plain;
    change(dataset, options);
    CHECK(std::abs(first_loss(dataset, options) - published) > 1e-3);
  };
  changes_it("weights", [](auto& d, auto&) { d.positive_weights = at::tensor({3.0, 0.5}, at::kFloat); });
  changes_it("studies", [](auto& d, auto&) { d.study = at::arange(24, at::kLong).remainder(3); });
  changes_it("masked", [](auto&, auto& o) { o.loss.label_pairs = LabelPairs::kIgnored; });
  changes_it("soft", [](auto&, auto& o) { o.loss.label_pairs = LabelPairs::kSoft; });
  changes_it("sigmoid", [](auto&, auto& o) { o.loss.contrastive_form = ContrastiveForm::kSigmoid; });
}
