// What the options of the hybrid loss and their inputs are refused for, by name.

#include <ATen/ATen.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/problems.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a finite bias or weight that the embeddings' type cannot add up is refused by name", "[loss]") {
  for (const auto execution : kForms)
    for (const auto type : {at::kFloat, at::kDouble}) {
      HybridLossOptions options = options_for(0.5);
      options.execution = execution;
      HybridLossInputs good = some_inputs(4, 2, 3, 48);
      for (at::Tensor* rows : {&good.image, &good.text, &good.class_prompts}) *rows = rows->to(type);
      const auto refused = [&](const HybridLossInputs& inputs, const std::string& argument, const std::string& number) {
        const std::string text =
            error_text(ErrorCode::kNumeric, [&] { (void)hybrid_contrastive_loss(inputs, options); });
        contains(text, ": " + argument + ": expected");
        contains(text, type == at::kFloat ? "e+28" : "e+298");  // the bound
        contains(text, "got " + number);
      };
      // float32 holds 1e38, but not the sum of ten; 1e300 it does not hold at all.
      for (const auto& [number, written] : std::vector<std::pair<double, std::string>>{
               {type == at::kFloat ? 1e38 : 1e307, type == at::kFloat ? "1e+38" : "1e+307"},
               {type == at::kFloat ? 1e300 : 1.5e308, type == at::kFloat ? "1e+300" : "1.5e+308"}}) {
        HybridLossInputs inputs = good;
        inputs.logit_bias = at::scalar_tensor(number, at::kDouble);
        refused(inputs, "logit_bias", written);
        inputs = good, inputs.class_bias = at::full({2}, number, at::kDouble);
        refused(inputs, "class_bias", written);
        const HybridLossOptions fine = options;
        options.logit_bias = number;
        refused(good, "logit_bias", written);
        options = fine, options.class_bias = number;
        refused(good, "class_bias", written);
        options = fine;
        inputs = good, inputs.positive_weights = at::full({2}, number, at::kDouble);
        contains(error_text(ErrorCode::kNumeric, [&] { (void)hybrid_contrastive_loss(inputs, options); }),
                 "positive_weights: expected weights of ");
      }
    }
}

TEST_CASE("bad input to the options is named", "[loss]") {
  const HybridLossInputs good = some_inputs(4, 2, 3, 85);
  const HybridLossOptions fine = options_for(0.5);
  const auto expect = [&](ErrorCode code, const std::string& part, const HybridLossInputs& inputs,
                          const HybridLossOptions& options) {
    contains(error_text(code, [&] { (void)hybrid_contrastive_loss(inputs, options); }), part);
  };
  const auto with = [&](at::Tensor HybridLossInputs::*member, const at::Tensor& replacement) {
    HybridLossInputs inputs = good;
    inputs.*member = replacement;
    return inputs;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect(ErrorCode::kMismatch, "study", with(&HybridLossInputs::study, at::zeros({3}, at::kLong)), fine);
  expect(ErrorCode::kMismatch, "study", with(&HybridLossInputs::study, at::zeros({4})), fine);
  expect(ErrorCode::kMismatch, "positive_weights", with(&HybridLossInputs::positive_weights, at::ones({3})), fine);
  expect(ErrorCode::kInvalidArgument, "positive_weights", with(&HybridLossInputs::positive_weights, -at::ones({2})),
         fine);
  expect(ErrorCode::kMismatch, "class_bias", with(&HybridLossInputs::class_bias, at::ones({3})), fine);
  expect(ErrorCode::kNumeric, "class_bias", with(&HybridLossInputs::class_bias, at::full({2}, nan)), fine);
  expect(ErrorCode::kMismatch, "logit_bias", with(&HybridLossInputs::logit_bias, at::ones({2})), fine);
  expect(ErrorCode::kNumeric, "logit_bias", with(&HybridLossInputs::logit_bias, at::full({1}, nan)), fine);
  expect(ErrorCode::kNumeric, "logit_scale", with(&HybridLossInputs::logit_scale, at::full({1}, nan)), fine);
  for (const double scale : {50.0, -1000.0, -std::numeric_limits<double>::infinity()})
    expect(ErrorCode::kNumeric, "logit_scale", with(&HybridLossInputs::logit_scale, at::full({1}, scale)), fine);
  HybridLossOptions options = fine;
  options.label_pairs = LabelPairs::kPositives;
  expect(ErrorCode::kInvalidArgument, "study", with_studies(good), options);
  expect(ErrorCode::kInvalidArgument, "labels", with(&HybridLossInputs::labels, {}), options);
  for (const auto pairs : {LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft}) {
    options = options_for(1), options.label_pairs = pairs;
    expect(ErrorCode::kMismatch, "labels", with(&HybridLossInputs::labels, at::zeros({4, 0})), options);
  }
  options = fine, options.class_form = ClassForm::kPaired;
  expect(ErrorCode::kInvalidArgument, "class_bias", with(&HybridLossInputs::class_bias, at::ones({1})), options);
  options = fine, options.normalise = false;
  expect(ErrorCode::kNumeric, "image and text", with(&HybridLossInputs::image, good.image * 1e300), options);
  for (const auto execution : kForms) {
    options = fine, options.execution = execution;
    at::Tensor zero = good.image.clone(), infinite = good.text.clone();
    zero[2].fill_(0);
    infinite[3][1] = std::numeric_limits<double>::infinity();
    expect(ErrorCode::kNumeric, "image row 2", with(&HybridLossInputs::image, zero), options);
    expect(ErrorCode::kNumeric, "text row 3", with(&HybridLossInputs::text, infinite), options);
    at::Tensor prompts = good.class_prompts.clone();
    for (const double bad : {0.0, nan}) {
      prompts[1].fill_(bad);
      expect(ErrorCode::kNumeric, "class_prompts row 1", with(&HybridLossInputs::class_prompts, prompts), options);
    }
    options.normalise = false;
    expect(ErrorCode::kNumeric, "text row 3", with(&HybridLossInputs::text, infinite), options);
  }
  const auto refused = [&](auto set) {
    HybridLossOptions bad;
    set(bad);
    CHECK_THROWS_AS(bad.validate(), Error);
  };
  refused([&](HybridLossOptions& o) { o.min_logit_scale = 2, o.max_logit_scale = 1; });
  refused([&](HybridLossOptions& o) { o.max_logit_scale = nan; });
  // float32 holds no exp(100), nor 1e300.
  for (const double far : {46.5, 100.0, 1e300}) {
    refused([&](HybridLossOptions& o) { o.min_logit_scale = far; });
    refused([&](HybridLossOptions& o) { o.min_logit_scale = -far; });
    refused([&](HybridLossOptions& o) { o.max_logit_scale = far; });
    refused([&](HybridLossOptions& o) { o.max_logit_scale = -far; });
  }
  refused([&](HybridLossOptions& o) { o.label_softness = 0; });
  refused([&](HybridLossOptions& o) { o.uncertain_target = 1.1; });
  refused([&](HybridLossOptions& o) { o.logit_bias = nan; });
  refused([&](HybridLossOptions& o) { o.class_form = ClassForm::kPaired, o.class_bias = 1; });
}
