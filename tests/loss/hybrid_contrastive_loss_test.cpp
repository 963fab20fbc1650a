#include "daug/loss/hybrid_contrastive_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "loss/problems.h"
#include "support/caught.h"
#include "support/golden_device.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("two orthogonal pairs give the closed form", "[loss]") {
  // Cosines are 1 on the diagonal and 0 off it, so every cross-entropy is log(1 + exp(-tau)).
  const at::Tensor eye = at::eye(2, at::kDouble);
  HybridLossOptions options = options_for(1);
  const double tau = std::exp(options.logit_scale);
  const auto clip = hybrid_contrastive_loss(3 * eye, 0.5 * eye, {}, {}, {}, {}, options);
  CHECK(value(clip.total) == Approx(std::log1p(std::exp(-tau))).epsilon(1e-12));
  CHECK_FALSE(clip.class_term.defined());

  // One prompt along the first axis, positive for both: losses log(1 + exp(-tau)) and log 2.
  const at::Tensor prompt = at::tensor({2.0, 0.0}, at::kDouble).reshape({1, 2});
  options = options_for(0);
  const auto bce = hybrid_contrastive_loss(eye, {}, prompt, at::ones({2, 1}), {}, {}, options);
  CHECK(value(bce.total) == Approx((std::log1p(std::exp(-tau)) + std::log(2.0)) / 2).epsilon(1e-12));
  CHECK_FALSE(bce.clip.defined());

  // Negative prompt along the second axis: scores (0, tau) and (tau, 0).
  options = options_for(0, ClassForm::kPaired);
  const at::Tensor pair = at::tensor({0.0, 1.0, 1.0, 0.0}, at::kDouble).reshape({2, 2});
  const auto paired = hybrid_contrastive_loss(eye, {}, pair, at::ones({2, 1}), {}, {}, options);
  CHECK(value(paired.total) == Approx((std::log1p(std::exp(-tau)) + std::log1p(std::exp(tau))) / 2).epsilon(1e-12));
  const auto probabilities = to_doubles(class_probabilities(eye, pair, options));
  CHECK(probabilities[0] == Approx(1 / (1 + std::exp(-tau))));
  CHECK(probabilities[1] == Approx(1 / (1 + std::exp(tau))));
}

TEST_CASE("without options the loss is the published one", "[loss]") {
  const HybridLossOptions options;
  CHECK(options.clip_weight == 0.7);
  CHECK(options.logit_scale == 4.602);
  CHECK(options.class_form == ClassForm::kBce);
  CHECK(options.normalise);
  CHECK(options.contrastive_form == ContrastiveForm::kSoftmax);
  CHECK(options.class_bias == 0);
  CHECK(options.min_logit_scale == -std::numeric_limits<double>::infinity());
  CHECK(options.max_logit_scale == std::numeric_limits<double>::infinity());
  CHECK(options.label_pairs == LabelPairs::kNegatives);
  CHECK(options.uncertain == UncertainLabels::kRefused);

  Problem problem(6, 3, 5, ClassForm::kBce, 91);
  problem.labels[1].copy_(problem.labels[0]);  // still negatives of each other
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, 1, true); };
  const double tau = std::exp(4.602);
  const at::Tensor images = unit(problem.image), labels = problem.labels.to(at::kDouble);
  const at::Tensor scores = tau * unit(problem.text).matmul(images.t());
  const at::Tensor odds = tau * images.matmul(unit(problem.prompts).t());
  const at::Tensor clip = -(scores.log_softmax(0) + scores.log_softmax(1)).diagonal().mean() / 2;
  const at::Tensor softplus = odds.clamp_min(0) + (-odds.abs()).exp().log1p();  // log(1 + exp(odds))
  const at::Tensor class_term = (softplus - labels * odds).mean();
  const auto output = HybridContrastiveLoss()(problem.image, problem.text, problem.prompts, problem.labels);
  CHECK(value(output.clip) == Approx(value(clip)).epsilon(1e-12));
  CHECK(value(output.class_term) == Approx(value(class_term)).epsilon(1e-12));
  CHECK(value(output.total) == Approx(0.7 * value(clip) + 0.3 * value(class_term)).epsilon(1e-12));
  at::Tensor uncertain = problem.labels.clone();
  uncertain[0][0] = -1;
  CHECK_THROWS_AS(HybridContrastiveLoss()(problem.image, problem.text, problem.prompts, uncertain), Error);
}

TEST_CASE("the total is the weighted sum of the terms, and extreme weights skip one", "[loss]") {
  for (const auto form : {ClassForm::kBce, ClassForm::kPaired}) {
    const Problem problem(6, 3, 5, form, 11);
    const auto both = problem.loss(options_for(0.3, form));
    CHECK(value(both.total) == Approx(0.3 * value(both.clip) + 0.7 * value(both.class_term)).epsilon(1e-14));
    CHECK(value(problem.loss(options_for(1, form)).total) == value(both.clip));
    CHECK(value(problem.loss(options_for(0, form)).total) == value(both.class_term));
    // The skipped term's inputs are not even read.
    CHECK_NOTHROW(hybrid_contrastive_loss(problem.image, problem.text, {}, {}, {}, {}, options_for(1, form)));
    CHECK_NOTHROW(
        hybrid_contrastive_loss(problem.image, {}, problem.prompts, problem.labels, {}, {}, options_for(0, form)));
  }
}

TEST_CASE("gradients agree with finite differences", "[loss]") {
  for (const auto form : {ClassForm::kBce, ClassForm::kPaired})
    for (const bool normalise : {true, false})
      for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored}) {
        Problem problem(5, 3, 4, form, 23);
        problem.labels[1].copy_(problem.labels[0]);
        problem.label_mask[1].copy_(problem.label_mask[0]);
        HybridLossOptions options = options_for(0.6, form);
        options.normalise = normalise;
        options.label_pairs = pairs;
        if (form == ClassForm::kBce) options.class_bias = -0.4;
        const at::Tensor scale = at::tensor({0.7}, at::kDouble);
        const std::vector<at::Tensor> leaves = {problem.image, problem.text, problem.prompts, scale};
        for (const auto& leaf : leaves) leaf.requires_grad_(true);
        check_gradients(
            [&] {
              return hybrid_contrastive_loss(problem.image, problem.text, problem.prompts, problem.labels,
                                             problem.label_mask, problem.text_mask, options, scale)
                  .total;
            },
            leaves, 40);
      }
}

TEST_CASE("the order of items does not matter", "[loss]") {
  for (const auto form : {ClassForm::kBce, ClassForm::kPaired}) {
    Problem problem(7, 4, 6, form, 31);
    const auto before = problem.loss(options_for(0.5, form));
    const at::Tensor order = at::tensor({3, 0, 6, 1, 5, 2, 4}, at::kLong);
    for (at::Tensor* tensor : {&problem.image, &problem.text, &problem.labels, &problem.label_mask, &problem.text_mask})
      *tensor = tensor->index_select(0, order);
    const auto after = problem.loss(options_for(0.5, form));
    CHECK(value(after.clip) == Approx(value(before.clip)).epsilon(1e-12));
    CHECK(value(after.class_term) == Approx(value(before.class_term)).epsilon(1e-12));
  }
}

TEST_CASE("embeddings may be scaled freely when they are normalised", "[loss]") {
  Problem problem(5, 2, 3, ClassForm::kBce, 41);
  const double before = value(problem.loss(options_for(0.5)).total);
  problem.image = problem.image * 123;
  problem.text = problem.text * 1e-5;
  CHECK(value(problem.loss(options_for(0.5)).total) == Approx(before).epsilon(1e-12));
}

TEST_CASE("a single pair has no contrast", "[loss]") {
  Problem problem(1, 2, 4, ClassForm::kBce, 5);
  problem.image.requires_grad_(true);
  const auto output =
      hybrid_contrastive_loss(problem.image, problem.text, problem.prompts, problem.labels, {}, {}, options_for(0.7));
  CHECK(value(output.clip) == 0);
  CHECK(value(output.total) == Approx(0.3 * value(output.class_term)));
  output.clip.backward();
  CHECK(problem.image.grad().abs().max().item<double>() == 0);
}

TEST_CASE("masks equal leaving the entries out", "[loss]") {
  for (const auto form : {ClassForm::kBce, ClassForm::kPaired}) {
    Problem problem(6, 3, 5, form, 53);
    const at::Tensor with_text = at::tensor({0, 2, 3, 5}, at::kLong);
    problem.text_mask = at::zeros({6}, at::kBool).index_fill(0, with_text, true);
    const auto masked = problem.loss(options_for(0.5, form));

    // Contrastive term: the same as the items that have text, alone.
    const auto subset =
        hybrid_contrastive_loss(problem.image.index_select(0, with_text), problem.text.index_select(0, with_text), {},
                                {}, {}, {}, options_for(1, form));
    CHECK(value(masked.clip) == Approx(value(subset.clip)).epsilon(1e-13));

    // Class term: the mean of one-entry losses over the known labels.
    double sum = 0;
    int known = 0;
    for (std::int64_t i = 0; i < 6; ++i)
      for (std::int64_t k = 0; k < 3; ++k) {
        if (!problem.label_mask[i][k].item<bool>()) continue;
        const auto prompts = form == ClassForm::kPaired ? problem.prompts.slice(0, 2 * k, 2 * k + 2)
                                                        : problem.prompts.slice(0, k, k + 1);
        sum += value(hybrid_contrastive_loss(problem.image.slice(0, i, i + 1), {}, prompts,
                                             problem.labels[i][k].reshape({1, 1}), {}, {}, options_for(0, form))
                         .total);
        ++known;
      }
    REQUIRE(known > 0);
    REQUIRE(known < 18);
    CHECK(value(masked.class_term) == Approx(sum / known).epsilon(1e-12));

    // What is masked is never read.
    problem.text.index_fill_(0, at::tensor({1, 4}, at::kLong), std::numeric_limits<double>::quiet_NaN());
    problem.labels.masked_fill_(problem.label_mask.logical_not(), -1);
    const auto garbage = problem.loss(options_for(0.5, form));
    CHECK(value(garbage.total) == value(masked.total));
  }
}

TEST_CASE("nothing left to learn from is a loss of 0 with zero gradients", "[loss]") {
  Problem problem(3, 2, 4, ClassForm::kBce, 61);
  problem.image.requires_grad_(true);
  problem.label_mask.fill_(false);
  problem.text_mask.fill_(false);
  const auto output = problem.loss(options_for(0.7));
  CHECK(value(output.total) == 0);
  output.total.backward();
  CHECK(problem.image.grad().abs().max().item<double>() == 0);
}

TEST_CASE("pairs with the same labels can be kept from repelling each other", "[loss]") {
  Problem problem(4, 2, 3, ClassForm::kBce, 71);
  problem.labels = at::tensor({0, 1, 1, 0, 0, 1, 1, 1}, at::kLong).reshape({4, 2});  // items 0 and 2 agree
  HybridLossOptions options = options_for(1);
  options.label_pairs = LabelPairs::kIgnored;
  const auto loss = [&](const at::Tensor& label_mask) {
    return value(
        hybrid_contrastive_loss(problem.image, problem.text, {}, problem.labels, label_mask, {}, options).clip);
  };
  // By hand: mean of -log softmax over the allowed entries, in both directions.
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, 1, true); };
  const at::Tensor scores = std::exp(options.logit_scale) * unit(problem.text).matmul(unit(problem.image).t());
  double expected = 0;
  for (int i = 0; i < 4; ++i) {
    double row = 0, column = 0;
    for (int j = 0; j < 4; ++j) {
      if (i != j && i + j == 2 && i != 1) continue;
      row += std::exp(value(scores[i][j]));
      column += std::exp(value(scores[j][i]));
    }
    expected += (std::log(row) + std::log(column)) / 2 - value(scores[i][i]);
  }
  CHECK(loss({}) == Approx(expected / 4).epsilon(1e-12));
  // An unknown label tells the two apart again.
  at::Tensor mask = at::ones({4, 2}, at::kBool);
  mask[2][0] = false;
  const double reference =
      value(hybrid_contrastive_loss(problem.image, problem.text, {}, {}, {}, {}, options_for(1)).clip);
  CHECK(loss(mask) == Approx(reference).epsilon(1e-12));
}

TEST_CASE("bad input is named", "[loss]") {
  const Problem good(3, 2, 4, ClassForm::kBce, 81);
  const HybridContrastiveLoss loss(options_for(0.5));
  const auto message = [&](const Problem& problem, ErrorCode code) {
    return error_text(code, [&] {
      (void)loss(problem.image, problem.text, problem.prompts, problem.labels, problem.label_mask, problem.text_mask);
    });
  };
  const auto with = [&](at::Tensor Problem::*member, const at::Tensor& replacement) {
    Problem problem = good;
    problem.*member = replacement;
    return problem;
  };
  at::Tensor zero = good.image.clone(), nan = good.text.clone(), seven = good.labels.clone();
  zero[2].fill_(0);
  nan[1][3] = std::numeric_limits<double>::quiet_NaN();
  seven[1][0] = 7;
  const auto all = at::ones({3, 2}, at::kBool);
  contains(message(with(&Problem::image, zero), ErrorCode::kNumeric), "image row 2");
  Problem bad_text = with(&Problem::text, nan);
  bad_text.text_mask = at::ones({3}, at::kBool);
  contains(message(bad_text, ErrorCode::kNumeric), "text row 1");
  Problem bad_label = with(&Problem::labels, seven);
  bad_label.label_mask = all;
  contains(message(bad_label, ErrorCode::kInvalidArgument), "labels[1, 0]");
  bad_label.labels = good.labels.to(at::kDouble);
  bad_label.labels[1][0] = std::numeric_limits<double>::quiet_NaN();
  contains(message(bad_label, ErrorCode::kInvalidArgument), "labels[1, 0]");
  contains(message(with(&Problem::image, good.image[0]), ErrorCode::kMismatch), "image");
  contains(message(with(&Problem::text, good.text.to(at::kFloat)), ErrorCode::kMismatch), "text");
  contains(message(with(&Problem::text, {}), ErrorCode::kInvalidArgument), "text");
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{3, 5}, {2, 4}})
    contains(message(with(&Problem::text, random_tensor(shape, 1)), ErrorCode::kMismatch),
             "text: expected shape [3, 4]");
  contains(message(with(&Problem::prompts, random_tensor({2, 5}, 1)), ErrorCode::kMismatch), "class_prompts");
  contains(message(with(&Problem::prompts, random_tensor({3, 4}, 1)), ErrorCode::kMismatch), "labels");
  contains(message(with(&Problem::label_mask, all[0]), ErrorCode::kMismatch), "label_mask");
  contains(message(with(&Problem::text_mask, all), ErrorCode::kMismatch), "text_mask");

  HybridLossOptions options;
  options.clip_weight = 1.5;
  CHECK_THROWS_AS(HybridContrastiveLoss(options), Error);
  options = {};
  options.logit_scale = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(options.validate(), Error);
  CHECK_THROWS_AS(loss.probabilities(good.image, random_tensor({2, 5}, 1)), Error);
  CHECK_THROWS_AS(class_probabilities(good.image, random_tensor({3, 4}, 1), options_for(0, ClassForm::kPaired)), Error);
}

namespace {

double check_hybrid_set(const GoldenSet& set, const at::Device& device) {
  double worst = 0;
  HybridLossOptions options;
  const bool bce = set.settings.at("config").at("label_bce").get<bool>();
  options.class_form = bce ? ClassForm::kBce : ClassForm::kPaired;
  int without_options = 0;
  std::vector<Unread> unread = unread_on(device);
  for (const auto& config : set.settings.at("config").at("cases")) {
    const std::string name = "case" + std::to_string(config.at("case").get<int>()) + ".";
    const auto given = [&](const char* tensor) { return to_tensor(set.at(name + tensor)); };
    const at::Tensor labels = given("labels");
    const bool valid = labels.ge(0).logical_and(labels.le(1)).all().item<bool>();
    if (bce && valid && config.at("logit_scale").get<double>() == 4.602 && !is_no_number(set, name + "w0.7.loss")) {
      INFO(name << " without options");
      const auto output = HybridContrastiveLoss()(given("image_raw").to(device), given("report_raw").to(device),
                                                  given("class_raw").to(device), labels);
      const Tolerance tolerance(set.settings.at("tolerance").at("float64").get<std::string>(), "loss");
      worst = std::max(worst, compare(output.total, to_tensor(set.at(name + "w0.7.loss.f64")), tolerance));
      ++without_options;
    }
    for (const double w : set.settings.at("config").at("w")) {
      options.clip_weight = w;
      const std::string prefix = name + "w" + short_number(w) + ".";
      if (is_no_number(set, prefix + "loss") || (w < 1 && !valid)) {
        if (w > 0 && w < 1)  // a term of weight 0 is not computed, whatever it is given
          CHECK_THROWS_AS(hybrid_contrastive_loss(given("image_raw"), given("report_raw"), given("class_raw"), labels,
                                                  {}, {}, options),
                          Error);
        unread.push_back({prefix + "*", "an error here"});
        unread.push_back({name + "eval.probabilities.*", "of a case that is an error here"});
        continue;
      }
      worst = std::max(
          worst, compare_with_set(set, device, [&](const CaseWay& way, Execution execution) {
            const at::Tensor image = way.leaf(given("image_raw")), text = way.leaf(given("report_raw"));
            const at::Tensor prompts = way.leaf(given("class_raw"));
            const at::Tensor scale = way.leaf(at::scalar_tensor(config.at("logit_scale").get<double>(), at::kDouble));
            options.execution = execution;
            const auto output = hybrid_contrastive_loss(image, text, prompts, labels, {}, {}, options, scale);
            output.total.backward();
            const auto gradient = [](const at::Tensor& tensor) {
              return tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor);
            };
            return std::vector<CaseValue>{
                {prefix + "loss", output.total, "loss"},
                {prefix + "grad_image_raw", gradient(image), "gradients"},
                {prefix + "grad_report_raw", gradient(text), "gradients"},
                {prefix + "grad_class_raw", gradient(prompts), "gradients"},
                {prefix + "grad_logit_scale", gradient(scale), "gradients"},
                {name + "eval.probabilities", class_probabilities(image, prompts, options, scale), "gradients"}};
          }));
    }
  }
  if (bce) CHECK(without_options > 0);
  unread.push_back({"*.eval.image_unit.*", "no output of the loss"});
  check_outputs_read(set, unread);
  return worst;
}

}  // namespace

TEST_CASE("golden hybrid losses", "[loss][golden]") {
  for_each_golden("loss_hybrid", [](const GoldenSet& set) { return check_hybrid_set(set, at::kCPU); });
}

TEST_CASE("golden hybrid losses on a device", "[gpu]") {
  if (no_golden_on_device()) return;
  for_each_golden("loss_hybrid", [](const GoldenSet& set) { return check_hybrid_set(set, at::Device(at::kCUDA, 0)); });
}
