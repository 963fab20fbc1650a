// Trainings of encoders that do not look at every step, as on a device.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/train/encoder_trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("encoders whose steps are read later train the same, and leave the same steps out", "[encoder_trainer]") {
  const ToyCohort toy;
  EncoderDataset dataset = toy.dataset;
  dataset.images = toy.dataset.images.clone();
  dataset.images[5].fill_(std::numeric_limits<float>::quiet_NaN());
  auto options = small(ChannelMode::kAppend, 4);
  options.loss.min_logit_scale = 2.296875;
  options.loss.max_logit_scale = 2.3125;
  options.learn_logit_scale = options.learn_class_bias = true;
  options.optimizer.ema_decay = 0.5;
  options.optimizer.clip_norm = 1;
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto execution : {Execution::kReference, Execution::kFused}) {
      INFO("form " << static_cast<int>(form) << ", execution " << static_cast<int>(execution));
      options.loss.contrastive_form = form;
      options.loss.execution = execution;
      options.learn_logit_bias = form == ContrastiveForm::kSigmoid;
      const auto train = [&](std::int64_t read_every, TrainingHistory& history) {
        options.optimizer.read_every = read_every;
        const EncoderPair pair = make_encoders(options, 2, 2);
        int told = 0;
        const RunControl control{[&](const Progress& progress) {
                                   told += progress.detail.empty() ? 0 : 1;
                                   const double scale = pair.logit_scale.item<double>();
                                   CHECK(scale >= 2.296875);
                                   CHECK(scale <= 2.3125);
                                 },
                                 {}};
        train_encoders(pair, dataset, options, control, &history);
        CHECK(told == (read_every == 1 ? 12 : 8));  // of 12 steps the first four say nothing where five go unread
        return weights_of(pair);
      };
      TrainingHistory each, some;
      const auto expected = train(1, each), actual = train(5, some);
      CHECK(each.skipped_steps == 4);
      CHECK(some.skipped_steps == 4);
      REQUIRE(each.loss.size() == 12);
      REQUIRE(some.loss.size() == 12);
      for (std::size_t i = 0; i < each.loss.size(); ++i) {
        CHECK(std::isnan(some.loss[i]) == std::isnan(each.loss[i]));
        if (!std::isnan(each.loss[i])) CHECK(some.loss[i] == Approx(each.loss[i]).epsilon(1e-3));
      }
      for (const auto& [name, weights] : expected) {
        INFO(name);
        CHECK(actual.at(name).isfinite().all().item<bool>());
        // Attention does not depend on the keys' bias: its gradient is rounding alone, which Adam scales up.
        if (name.find("k_proj.bias") == std::string::npos) CHECK(largest_difference(actual.at(name), weights) < 2e-3);
      }
    }
}

TEST_CASE("encoders that the loss refuses are refused when that is read, and are what they were", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 2);  // six steps
  options.optimizer.max_skipped = 2;              // the refusal comes first
  // Every embedding of an image is zero.
  const EncoderPair pair = make_encoders(options, 2, 2);
  {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& parameter : pair.image->parameters()) parameter.zero_();
  }
  const auto before = weights_of(pair);
  for (const auto& [read_every, reports] : {std::pair(1, 0), std::pair(4, 3), std::pair(100, 5)}) {
    INFO("read every " << read_every);
    options.optimizer.read_every = read_every;
    int told = 0;
    const RunControl control{[&](const Progress&) { ++told; }, {}};
    const std::string text =
        error_text(ErrorCode::kNumeric, [&] { train_encoders(pair, toy.dataset, options, control); });
    CHECK(mentions(text, "image row 0: expected a finite vector with a norm above 0"));
    CHECK(mentions(text, "in step 0") == (read_every > 1));
    CHECK(told == reports);
    for (const auto& [name, weights] : weights_of(pair)) {
      INFO(name);
      CHECK(same_bits(weights, before.at(name)));
    }
  }
  // Labels are looked at when they are met.
  EncoderDataset dataset = toy.dataset;
  dataset.labels = toy.dataset.labels.clone();
  dataset.labels.fill_(2);
  check_refused(ErrorCode::kInvalidArgument, "labels[0, 0]", [&] { train_encoders(dataset, options); });
}
