// Pairs that attract by the similarity of their labels: closed forms, and tiles beside whole matrices.

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/problems.h"

using namespace daug;
using namespace daug::test;

namespace {

const Execution kBoth[] = {Execution::kReference, Execution::kFused};

HybridLossOptions soft_options(ContrastiveForm form, double softness, Execution execution) {
  HybridLossOptions options = options_for(1);
  options.contrastive_form = form, options.execution = execution;
  options.label_pairs = LabelPairs::kSoft, options.label_softness = softness;
  options.uncertain = UncertainLabels::kSmoothed;
  return options;
}

/// Labels that are present, absent, uncertain or unknown; every seventh item knows none, and with `studies` three items
/// in a row are one study.
HybridLossInputs cohort(std::int64_t b, std::int64_t d, bool studies) {
  HybridLossInputs inputs;
  inputs.image = random_tensor({b, d}, 1);
  inputs.text = 0.5 * inputs.image + random_tensor({b, d}, 2);
  const at::Tensor draw = random_tensor({b, 5}, 3);
  inputs.labels = (draw > 0.5).to(at::kLong).masked_fill_(draw < -1.3, -1);
  inputs.label_mask = random_tensor({b, 5}, 4) > -0.7;
  inputs.label_mask.masked_fill_((at::arange(b, at::kLong).remainder(7) == 2).unsqueeze(1), false);
  if (studies) inputs.study = at::arange(b, at::kLong).div(3, "floor");
  return inputs;
}

struct SoftLoss {
  double loss = 0;
  std::vector<at::Tensor> gradients;
};

/// The loss and its gradients by images, reports, ln tau and the sigmoid's bias.
SoftLoss soft_loss(HybridLossInputs inputs, const HybridLossOptions& options, double tau, at::ScalarType type) {
  inputs.image = inputs.image.to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  inputs.text = inputs.text.to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  inputs.logit_scale = at::tensor({std::log(tau)}, type).requires_grad_(true);
  inputs.logit_bias = at::tensor({-2.0}, type).requires_grad_(true);
  const auto output = hybrid_contrastive_loss(inputs, options);
  output.total.backward();
  SoftLoss result{value(output.total), {inputs.image.grad(), inputs.text.grad(), inputs.logit_scale.grad()}};
  if (options.contrastive_form == ContrastiveForm::kSigmoid) result.gradients.push_back(inputs.logit_bias.grad());
  return result;
}

/// Errors relative to the largest number of each kind, or to what rounding a score of tau changes it by.
void check_close(const SoftLoss& actual, const SoftLoss& expected, double tau, double tolerance) {
  CHECK(std::abs(actual.loss - expected.loss) <= tolerance * (1 + std::abs(expected.loss)));
  REQUIRE(actual.gradients.size() == expected.gradients.size());
  const double of_rows = tau / static_cast<double>(expected.gradients[0].size(0));
  const double floors[] = {of_rows, of_rows, tau, 1};
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    INFO("gradient " << i);
    const at::Tensor difference = actual.gradients[i].to(at::kDouble) - expected.gradients[i];
    CHECK(value(difference.abs().max()) <= tolerance * (floors[i] + value(expected.gradients[i].abs().max())));
  }
}

/// Tiles beside whole matrices in float64.
void compare_forms(const HybridLossInputs& inputs, ContrastiveForm form, double softness, double tau) {
  INFO("B " << inputs.image.size(0) << " form " << static_cast<int>(form) << " softness " << softness << " tau " << tau
            << " studies " << inputs.study.defined());
  const SoftLoss whole = soft_loss(inputs, soft_options(form, softness, Execution::kReference), tau, at::kDouble);
  const HybridLossOptions tiles = soft_options(form, softness, Execution::kFused);
  check_close(soft_loss(inputs, tiles, tau, at::kDouble), whole, tau, 1e-10);
  // A cosine of float32 is off by 1e-7: a score by tau times, a target by 1 / softness times as much.
  check_close(soft_loss(inputs, tiles, tau, at::kFloat), whole, tau, 2e-6 * (10 + tau + 1 / softness));
}

}  // namespace

TEST_CASE("two soft pairs give the closed form, halfway labels and unknown ones included", "[loss][tiled]") {
  // Orthogonal pairs: S is tau on the diagonal and 0 off it.
  const double tau = 3, bias = -2, softness = 0.5;
  struct Case {
    at::Tensor labels, known;
    double cosine;
  };
  const std::vector<Case> cases = {
      {at::tensor({1.0, 0.5}, at::kDouble), at::tensor({1, 1}), std::sqrt(0.5)},  // (1, 0, 0) and (1, 1, 0) / 2
      {at::tensor({1.0, 0.0}, at::kDouble), at::tensor({1, 1}), 0},
      {at::tensor({1.0, 0.0}, at::kDouble), at::tensor({1, 0}), 0},   // known and unknown
      {at::tensor({1.0, 0.0}, at::kDouble), at::tensor({0, 0}), 1}};  // both unknown
  for (const auto& [labels, known, cosine] : cases)
    for (const auto execution : kBoth)
      for (const auto type : {at::kDouble, at::kFloat}) {
        INFO("cosine " << cosine << " execution " << static_cast<int>(execution) << " " << type);
        const double a = std::exp((cosine - 1) / softness);
        HybridLossInputs inputs;
        inputs.image = inputs.text = at::eye(2, at::kDouble);
        inputs.labels = labels.reshape({2, 1}), inputs.label_mask = known.reshape({2, 1});
        const auto softplus = [](double x) { return std::log1p(std::exp(x)); };
        const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
        const double tolerance = type == at::kDouble ? 1e-12 : 1e-5;
        const SoftLoss softmax =
            soft_loss(inputs, soft_options(ContrastiveForm::kSoftmax, softness, execution), tau, type);
        CHECK(softmax.loss == Approx(softplus(-tau) + tau - tau / (1 + a)).epsilon(tolerance));
        CHECK(value(softmax.gradients[2]) == Approx(tau * (sigmoid(tau) - 1 / (1 + a))).epsilon(tolerance));
        const SoftLoss pairwise =
            soft_loss(inputs, soft_options(ContrastiveForm::kSigmoid, softness, execution), tau, type);
        CHECK(pairwise.loss ==
              Approx(softplus(-tau - bias) + a * softplus(-bias) + (1 - a) * softplus(bias)).epsilon(tolerance));
        CHECK(value(pairwise.gradients[2]) == Approx(-tau * sigmoid(-tau - bias)).epsilon(tolerance));
        CHECK(value(pairwise.gradients[3]) == Approx(-sigmoid(-tau - bias) + sigmoid(bias) - a).epsilon(tolerance));
      }
}

TEST_CASE("tiles of soft pairs give the reference's values and gradients at temperatures from 1 to 100",
          "[loss][tiled]") {
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid}) {
    for (const std::int64_t b : {1, 2, 7, 65})
      for (const bool studies : {false, true})
        for (const double softness : {0.05, 0.4, 1000.0})
          for (const double tau : {1.0, 10.0, 100.0}) compare_forms(cohort(b, 5, studies), form, softness, tau);
    // Several rows and columns of tiles, with and without reports that are missing.
    HybridLossInputs large = cohort(2059, 3, true);
    compare_forms(large, form, 0.2, 14);
    large.text_mask = random_tensor({2059}, 5) > -2.2;
    large.text.masked_fill_(large.text_mask.logical_not().unsqueeze(1), std::nan(""));
    compare_forms(large, form, 0.2, 14);
  }
}

TEST_CASE("tiles of soft pairs do not depend on the order of items", "[loss][tiled]") {
  const std::int64_t items = 601;
  const HybridLossInputs inputs = cohort(items, 4, true);
  const at::Tensor order = at::arange(items, at::kLong).mul(250).remainder(items);
  HybridLossInputs moved = inputs;
  for (auto member : {&HybridLossInputs::image, &HybridLossInputs::text, &HybridLossInputs::labels,
                      &HybridLossInputs::label_mask, &HybridLossInputs::study})
    moved.*member = (moved.*member).index_select(0, order);
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid}) {
    const HybridLossOptions options = soft_options(form, 0.1, Execution::kFused);
    SoftLoss expected = soft_loss(inputs, options, 14, at::kDouble);
    for (std::size_t i : {0U, 1U}) expected.gradients[i] = expected.gradients[i].index_select(0, order);
    check_close(soft_loss(moved, options, 14, at::kDouble), expected, 14, 1e-11);
  }
}

TEST_CASE("many soft pairs go through tiles by themselves and repeat bit for bit", "[loss][tiled]") {
  const HybridLossInputs inputs = cohort(1100, 16, false);
  const auto run = [&](Execution execution) {
    return soft_loss(inputs, soft_options(ContrastiveForm::kSoftmax, 0.1, execution), 14, at::kFloat);
  };
  const SoftLoss tiles = run(Execution::kFused), chosen = run(Execution::kAuto);
  CHECK(tiles.loss == chosen.loss);
  for (std::size_t i = 0; i < tiles.gradients.size(); ++i) CHECK(at::equal(tiles.gradients[i], chosen.gradients[i]));
  // Whole matrices are rounded otherwise.
  CHECK_FALSE(at::equal(tiles.gradients[0], run(Execution::kReference).gradients[0]));
}
