// The tiled form beside the reference over several tiles, its memory, and golden sets through it.

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/problems.h"
#include "support/golden_device.h"
#include "support/memory_count.h"

using namespace daug;
using namespace daug::test;

namespace {

struct Result {
  double loss = 0;
  std::vector<at::Tensor> gradients;
};

Result evaluate(const HybridLossInputs& inputs, HybridLossOptions options, Execution execution, at::ScalarType type) {
  options.execution = execution;
  HybridLossInputs mine = inputs;
  const auto leaf = [&](at::Tensor& tensor) {
    tensor = tensor.to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  };
  leaf(mine.image), leaf(mine.text), leaf(mine.class_prompts);
  mine.logit_scale = at::tensor({3.0}, type).requires_grad_(true);
  mine.logit_bias = at::tensor({-4.0}, type).requires_grad_(true);
  const auto output = hybrid_contrastive_loss(mine, options);
  output.total.backward();
  Result result{value(output.total),
                {mine.image.grad(), mine.text.grad(), mine.class_prompts.grad(), mine.logit_scale.grad()}};
  if (options.contrastive_form == ContrastiveForm::kSigmoid) result.gradients.push_back(mine.logit_bias.grad());
  return result;
}

/// 1,100 items, more than two rows of tiles; many share labels and studies, some have no report.
HybridLossInputs many(std::int64_t b, std::int64_t d) {
  HybridLossInputs inputs;
  inputs.image = random_tensor({b, d}, 1);
  inputs.text = 0.5 * inputs.image + random_tensor({b, d}, 2);
  inputs.class_prompts = random_tensor({3, d}, 3);
  inputs.labels = (random_tensor({b, 3}, 4) > 0.3).to(at::kLong);
  return inputs;
}

}  // namespace

TEST_CASE("tiles give the reference's values and gradients", "[loss][tiled]") {
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
      for (const bool masked : {false, true}) {
        HybridLossInputs inputs = many(1100, 6);
        if (masked) {
          inputs.text_mask = random_tensor({1100}, 5) > -1;
          inputs.text.masked_fill_(inputs.text_mask.logical_not().unsqueeze(1), std::nan(""));
        }
        if (masked && pairs != LabelPairs::kPositives) inputs.study = at::arange(1100, at::kLong).div(3, "floor");
        HybridLossOptions options = options_for(0.7);
        options.contrastive_form = form, options.label_pairs = pairs;
        for (const auto& [type, tolerance] :
             std::vector<std::pair<at::ScalarType, double>>{{at::kDouble, 1e-11}, {at::kFloat, 2e-5}}) {
          const Result tiled = evaluate(inputs, options, Execution::kFused, type),
                       whole = evaluate(inputs, options, Execution::kReference, at::kDouble);
          INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " masked " << masked << " "
                       << type);
          CHECK(tiled.loss == Approx(whole.loss).epsilon(tolerance));
          for (std::size_t i = 0; i < whole.gradients.size(); ++i) {
            INFO("gradient " << i);
            const at::Tensor expected = whole.gradients[i], actual = tiled.gradients[i].to(at::kDouble);
            CHECK(value((actual - expected).abs().max()) <= tolerance * value(expected.abs().max()));
          }
        }
      }
}

TEST_CASE("tiles repeat bit for bit, on several threads as on one", "[loss][tiled]") {
  const HybridLossInputs inputs = many(2300, 16);  // two columns of tiles as well
  HybridLossOptions options = options_for(0.7);
  const Result first = evaluate(inputs, options, Execution::kFused, at::kFloat);
  const Result again = evaluate(inputs, options, Execution::kAuto, at::kFloat);
  CHECK(first.loss == again.loss);
  for (std::size_t i = 0; i < first.gradients.size(); ++i) CHECK(at::equal(first.gradients[i], again.gradients[i]));
  const Result whole = evaluate(inputs, options, Execution::kReference, at::kFloat);
  CHECK(first.loss == Approx(whole.loss).epsilon(1e-5));
}

TEST_CASE("the memory of tiles is 4 B D numbers and 16 MB at most", "[loss][tiled]") {
  constexpr std::int64_t kItems = 4096, kWidth = 128;  // whole scores would be 64 MB a matrix
  const HybridLossInputs inputs = many(kItems, kWidth);
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
      for (const double w : {1.0, 0.7})
        for (const bool masked : {false, true}) {
          HybridLossInputs mine = inputs;
          mine.image = inputs.image.to(at::kFloat).requires_grad_(true);
          mine.text = inputs.text.to(at::kFloat).requires_grad_(true);
          mine.class_prompts = inputs.class_prompts.to(at::kFloat).requires_grad_(true);
          if (masked) mine.text_mask = random_tensor({kItems}, 5) > -1;
          if (masked && pairs != LabelPairs::kPositives) mine.study = at::arange(kItems, at::kLong).div(3, "floor");
          HybridLossOptions options = options_for(w);
          options.contrastive_form = form, options.label_pairs = pairs;
          MemoryCount count;
          const std::int64_t before = count.now();
          hybrid_contrastive_loss(mine, options).total.backward();
          const std::int64_t used = count.peak() - before, bound = 4 * kItems * kWidth * 4 + (16 << 20);
          INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " w " << w << " masked "
                       << masked);
          CHECK(used <= bound);
          CHECK(used >= 2 * kItems * kWidth * 4);  // it counts at all: the gradients
          mine.image.mutable_grad() = at::Tensor(), mine.text.mutable_grad() = at::Tensor(),
          mine.class_prompts.mutable_grad() = at::Tensor();
          CHECK(count.now() == before);
        }
}

TEST_CASE("the memory of tiles of ATen operations is 4 B D numbers and 8 tiles at most", "[loss][tiled]") {
  constexpr std::int64_t kItems = 4096, kWidth = 128, kTile = 512 * 2048;  // whole scores would be 128 MB a matrix
  const HybridLossInputs inputs = many(kItems, kWidth);
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft}) {
      HybridLossInputs mine = inputs;  // float64, which goes through the operations that devices do
      mine.image = inputs.image.clone().requires_grad_(true);
      mine.text = inputs.text.clone().requires_grad_(true);
      mine.class_prompts = inputs.class_prompts.clone().requires_grad_(true);
      if (pairs != LabelPairs::kNegatives) {
        mine.text_mask = random_tensor({kItems}, 5) > -1;
        if (pairs != LabelPairs::kPositives) mine.study = at::arange(kItems, at::kLong).div(3, "floor");
      }
      HybridLossOptions options = options_for(0.7);
      options.contrastive_form = form, options.label_pairs = pairs;
      MemoryCount count;
      const std::int64_t before = count.now();
      hybrid_contrastive_loss(mine, options).total.backward();
      INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs));
      CHECK(count.peak() - before <= 8 * (4 * kItems * kWidth + 8 * kTile));
      mine.image.mutable_grad() = at::Tensor(), mine.text.mutable_grad() = at::Tensor(),
      mine.class_prompts.mutable_grad() = at::Tensor();
    }
}

namespace {

double check_contrastive_set(const GoldenSet& set, const at::Device& device) {
  const std::string of_set = set.settings.at("kind");
  const bool sigmoid = of_set == "sigmoid (SigLIP) loss", ranks = device.is_cpu();
  if (of_set == "contrastive loss over gathered features") {
    if (!ranks) throw Skip{"its ranks are on the CPU"};
    const char* why = "a gradient without the part of other ranks, which is not offered";
    std::vector<Unread> unread = {{"*.local1_grad0.grad_image.*", why}, {"*.local1_grad0.grad_text.*", why}};
    const double worst = compare_ranks(set, unread);
    check_outputs_read(set, unread);
    return worst;
  }
  if (!sigmoid && of_set != "symmetric contrastive loss") throw Skip{"no check for kind " + of_set};
  std::vector<Unread> unread = unread_on(device);
  double worst = sigmoid && ranks ? compare_ranks(set, unread) : 0;
  for (const auto& config : sigmoid ? set.settings.at("config").at("cases") : set.settings.at("config"))
    for (const bool unit : {false, true}) {
      const std::string name = "case" + std::to_string(config.at("case").get<int>()) + ".";
      const bool biased = sigmoid && has_number(config, "logit_bias");
      HybridLossOptions options;
      options.clip_weight = 1, options.normalise = !unit, options.logit_bias = 0;
      if (sigmoid) options.contrastive_form = ContrastiveForm::kSigmoid;
      // open_clip leaves an embedding of zeros at zero, which is an error here.
      const auto has_zero_row = [&](const char* tensor) {
        return to_tensor(set.file.at(name + tensor)).eq(0).all(1).any().item<bool>();
      };
      if (is_no_number(set, name + "loss") || has_zero_row("image_raw") || has_zero_row("text_raw")) {
        if (unit) continue;
        HybridLossInputs inputs;
        inputs.image = to_tensor(set.at(name + "image_raw")), inputs.text = to_tensor(set.at(name + "text_raw"));
        CHECK_THROWS_AS(hybrid_contrastive_loss(inputs, options), Error);
        unread.push_back({name + "*", "an error here"});
        continue;
      }
      const std::string kind = unit ? "unit" : "raw";
      worst = std::max(
          worst, compare_with_set(set, device, [&](const CaseWay& way, Execution execution) {
            const auto rows = [&](const char* tensor) {
              const at::Tensor raw = to_tensor(set.at(name + tensor)).to(at::promote_types(way.rounded, at::kFloat));
              return way.leaf(unit ? raw / raw.norm(2, 1, true) : raw);
            };
            const auto scalar = [&](const char* key) {
              return way.leaf(at::scalar_tensor(config.at(key).get<double>(), at::kDouble));
            };
            HybridLossInputs inputs;
            inputs.image = rows("image_raw"), inputs.text = rows("text_raw");
            inputs.logit_scale = scalar("logit_scale");
            if (biased) inputs.logit_bias = scalar("logit_bias");
            options.execution = execution;
            const auto output = hybrid_contrastive_loss(inputs, options);
            output.total.backward();
            std::vector<CaseValue> values = {{name + "loss", output.total, "loss"},
                                             {name + "grad_image_" + kind, inputs.image.grad(), "gradients"},
                                             {name + "grad_text_" + kind, inputs.text.grad(), "gradients"},
                                             {name + "grad_logit_scale", inputs.logit_scale.grad(), "gradients"}};
            if (biased) values.push_back({name + "grad_logit_bias", inputs.logit_bias.grad(), "gradients"});
            return values;
          }));
    }
  if (!ranks) unread.push_back({"dist*", "ranks are on the CPU"});
  check_outputs_read(set, unread);
  return worst;
}

}  // namespace

TEST_CASE("golden contrastive and sigmoid losses, whole, in tiles and on several ranks", "[loss][golden]") {
  for (const char* prefix : {"loss_clip", "loss_siglip"})
    for_each_golden(prefix, [](const GoldenSet& set) { return check_contrastive_set(set, at::kCPU); });
}

TEST_CASE("golden contrastive and sigmoid losses on a device, whole and in tiles", "[gpu]") {
  if (no_golden_on_device()) return;
  for (const char* prefix : {"loss_clip", "loss_siglip"})
    for_each_golden(prefix, [](const GoldenSet& set) { return check_contrastive_set(set, at::Device(at::kCUDA, 0)); });
}
