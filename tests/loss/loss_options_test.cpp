// Every option of the hybrid loss against loops over its definition in float64, and its gradients against differences;
// the reference and the tiled form alike.

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/problems.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;

namespace {

/// L_clip by loops over the definition.
double naive_clip(const HybridLossInputs& in, const HybridLossOptions& options) {
  std::vector<std::int64_t> items;
  for (std::int64_t i = 0; i < in.image.size(0); ++i)
    if (!in.text_mask.defined() || in.text_mask[i].item<bool>()) items.push_back(i);
  const auto n = static_cast<std::int64_t>(items.size());
  const auto vector = [&](const at::Tensor& rows, std::int64_t i) {
    std::vector<double> v = to_doubles(rows[items[static_cast<std::size_t>(i)]]);
    double norm = 0;
    for (const double x : v) norm += x * x;
    if (options.normalise)
      for (double& x : v) x /= std::sqrt(norm);
    return v;
  };
  const auto known = [&](std::int64_t i, std::int64_t k) {
    return !in.label_mask.defined() || in.label_mask[items[static_cast<std::size_t>(i)]][k].item<bool>();
  };
  const auto label = [&](std::int64_t i, std::int64_t k) {
    return in.labels[items[static_cast<std::size_t>(i)]][k].item<double>();
  };
  const auto agreement = [&](std::int64_t i, std::int64_t j) {  // of hard labels: the part that agrees
    double agree = 0;
    for (std::int64_t k = 0; k < in.labels.size(1); ++k)
      agree += known(i, k) == known(j, k) && (!known(i, k) || label(i, k) == label(j, k)) ? 1 : 0;
    return agree / static_cast<double>(in.labels.size(1));
  };
  const auto study = [&](std::int64_t i) { return in.study[items[static_cast<std::size_t>(i)]].item<std::int64_t>(); };

  const double tau = std::exp(options.logit_scale);
  std::vector<std::vector<double>> s(static_cast<std::size_t>(n)), a(s.size()), left(s.size());
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      const auto t = vector(in.text, i), v = vector(in.image, j);
      double dot = 0;
      for (std::size_t d = 0; d < t.size(); ++d) dot += t[d] * v[d];
      const bool own = i == j || (in.study.defined() && study(i) == study(j));
      const bool alike = options.label_pairs != LabelPairs::kNegatives && agreement(i, j) == 1;
      double attracts = own || (alike && options.label_pairs == LabelPairs::kPositives) ? 1 : 0;
      if (options.label_pairs == LabelPairs::kSoft && !own)
        attracts = std::exp((agreement(i, j) - 1) / options.label_softness);
      s[static_cast<std::size_t>(i)].push_back(tau * dot);
      a[static_cast<std::size_t>(i)].push_back(attracts);
      left[static_cast<std::size_t>(i)].push_back(alike && options.label_pairs == LabelPairs::kIgnored && !own ? 0 : 1);
    }
  double total = 0;
  const auto size = static_cast<std::size_t>(n);
  for (std::size_t i = 0; i < size; ++i) {
    double row = 0, column = 0, row_a = 0, column_a = 0, row_s = 0, column_s = 0;
    for (std::size_t j = 0; j < size; ++j) {
      if (options.contrastive_form == ContrastiveForm::kSigmoid) {
        const double x = s[i][j] + options.logit_bias;
        total += left[i][j] * (a[i][j] * std::log1p(std::exp(-x)) + (1 - a[i][j]) * std::log1p(std::exp(x)));
        continue;
      }
      row += left[i][j] * std::exp(s[i][j]), column += left[j][i] * std::exp(s[j][i]);
      row_a += a[i][j], column_a += a[j][i];
      row_s += a[i][j] * s[i][j], column_s += a[j][i] * s[j][i];
    }
    if (options.contrastive_form == ContrastiveForm::kSoftmax)
      total += (std::log(row) - row_s / row_a + std::log(column) - column_s / column_a) / 2;
  }
  return total / static_cast<double>(n);
}

/// Calls check(inputs, options) for every contrastive option, in both forms.
template <class Check>
void for_each_variant(std::int64_t b, std::uint64_t seed, const Check& check) {
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
      for (const bool studies : {false, true})
        for (const auto execution : kForms) {
          if (studies && pairs == LabelPairs::kPositives) continue;
          HybridLossOptions options = options_for(1);
          options.contrastive_form = form, options.label_pairs = pairs, options.execution = execution;
          options.logit_bias = -1.3, options.label_softness = 0.4;
          const HybridLossInputs inputs = some_inputs(b, 3, 5, seed);
          INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " studies " << studies
                       << " execution " << static_cast<int>(execution) << " B " << b);
          check(studies ? with_studies(inputs) : inputs, options);
        }
}

double clip_of(const HybridLossInputs& inputs, const HybridLossOptions& options) {
  return value(hybrid_contrastive_loss(inputs, options).clip);
}

}  // namespace

TEST_CASE("the contrastive term agrees with its definition for every option, at temperatures from 1 to 100", "[loss]") {
  for (const std::int64_t b : {1, 2, 9})
    for (const double tau : {1.0, 4.5, 100.0})
      for_each_variant(b, 5, [tau](HybridLossInputs inputs, HybridLossOptions options) {
        INFO("tau " << tau);
        options.logit_scale = std::log(tau);
        if (inputs.image.size(0) < 3) inputs.text_mask = at::Tensor();
        for (const bool normalise : {true, false}) {
          // Short enough for the loops' exponentials.
          if (!normalise) inputs.image = 0.3 * inputs.image, inputs.text = 0.3 * inputs.text;
          options.normalise = normalise;
          // The loops take scores of 100 from each other.
          CHECK(clip_of(inputs, options) == Approx(naive_clip(inputs, options)).epsilon(1e-11).margin(1e-13 * tau));
        }
      });
}

namespace {

/// One choice of options of the class term, and of what both terms share.
struct ClassVariant {
  const char* name;
  std::function<void(HybridLossInputs&, HybridLossOptions&)> choose;
};

const std::vector<ClassVariant>& class_variants() {
  static const std::vector<ClassVariant> all = {
      {"published", [](auto&, auto&) {}},
      {"paired prompts",
       [](auto& in, auto& o) {
         o.class_form = ClassForm::kPaired;
         in.class_prompts = random_tensor({6, 5}, 91);
       }},
      {"paired prompts and weights of positives",
       [](auto& in, auto& o) {
         o.class_form = ClassForm::kPaired;
         in.class_prompts = random_tensor({6, 5}, 91);
         in.positive_weights = at::tensor({2.0, 1.0, 0.25}, at::kDouble);
       }},
      {"biases and weights of positives",
       [](auto& in, auto& o) {
         in.class_bias = at::tensor({-2.0, 0.5, 1.0}, at::kDouble);
         in.positive_weights = at::tensor({3.0, 1.0, 0.25}, at::kDouble);
         o.class_bias = 7;  // the tensor takes its place
       }},
      {"one bias of all", [](auto& in, auto&) { in.class_bias = at::tensor({-0.7}, at::kDouble); }},
      {"masked uncertain labels",
       [](auto& in, auto& o) {
         o.uncertain = UncertainLabels::kMasked;
         in.labels[0][1] = -1;
       }},
      {"smoothed uncertain labels",
       [](auto& in, auto& o) {
         o.uncertain = UncertainLabels::kSmoothed;
         in.labels[0][1] = -1;
       }},
      {"soft pairs of labels between 0 and 1",
       [](auto& in, auto& o) {
         o.label_pairs = LabelPairs::kSoft, o.label_softness = 0.4;
         o.uncertain = UncertainLabels::kSmoothed;
         in.labels = in.labels.to(at::kDouble);
         in.labels[0][1] = -1, in.labels[0][2] = 0.35;
         if (in.label_mask.defined()) in.label_mask[0].fill_(true);
       }},
      {"no masks", [](auto& in, auto&) { in.label_mask = in.text_mask = at::Tensor(); }},
      {"no report", [](auto& in, auto&) { in.text_mask = at::zeros({in.image.size(0)}, at::kBool); }},
      {"vectors as they come",
       [](auto& in, auto& o) {
         o.normalise = false;
         for (at::Tensor* rows : {&in.image, &in.text, &in.class_prompts}) *rows = 0.3 * *rows;
       }},
      // The temperature lies between the bounds, where the clamp has a slope.
      {"a range of the temperature", [](auto&, auto& o) { o.min_logit_scale = -0.5, o.max_logit_scale = 4.7; }}};
  return all;
}

/// L_class by loops over the definition.
double naive_class(const HybridLossInputs& in, const HybridLossOptions& options) {
  const auto product = [&](std::int64_t item, std::int64_t prompt) {
    const std::vector<double> v = to_doubles(in.image[item]), c = to_doubles(in.class_prompts[prompt]);
    double dot = 0, vv = 0, cc = 0;
    for (std::size_t d = 0; d < v.size(); ++d) dot += v[d] * c[d], vv += v[d] * v[d], cc += c[d] * c[d];
    return options.normalise ? dot / std::sqrt(vv * cc) : dot;
  };
  const double tau = std::exp(options.logit_scale);
  double total = 0, count = 0;
  for (std::int64_t i = 0; i < in.image.size(0); ++i)
    for (std::int64_t k = 0; k < in.labels.size(1); ++k) {
      double target = value(in.labels[i][k]);
      const bool uncertain = target == -1;
      if (in.label_mask.defined() && !in.label_mask[i][k].item<bool>()) continue;
      if (uncertain && options.uncertain == UncertainLabels::kMasked) continue;
      if (uncertain) target = options.uncertain_target;
      double odds = 0;
      if (options.class_form == ClassForm::kPaired) {
        odds = tau * (product(i, 2 * k + 1) - product(i, 2 * k));
      } else {
        odds = tau * product(i, k) + options.class_bias;
        if (in.class_bias.defined())
          odds += value(in.class_bias[in.class_bias.numel() == 1 ? 0 : k]) - options.class_bias;
      }
      const double weight = in.positive_weights.defined() ? value(in.positive_weights[k]) : 1;
      total += weight * target * std::log1p(std::exp(-odds)) + (1 - target) * std::log1p(std::exp(odds));
      ++count;
    }
  return count > 0 ? total / count : 0;
}

/// Checks the gradient of the loss to everything that can be learnt.
void check_all_gradients(HybridLossInputs inputs, const HybridLossOptions& options) {
  std::vector<at::Tensor> leaves = {inputs.image, inputs.logit_scale};
  if (options.clip_weight > 0) leaves.push_back(inputs.text);
  if (options.clip_weight > 0 && options.contrastive_form == ContrastiveForm::kSigmoid)
    leaves.push_back(inputs.logit_bias);
  if (options.clip_weight < 1) leaves.push_back(inputs.class_prompts);
  if (inputs.class_bias.defined()) leaves.push_back(inputs.class_bias);
  for (const auto& leaf : leaves) leaf.requires_grad_(true);
  check_gradients([&] { return hybrid_contrastive_loss(inputs, options).total; }, leaves, 5, 2e-5);
}

}  // namespace

TEST_CASE("the class term agrees with its definition for every option, at temperatures from 1 to 100", "[loss]") {
  for (const std::int64_t b : {1, 6})
    for (const double tau : {1.0, 14.0, 100.0})
      for (const auto& variant : class_variants())
        for (const auto execution : kForms) {
          INFO(variant.name << " tau " << tau << " execution " << static_cast<int>(execution) << " B " << b);
          HybridLossOptions options = options_for(0);
          options.execution = execution, options.logit_scale = std::log(tau);
          HybridLossInputs inputs = some_inputs(b, 3, 5, 115);
          variant.choose(inputs, options);
          const double expected = naive_class(inputs, options);
          if (b > 1) CHECK(expected > 0);
          CHECK(value(hybrid_contrastive_loss(inputs, options).total) == Approx(expected).epsilon(1e-11).margin(1e-13));
        }
}

TEST_CASE("gradients of every option agree with differences for one item and six, at temperatures from 1 to 100",
          "[loss]") {
  for (const std::int64_t b : {1, 6})
    for (const double tau : {1.0, 14.0, 100.0}) {
      INFO("tau " << tau);
      const auto prepared = [&](HybridLossInputs inputs, HybridLossOptions& options) {
        inputs.logit_scale = at::tensor({std::log(tau)}, at::kDouble);
        inputs.logit_bias = at::tensor({-2.0}, at::kDouble);
        if (b == 1) inputs.text_mask = at::Tensor();
        options.normalise = tau > 1;  // scores of bare vectors times 100 are too steep for differences
        return inputs;
      };
      for_each_variant(b, 15, [&](const HybridLossInputs& given, HybridLossOptions options) {
        HybridLossInputs inputs = prepared(given, options);
        check_all_gradients(inputs, options);
        if (!options.normalise) return;
        options.normalise = false;  // those of short ones are not
        inputs.image = 0.3 * given.image.detach(), inputs.text = 0.3 * given.text.detach();
        INFO("bare vectors");
        check_all_gradients(inputs, options);
      });
      for (const auto& variant : class_variants())
        for (const double w : {0.0, 0.6})
          for (const auto execution : kForms) {
            INFO(variant.name << " w " << w << " execution " << static_cast<int>(execution) << " B " << b);
            HybridLossOptions options = options_for(w);
            options.execution = execution;
            HybridLossInputs inputs = prepared(some_inputs(b, 3, 5, 115), options);
            variant.choose(inputs, options);
            check_all_gradients(inputs, options);
          }
    }
}

namespace {

/// The total, and the gradients to images, reports and all that is learnt, computed in `type`.
std::vector<at::Tensor> total_and_gradients(HybridLossInputs inputs, const HybridLossOptions& options,
                                            at::ScalarType type) {
  inputs.logit_scale = at::tensor({1.5}, at::kDouble), inputs.logit_bias = at::tensor({-1.3}, at::kDouble);
  std::vector<at::Tensor*> leaves = {&inputs.image, &inputs.text, &inputs.class_prompts, &inputs.logit_scale,
                                     &inputs.logit_bias};
  if (inputs.class_bias.defined()) leaves.push_back(&inputs.class_bias);
  for (at::Tensor* leaf : leaves) *leaf = leaf->to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  const at::Tensor total = hybrid_contrastive_loss(inputs, options).total;
  total.backward();
  std::vector<at::Tensor> results = {total.detach()};
  for (const at::Tensor* leaf : leaves)  // not all count with every option
    results.push_back(leaf->grad().defined() ? leaf->grad() : at::zeros_like(*leaf));
  return results;
}

}  // namespace

TEST_CASE("the order of items does not matter to any option, in values and gradients", "[loss]") {
  const auto check = [](const HybridLossInputs& inputs, const HybridLossOptions& options) {
    const at::Tensor order = at::tensor({3, 0, 6, 8, 1, 5, 2, 7, 4}, at::kLong);
    HybridLossInputs moved = inputs;
    for (auto member : {&HybridLossInputs::image, &HybridLossInputs::text, &HybridLossInputs::labels,
                        &HybridLossInputs::label_mask, &HybridLossInputs::text_mask, &HybridLossInputs::study})
      if ((moved.*member).defined()) moved.*member = (moved.*member).index_select(0, order);
    for (const auto& [type, tolerance] : {std::pair(at::kDouble, 1e-12), std::pair(at::kFloat, 1e-5)}) {
      INFO(type);
      auto expected = total_and_gradients(inputs, options, type);
      const auto found = total_and_gradients(moved, options, type);
      for (at::Tensor* rows : {&expected[1], &expected[2]}) *rows = rows->index_select(0, order);
      CHECK(value(expected[1].abs().max()) > 1e-3);
      REQUIRE(found.size() == expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        INFO("result " << i);
        CHECK(value((found[i] - expected[i]).abs().max()) <= tolerance * (1 + value(expected[i].abs().max())));
      }
    }
  };
  for_each_variant(9, 25, check);
  for (const auto& variant : class_variants())
    for (const auto execution : kForms) {
      INFO(variant.name << " execution " << static_cast<int>(execution));
      HybridLossOptions options = options_for(0.6);
      options.execution = execution;
      HybridLossInputs inputs = some_inputs(9, 3, 5, 26);
      variant.choose(inputs, options);
      check(inputs, options);
    }
}

TEST_CASE("agreement of labels as targets lies between equal labels and none", "[loss]") {
  const HybridLossInputs inputs = some_inputs(8, 3, 5, 35);
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, 1, true); };
  const at::Tensor items = inputs.text_mask.nonzero().squeeze(1);
  const at::Tensor scores =
      std::exp(1.5) * unit(inputs.text.index_select(0, items)).matmul(unit(inputs.image.index_select(0, items)).t());
  for (const auto execution : kForms) {
    HybridLossOptions options = options_for(1);
    options.execution = execution;
    options.label_pairs = LabelPairs::kPositives;
    const double equal = clip_of(inputs, options);
    options.label_pairs = LabelPairs::kSoft, options.label_softness = 0.001;
    CHECK(clip_of(inputs, options) == Approx(equal).epsilon(1e-12));
    // Very soft: every pair attracts alike, the mean over all scores.
    options.label_softness = 1000;
    const double expected =
        value((at::logsumexp(scores, 1).mean() + at::logsumexp(scores, 0).mean()) / 2 - scores.mean());
    CHECK(clip_of(inputs, options) == Approx(expected).epsilon(1e-3));
  }
}

namespace {

/// The total with gradients to image, text and prompts, all of `type` and multiplied by `factor`.
struct ScaledLoss {
  double total = 0;
  std::vector<at::Tensor> gradients;

  ScaledLoss(HybridLossInputs inputs, const HybridLossOptions& options, at::ScalarType type, double factor) {
    for (at::Tensor* rows : {&inputs.image, &inputs.text, &inputs.class_prompts})
      *rows = (*rows * factor).to(type).detach().requires_grad_(true);
    const at::Tensor loss = hybrid_contrastive_loss(inputs, options).total;
    loss.backward();
    total = value(loss);
    for (const at::Tensor& rows : {inputs.image, inputs.text, inputs.class_prompts}) gradients.push_back(rows.grad());
  }

  bool finite() const {
    bool all = std::isfinite(total);
    for (const at::Tensor& gradient : gradients) all = all && at::isfinite(gradient).all().item<bool>();
    return all;
  }
};

}  // namespace

TEST_CASE("huge, tiny and far-off numbers neither overflow nor vanish", "[loss]") {
  for_each_variant(9, 45, [](HybridLossInputs inputs, HybridLossOptions options) {
    for (const auto class_form : {ClassForm::kBce, ClassForm::kPaired}) {
      options.class_form = class_form, options.clip_weight = 0.6;
      if (class_form == ClassForm::kPaired) inputs.class_prompts = random_tensor({6, 5}, 46);
      const ScaledLoss expected(inputs, options, at::kDouble, 1);
      for (const auto& [type, factor] : std::vector<std::pair<at::ScalarType, double>>{{at::kFloat, 1e37},
                                                                                       {at::kFloat, 1e-30},
                                                                                       {at::kFloat, 1e12},
                                                                                       {at::kDouble, 1e300},
                                                                                       {at::kDouble, 1e-300}}) {
        INFO("class form " << static_cast<int>(class_form) << " " << type << " " << factor);
        const ScaledLoss scaled(inputs, options, type, factor);
        CHECK(scaled.total == Approx(expected.total).epsilon(1e-5));
        CHECK(scaled.finite());
        if (type == at::kFloat && factor > 1e30) continue;             // gradients of 1e-38 have lost their digits
        for (std::size_t i = 0; i < expected.gradients.size(); ++i) {  // the loss does not depend on lengths
          const at::Tensor right = expected.gradients[i],
                           difference = scaled.gradients[i].to(at::kDouble) * factor - right;
          CHECK(value(difference.abs().max()) <= 1e-4 * value(right.abs().max()));
        }
      }
      // The largest temperature: finite values and gradients.
      for (const auto type : {at::kFloat, at::kDouble})
        for (const double scale : {4.61, 46.0}) {
          HybridLossInputs hot = inputs;
          hot.logit_scale = at::scalar_tensor(scale, at::kDouble);
          CHECK(ScaledLoss(hot, options, type, 1).finite());
        }
    }
  });
}

TEST_CASE("rows of any length in float32 have the loss and the gradients of rows of length about one", "[loss]") {
  const double far = static_cast<double>(std::numeric_limits<float>::max());
  for_each_variant(9, 49, [far](HybridLossInputs inputs, HybridLossOptions options) {
    options.clip_weight = 0.6;
    const std::vector<at::Tensor*> towers = {&inputs.image, &inputs.text, &inputs.class_prompts};
    std::vector<at::Tensor> rows;  // of largest magnitude 1
    for (at::Tensor* tower : towers) {
      *tower = *tower / tower->abs().amax(at::IntArrayRef{1}, /*keepdim=*/true);
      rows.push_back(*tower);
    }
    const ScaledLoss expected(inputs, options, at::kDouble, 1);
    for (const double length : {1e-37, 1e-30, far})
      for (const std::size_t scaled : {0U, 1U, 2U, 3U}) {  // one of the towers, or all
        INFO("length " << length << " tower " << scaled);
        const auto factor = [&](std::size_t i) { return scaled == 3 || scaled == i ? length : 1; };
        for (std::size_t i = 0; i < 3; ++i) *towers[i] = rows[i] * factor(i);
        const ScaledLoss found(inputs, options, at::kFloat, 1);
        CHECK(found.total == Approx(expected.total).epsilon(1e-5));
        for (std::size_t i = 0; i < 3; ++i) {  // of the largest rows they are so small that digits are lost
          INFO("gradient " << i);
          const at::Tensor right = expected.gradients[i], left = found.gradients[i].to(at::kDouble) * factor(i);
          CHECK(value((left - right).abs().max()) <= (length == far ? 2e-3 : 1e-4) * value(right.abs().max()));
        }
      }
  });
}

TEST_CASE("gradients of rows too short for them are held at half of the largest number", "[loss]") {
  const double most = static_cast<double>(std::numeric_limits<float>::max()) / 2;
  for_each_variant(9, 50, [most](HybridLossInputs inputs, HybridLossOptions options) {
    options.clip_weight = 0.6;
    const std::vector<at::Tensor*> towers = {&inputs.image, &inputs.text, &inputs.class_prompts};
    for (at::Tensor* tower : towers) (*tower)[0].copy_(((*tower)[0] * 1e-43).to(at::kFloat));  // of float32's digits
    const ScaledLoss expected(inputs, options, at::kDouble, 1), found(inputs, options, at::kFloat, 1);
    CHECK(found.total == Approx(expected.total).epsilon(1e-5));
    REQUIRE(found.finite());
    for (std::size_t i = 0; i < 3; ++i) {
      INFO("gradient " << i);
      const at::Tensor left = found.gradients[i].to(at::kDouble), right = expected.gradients[i].clamp(-most, most);
      REQUIRE(value(right[0].abs().max()) == most);
      CHECK(value((left[0] - right[0]).abs().max()) <= 2e-2 * most);  // float32's digits of what is nearly 0
      CHECK(value((left.slice(0, 1) - right.slice(0, 1)).abs().max()) <= 1e-4 * value(right.slice(0, 1).abs().max()));
    }
    for (at::Tensor* tower : towers) (*tower)[0].mul_(1e-279);  // the same of float64
    CHECK(ScaledLoss(inputs, options, at::kDouble, 1).finite());
  });
}

TEST_CASE("the largest biases and weights neither overflow nor vanish", "[loss]") {
  // Beside a bias of 1e28 scores are nothing: each pair or label on the wrong side costs the bias, the others nothing.
  constexpr double kBias = 1e28;
  HybridLossInputs inputs = some_inputs(9, 3, 5, 47, /*mask=*/false);
  const double items = 9, present = inputs.labels.to(at::kDouble).mean().item<double>();
  HybridLossOptions options = options_for(0.6);
  options.contrastive_form = ContrastiveForm::kSigmoid;
  for (const auto execution : kForms)
    for (const double sign : {1.0, -1.0}) {
      options.execution = execution;
      inputs.logit_bias = at::scalar_tensor(sign * kBias, at::kDouble);
      inputs.class_bias = at::full({3}, sign * kBias, at::kDouble);
      for (const double weight : {1.0, 3.0}) {
        INFO("execution " << static_cast<int>(execution) << " sign " << sign << " weight " << weight);
        inputs.positive_weights = at::full({3}, weight, at::kDouble);
        const ScaledLoss loss(inputs, options, at::kFloat, 1);
        const double clip = sign > 0 ? items - 1 : 1, findings = sign > 0 ? 1 - present : weight * present;
        CHECK(loss.total == Approx(kBias * (0.6 * clip + 0.4 * findings)).epsilon(1e-5));
        CHECK(loss.finite());
      }
      // Weights as large as moderate log-odds allow, against float64.
      inputs.logit_bias = at::scalar_tensor(-1.0, at::kDouble), inputs.class_bias = at::Tensor();
      inputs.positive_weights = at::full({3}, 1e27, at::kDouble);
      const ScaledLoss heavy(inputs, options, at::kFloat, 1);
      CHECK(heavy.total == Approx(ScaledLoss(inputs, options, at::kDouble, 1).total).epsilon(1e-5));
      CHECK(heavy.finite());
    }
}

TEST_CASE("a bias of each finding and weights of positives change the class term as defined", "[loss]") {
  HybridLossInputs inputs = some_inputs(6, 3, 5, 55);
  HybridLossOptions options = options_for(0);
  inputs.class_bias = at::tensor({-2.0, 0.5, 1.0}, at::kDouble);
  inputs.positive_weights = at::tensor({3.0, 1.0, 0.25}, at::kDouble);
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, 1, true); };
  const at::Tensor cosine = unit(inputs.image).matmul(unit(inputs.class_prompts).t());
  double total = 0, count = 0;
  for (int i = 0; i < 6; ++i)
    for (int k = 0; k < 3; ++k) {
      if (!inputs.label_mask[i][k].item<bool>()) continue;
      const double z = std::exp(1.5) * value(cosine[i][k]) + value(inputs.class_bias[k]);
      total += inputs.labels[i][k].item<int>() ? value(inputs.positive_weights[k]) * std::log1p(std::exp(-z))
                                               : std::log1p(std::exp(z));
      ++count;
    }
  for (const auto execution : kForms) {
    options.execution = execution;
    CHECK(value(hybrid_contrastive_loss(inputs, options).total) == Approx(total / count).epsilon(1e-12));
  }
  const at::Tensor p = class_probabilities(inputs.image, inputs.class_prompts, options, {}, inputs.class_bias);
  CHECK(value(p[1][0]) == Approx(1 / (1 + std::exp(2 - std::exp(1.5) * value(cosine[1][0])))));

  // One number is a bias of all, as the option is; both terms together have the right gradients, in tiles as well.
  HybridLossInputs same = inputs;
  same.class_bias = at::tensor({-0.4}, at::kDouble);
  options.class_bias = -0.4;
  HybridLossInputs without = inputs;
  without.class_bias = at::Tensor();
  CHECK(value(hybrid_contrastive_loss(same, options).total) == value(hybrid_contrastive_loss(without, options).total));
  options.clip_weight = 0.6;
  inputs.logit_scale = at::tensor({2.0}, at::kDouble);
  const std::vector<at::Tensor> leaves = {inputs.image, inputs.text, inputs.class_prompts, inputs.class_bias,
                                          inputs.logit_scale};
  for (const auto& leaf : leaves) leaf.requires_grad_(true);
  for (const auto execution : kForms) {
    options.execution = execution;
    check_gradients([&] { return hybrid_contrastive_loss(inputs, options).total; }, leaves, 10, 2e-6);
  }
}

TEST_CASE("uncertain labels are refused, unknown, or smoothed", "[loss]") {
  HybridLossInputs inputs = some_inputs(6, 3, 5, 65);
  HybridLossOptions options = options_for(0.5);
  options.label_pairs = LabelPairs::kIgnored;
  inputs.labels[1][2] = -1, inputs.label_mask[1][2] = true;
  CHECK(error_text(ErrorCode::kInvalidArgument, [&] {
          (void)hybrid_contrastive_loss(inputs, options);
        }).find("labels[1, 2]") != std::string::npos);
  HybridLossInputs by_hand = inputs;
  by_hand.label_mask = inputs.label_mask.clone();
  by_hand.label_mask[1][2] = false;
  const double masked = value(hybrid_contrastive_loss(by_hand, options).total);
  by_hand.label_mask[1][2] = true;
  by_hand.labels = inputs.labels.to(at::kDouble);
  by_hand.labels[1][2] = 0.6;
  const double smoothed = value(hybrid_contrastive_loss(by_hand, options).total);
  options.uncertain = UncertainLabels::kMasked;
  CHECK(value(hybrid_contrastive_loss(inputs, options).total) == masked);
  options.uncertain = UncertainLabels::kSmoothed, options.uncertain_target = 0.6;
  CHECK(value(hybrid_contrastive_loss(inputs, options).total) == Approx(smoothed).epsilon(1e-14));
  // Anything else stays an error, and an unknown one is not read.
  inputs.labels[1][2] = -2;
  CHECK(error_text(ErrorCode::kInvalidArgument, [&] {
          (void)hybrid_contrastive_loss(inputs, options);
        }).find("or -1") != std::string::npos);
}

TEST_CASE("a learnt temperature is held in its range", "[loss]") {
  HybridLossInputs inputs = some_inputs(5, 2, 4, 75);
  HybridLossOptions options = options_for(0.5);
  options.min_logit_scale = 0, options.max_logit_scale = std::log(100.0);
  for (const auto& [given, held] : std::vector<std::pair<double, double>>{{7, std::log(100.0)}, {-3, 0}, {2, 2}}) {
    inputs.logit_scale = at::scalar_tensor(given, at::kDouble).requires_grad_(true);
    const auto output = hybrid_contrastive_loss(inputs, options);
    HybridLossInputs constant = inputs;
    constant.logit_scale = at::scalar_tensor(held, at::kDouble);
    CHECK(value(output.total) == value(hybrid_contrastive_loss(constant, options).total));
    output.total.backward();
    CHECK((value(inputs.logit_scale.grad()) == 0) == (given != held));
    clamp_logit_scale(inputs.logit_scale, options);
    CHECK(value(inputs.logit_scale) == held);
    CHECK(inputs.logit_scale.requires_grad());
  }
  options.logit_scale = 9;
  inputs.logit_scale = at::Tensor();
  const double clamped = value(hybrid_contrastive_loss(inputs, options).total);
  options.logit_scale = std::log(100.0);
  CHECK(value(hybrid_contrastive_loss(inputs, options).total) == clamped);
  for (const double farthest : {-46.0, 46.0}) {
    options.min_logit_scale = options.max_logit_scale = farthest;
    for (const auto type : {at::kFloat, at::kDouble}) CHECK(ScaledLoss(inputs, options, type, 1).finite());
  }
}
