// The loss with checks that are read later: the same numbers and the same errors.

#include "daug/loss/deferred_checks.h"

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/problems.h"
#include "support/caught.h"
#include "support/device.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Every input of the loss. With `masked` reports and labels are missing and, beside all but kPositives, three items in
/// a row are a study.
HybridLossInputs deferrable_inputs(bool masked = false, LabelPairs pairs = LabelPairs::kNegatives) {
  const Problem p(9, 3, 4, ClassForm::kBce, 11);
  HybridLossInputs inputs;
  inputs.image = p.image, inputs.text = p.text, inputs.class_prompts = p.prompts, inputs.labels = p.labels;
  inputs.positive_weights = at::tensor({3.0, 1.0, 0.25}, at::kDouble);
  inputs.logit_scale = at::tensor({1.75}, at::kDouble);
  inputs.class_bias = at::tensor({-2.0, 0.5, 1.0}, at::kDouble);
  inputs.logit_bias = at::tensor({-1.5}, at::kDouble);
  if (!masked) return inputs;
  inputs.label_mask = p.label_mask, inputs.text_mask = p.text_mask;
  inputs.text.masked_fill_(inputs.text_mask.logical_not().unsqueeze(1), std::nan(""));
  if (pairs != LabelPairs::kPositives) inputs.study = at::arange(9, at::kLong).div(3, "floor");
  return inputs;
}

/// The loss with its gradients by everything that has one.
struct DifferentiatedLoss {
  HybridLossOutput output;
  std::vector<at::Tensor> gradients;

  DifferentiatedLoss(HybridLossInputs inputs, const HybridLossOptions& options, at::ScalarType type,
                     DeferredChecks* checks) {
    const std::vector<at::Tensor*> leaves = {&inputs.image,       &inputs.text,       &inputs.class_prompts,
                                             &inputs.logit_scale, &inputs.class_bias, &inputs.logit_bias};
    for (at::Tensor* leaf : leaves) *leaf = leaf->to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
    output = hybrid_contrastive_loss(inputs, options, checks);
    output.total.backward();
    for (const at::Tensor* leaf : leaves)
      gradients.push_back(leaf->grad().defined() ? leaf->grad() : at::zeros_like(*leaf));
  }
};

void check_same_loss(const DifferentiatedLoss& actual, const DifferentiatedLoss& expected, double tolerance) {
  CHECK(value(actual.output.total) == Approx(value(expected.output.total)).epsilon(tolerance));
  CHECK(value(actual.output.clip) == Approx(value(expected.output.clip)).epsilon(tolerance));
  CHECK(value(actual.output.class_term) == Approx(value(expected.output.class_term)).epsilon(tolerance));
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    INFO("gradient " << i);
    // Rows of extreme norms have gradients of extreme sizes.
    const at::Tensor wanted = expected.gradients[i], largest = wanted.abs().amax(at::IntArrayRef{-1}, /*keepdim=*/true);
    const at::Tensor found = actual.gradients[i].to(wanted.device());
    CHECK(((found - wanted).abs() <= tolerance * largest).all().item<bool>());
  }
}

}  // namespace

TEST_CASE("the loss whose checks are read later has the values and gradients of the one that reads at once",
          "[loss][tiled]") {
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
      for (const bool masked : {false, true})
        for (const bool extreme : {false, true})
          for (const auto execution : {Execution::kReference, Execution::kFused})
            for (const auto type : {at::kDouble, at::kFloat}) {
              HybridLossInputs inputs = deferrable_inputs(masked, pairs);
              if (extreme) {  // their squares are not numbers of the type
                const double far = type == at::kDouble ? 1e170 : 1e25;
                for (const at::Tensor& rows : {inputs.image, inputs.text}) rows[0].mul_(far), rows[1].mul_(1 / far);
              }
              HybridLossOptions options = options_for(0.7);
              options.contrastive_form = form, options.label_pairs = pairs, options.execution = execution;
              INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " masked " << masked
                           << " extreme " << extreme << " execution " << static_cast<int>(execution) << " " << type);
              DeferredChecks checks;
              checks.begin(0);
              const DifferentiatedLoss later(inputs, options, type, &checks);
              CHECK(checks.passed().item<bool>());
              check_same_loss(later, DifferentiatedLoss(inputs, options, type, nullptr),
                              type == at::kDouble ? 1e-9 : 2e-3);
              checks.settle();
            }
}

TEST_CASE("an error of the loss that is read later is the one thrown at once, with its step", "[loss][tiled]") {
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  struct Fault {
    const char* argument;
    std::function<void(HybridLossInputs&, HybridLossOptions&)> make;
  };
  const std::vector<Fault> faults = {
      {"image row 2", [](auto& in, auto&) { in.image[2][1] = std::nan(""); }},
      {"text row 3", [](auto& in, auto&) { in.text[3].zero_(); }},
      {"text row 5", [](auto& in, auto& options) { in.text[5][0] = kInfinity, options.normalise = false; }},
      {"class_prompts row 1", [](auto& in, auto&) { in.class_prompts[1].fill_(kInfinity); }},
      {"logit_scale", [](auto& in, auto&) { in.logit_scale.fill_(100); }},
      {"logit_bias", [](auto& in, auto&) { in.logit_bias.fill_(std::nan("")); }},
      {"class_bias", [](auto& in, auto&) { in.class_bias[1] = -kInfinity; }},
      {"positive_weights", [](auto& in, auto&) { in.positive_weights[0] = 1e307; }},
      {"image and text",
       [](auto& in, auto& options) { in.image.mul_(1e150), in.text.mul_(1e150), options.normalise = false; }},
      {"image and class_prompts",
       [](auto& in, auto& options) { in.image.mul_(1e150), in.class_prompts.mul_(1e150), options.normalise = false; }},
  };
  for (const Fault& fault : faults)
    for (const auto execution : {Execution::kReference, Execution::kFused}) {
      INFO(fault.argument << ", execution " << static_cast<int>(execution));
      HybridLossInputs inputs = deferrable_inputs();
      HybridLossOptions options = options_for(0.7);
      options.execution = execution;
      fault.make(inputs, options);
      const std::string at_once = error_text(ErrorCode::kNumeric, [&] { hybrid_contrastive_loss(inputs, options); });
      contains(at_once, fault.argument);
      DeferredChecks checks;
      checks.begin(7);
      CHECK(std::isnan(value(hybrid_contrastive_loss(inputs, options, &checks).total)));
      CHECK_FALSE(checks.passed().item<bool>());
      inputs.logit_scale.fill_(0), inputs.logit_bias.fill_(0), inputs.class_bias.fill_(0);  // as an optimiser may
      const std::string later = error_text(ErrorCode::kNumeric, [&] { checks.settle(); });
      CHECK(later == at_once + ", in step 7");
      checks.settle();  // it is forgotten
    }
  // What the program holds is looked at when it is given.
  HybridLossInputs inputs = deferrable_inputs();
  inputs.labels[1][2] = 3;
  DeferredChecks checks;
  checks.begin(0);
  check_refused(ErrorCode::kInvalidArgument, "labels[1, 2]",
                [&] { hybrid_contrastive_loss(inputs, options_for(0.7), &checks); });
}

TEST_CASE("the first step that counts and fails is the one that is named", "[loss]") {
  const HybridLossOptions options = options_for(0.7);
  HybridLossInputs no_number = deferrable_inputs(), zero = deferrable_inputs();
  no_number.image[4].fill_(std::nan(""));
  zero.text[5].zero_();
  DeferredChecks checks;
  const auto loss = [&](const HybridLossInputs& inputs) {
    return value(hybrid_contrastive_loss(inputs, options, &checks).total);
  };
  checks.begin(1, at::zeros({}, at::kBool));
  CHECK(std::isnan(loss(no_number)));
  CHECK_FALSE(checks.passed().item<bool>());
  checks.begin(2, at::zeros({}, at::kBool));  // left out for some other reason
  CHECK(std::isnan(loss(deferrable_inputs())));
  checks.begin(3, at::ones({}, at::kBool));
  CHECK(loss(deferrable_inputs()) > 0);
  CHECK(checks.passed().item<bool>());
  checks.settle();
  checks.begin(4, at::ones({}, at::kBool));
  CHECK(loss(deferrable_inputs()) > 0);
  checks.begin(5, at::ones({}, at::kBool));
  CHECK(std::isnan(loss(zero)));
  checks.begin(6);
  CHECK(std::isnan(loss(no_number)));
  const std::string text = error_text(ErrorCode::kNumeric, [&] { checks.settle(); });
  CHECK(mentions(text, "text row 5", "in step 5"));
}

TEST_CASE("on a device the loss takes labels, masks and studies from the CPU", "[gpu]") {
  if (no_device()) return;
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
      for (const auto execution : {Execution::kReference, Execution::kFused})
        for (const bool defers : {false, true})
          for (const auto type : {at::kDouble, at::kFloat}) {  // in tiles of kernels the latter
            const HybridLossInputs inputs = deferrable_inputs(/*masked=*/true, pairs);
            HybridLossInputs there = inputs;
            for (at::Tensor* tensor : {&there.image, &there.text, &there.class_prompts, &there.logit_scale,
                                       &there.class_bias, &there.logit_bias})
              *tensor = tensor->to(at::Device(at::kCUDA, 0));
            HybridLossOptions options = options_for(0.7);
            options.contrastive_form = form, options.label_pairs = pairs, options.execution = execution;
            INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " execution "
                         << static_cast<int>(execution) << " defers " << defers << " " << type);
            DeferredChecks checks;
            checks.begin(0);
            check_same_loss(DifferentiatedLoss(there, options, type, defers ? &checks : nullptr),
                            DifferentiatedLoss(inputs, options, at::kDouble, nullptr),
                            type == at::kDouble ? 1e-8 : 2e-3);
            checks.settle();
          }
}
