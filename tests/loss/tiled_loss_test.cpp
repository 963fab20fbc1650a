// The tiled form beside the reference over several tiles, its memory, and golden sets through it.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/loss/deferred_checks.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/problems.h"
#include "loss/tile_math.h"
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

namespace {

/// Bytes that the loss and its gradients take at most beside inputs, whose leaves are images, reports and prompts.
std::int64_t memory_of(const HybridLossInputs& inputs, const HybridLossOptions& options, bool defers = false) {
  MemoryCount count;
  DeferredChecks checks;  // forgets what it holds before the count ends
  checks.begin(0);
  hybrid_contrastive_loss(inputs, options, defers ? &checks : nullptr).total.backward();
  const std::int64_t used = count.peak();
  checks.settle();
  for (const at::Tensor& leaf :
       {inputs.image, inputs.text, inputs.class_prompts, inputs.logit_scale, inputs.logit_bias})
    if (leaf.defined()) leaf.mutable_grad() = at::Tensor();
  if (!defers) CHECK(count.now() == 0);
  return used;
}

}  // namespace

TEST_CASE("the memory of the loss is 4 B D numbers and 16 MB at most", "[loss][tiled]") {
  constexpr std::int64_t kWidth = 128;
  // Whole, in tiles for memory alone (whole scores would be 4 MB a matrix), and where they would be 64 MB.
  for (const std::int64_t items : {500, 1000, 4096}) {
    const HybridLossInputs inputs = many(items, kWidth);
    for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
      for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
        for (const double w : {1.0, 0.7})
          for (const bool masked : {false, true}) {
            HybridLossInputs mine = inputs;
            mine.image = inputs.image.to(at::kFloat).requires_grad_(true);
            mine.text = inputs.text.to(at::kFloat).requires_grad_(true);
            mine.class_prompts = inputs.class_prompts.to(at::kFloat).requires_grad_(true);
            if (masked) mine.text_mask = random_tensor({items}, 5) > -1;
            if (masked && pairs != LabelPairs::kPositives) mine.study = at::arange(items, at::kLong).div(3, "floor");
            HybridLossOptions options = options_for(w);
            options.contrastive_form = form, options.label_pairs = pairs;
            INFO(items << " items, form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " w "
                       << w << " masked " << masked);
            const std::int64_t used = memory_of(mine, options);
            CHECK(used <= 4 * items * kWidth * 4 + (16 << 20));
            CHECK(used >= 2 * items * kWidth * 4);  // it counts at all: the gradients
          }
  }
}

namespace {

/// One choice of inputs and options of a loss whose memory is counted.
struct MemoryCase {
  const char* name;
  std::function<void(HybridLossInputs&, HybridLossOptions&)> choose;
};

/// Row 3 has squares that float32 does not hold, row 7 those that vanish.
void make_extreme(const at::Tensor& rows) { rows[3].mul_(1e25), rows[7].mul_(1e-25); }

const std::vector<MemoryCase>& memory_cases() {
  const auto studies = [](const at::Tensor& rows) { return at::arange(rows.size(0), at::kLong).div(3, "floor"); };
  const auto reports = [](const at::Tensor& rows) { return random_tensor({rows.size(0)}, 5) > -1; };
  static const std::vector<MemoryCase> all = {
      {"paired prompts",
       [](auto& in, auto& o) {
         o.class_form = ClassForm::kPaired;
         in.class_prompts = float_tensor({28, in.image.size(1)}, 8);
       }},
      {"vectors as they come", [](auto&, auto& o) { o.normalise = false; }},
      {"vectors as they come, some without report",
       [=](auto& in, auto& o) { o.normalise = false, in.text_mask = reports(in.image); }},
      {"biases and weights of positives",
       [](auto& in, auto&) { in.class_bias = float_tensor({14}, 8), in.positive_weights = at::full({14}, 3.0); }},
      {"masked uncertain labels",
       [](auto& in, auto& o) { o.uncertain = UncertainLabels::kMasked, in.labels[0][1] = -1; }},
      {"smoothed uncertain labels, soft pairs",
       [](auto& in, auto& o) {
         o.uncertain = UncertainLabels::kSmoothed, in.labels[0][1] = -1;
         o.label_pairs = LabelPairs::kSoft;
       }},
      {"a learnt temperature and bias",
       [](auto& in, auto& o) {
         o.contrastive_form = ContrastiveForm::kSigmoid;
         in.logit_scale = at::full({1}, 2.0).requires_grad_(true);
         in.logit_bias = at::full({1}, -5.0).requires_grad_(true);
       }},
      {"class tokens of longer sequences",
       [](auto& in, auto&) {
         for (at::Tensor* rows : {&in.image, &in.text}) *rows = at::stack({*rows, *rows}, 1).select(1, 0);
       }},
      {"vectors column by column",
       [](auto& in, auto&) {
         for (at::Tensor* rows : {&in.image, &in.text}) *rows = rows->t().contiguous().t();
       }},
      {"vectors with gaps between their numbers",
       [](auto& in, auto&) {
         for (at::Tensor* rows : {&in.image, &in.text}) *rows = at::stack({*rows, *rows}, 2).select(2, 0);
       }},
      {"extreme norms", [](auto& in, auto&) { make_extreme(in.image), make_extreme(in.text); }},
      {"extreme norms of class tokens, some without report, of studies",
       [=](auto& in, auto& o) {
         for (at::Tensor* rows : {&in.image, &in.text}) {
           make_extreme(*rows);
           *rows = at::stack({*rows, *rows}, 1).select(1, 0);
         }
         in.text_mask = reports(in.image), in.study = studies(in.image);
         o.contrastive_form = ContrastiveForm::kSigmoid, o.label_pairs = LabelPairs::kIgnored;
       }},
      {"extreme norms, some without report, soft pairs", [=](auto& in, auto& o) {
         make_extreme(in.image), make_extreme(in.text);
         in.text_mask = reports(in.image), o.label_pairs = LabelPairs::kSoft;
       }}};
  return all;
}

}  // namespace

TEST_CASE("the memory of the loss is 4 B D numbers and 16 MB at most with every option and layout", "[loss][tiled]") {
  constexpr std::int64_t kItems = 2048, kWidth = 1024;  // a copy of the images is 8 MB
  HybridLossInputs given;
  given.image = float_tensor({kItems, kWidth}, 1);
  given.text = 0.5 * given.image + float_tensor({kItems, kWidth}, 2);
  given.class_prompts = float_tensor({14, kWidth}, 3);
  given.labels = (random_tensor({kItems, 14}, 4) > 0.3).to(at::kLong);
  for (const MemoryCase& one : memory_cases())
    for (const bool defers : {false, true}) {
      HybridLossInputs inputs = given;
      for (at::Tensor* tensor : {&inputs.image, &inputs.text, &inputs.labels}) *tensor = tensor->clone();
      HybridLossOptions options = options_for(0.7);
      one.choose(inputs, options);
      for (at::Tensor* leaf : {&inputs.image, &inputs.text, &inputs.class_prompts})
        *leaf = leaf->detach().requires_grad_(true);
      INFO(one.name << (defers ? ", checks read later" : ""));
      const std::int64_t used = memory_of(inputs, options, defers);
      CHECK(used <= 4 * kItems * kWidth * 4 + (16 << 20));
      CHECK(used >= 2 * kItems * kWidth * 4);
    }
}

TEST_CASE("tiles as large as a device takes for its kernels keep to the same bound on memory", "[loss][tiled]") {
  namespace cuda = daug::kernels::cuda;
  constexpr std::int64_t kItems = 4096, kWidth = 1280;  // just enough for tiles of 4096 x 2048
  struct Choice {
    const char* name;
    cuda::TileNeeds needs;
    int doublings;
    bool soft, defers;
  };
  const Choice choices[] = {{"plain", {}, 3, false, false},
                            {"soft pairs", {true, 0, kItems * 9}, 1, true, false},
                            {"rows divided tile by tile", {false, kWidth, 0}, 1, false, true}};
  HybridLossInputs given;
  given.image = float_tensor({kItems, kWidth}, 1).requires_grad_(true);
  given.text = float_tensor({kItems, kWidth}, 2).requires_grad_(true);
  given.class_prompts = float_tensor({3, kWidth}, 3).requires_grad_(true);
  given.labels = (random_tensor({kItems, 3}, 4) > 0.3).to(at::kLong);
  for (const Choice& choice : choices) {
    INFO(choice.name);
    CHECK(cuda::tile_doublings(kItems, kWidth, choice.needs) == choice.doublings);
    const auto math = daug::detail::kernel_tile_math(cuda::kLeastTileRows << choice.doublings, cuda::kMostTileColumns);
    const daug::detail::TileMathGuard guard(*math);
    HybridLossOptions options = options_for(0.7);
    if (choice.soft) options.label_pairs = LabelPairs::kSoft;
    const std::int64_t used = memory_of(given, options, choice.defers);
    CHECK(used <= 4 * kItems * kWidth * 4 + (16 << 20));
    CHECK(used >= 4 * (2 * kItems * kWidth + (cuda::kLeastTileRows << choice.doublings) * cuda::kMostTileColumns));
  }
}

TEST_CASE("rows of any layout have the loss and the gradients of the same rows without gaps", "[loss][tiled]") {
  HybridLossInputs plain = many(1100, 6);
  for (const bool masked : {false, true}) {
    if (masked) plain.text_mask = random_tensor({1100}, 5) > -1;
    for (const bool extreme : {false, true}) {
      const auto loss_of = [&](const std::function<at::Tensor(const at::Tensor&)>& laid_out) {
        HybridLossInputs mine = plain;
        for (at::Tensor* rows : {&mine.image, &mine.text}) {
          *rows = rows->to(at::kFloat);
          if (extreme) make_extreme(*rows);
          *rows = laid_out(*rows).detach().requires_grad_(true);
        }
        mine.class_prompts = mine.class_prompts.to(at::kFloat);
        HybridLossOptions options = options_for(0.7);
        options.execution = Execution::kFused;
        const at::Tensor total = hybrid_contrastive_loss(mine, options).total;
        total.backward();
        return std::vector<at::Tensor>{total.detach(), mine.image.grad(), mine.text.grad()};
      };
      const auto expected = loss_of([](const at::Tensor& rows) { return rows; });
      for (std::size_t layout = 0; layout < layouts().size(); ++layout) {
        INFO("layout " << layout << " masked " << masked << " extreme " << extreme);
        const auto found = loss_of(layouts()[layout]);
        CHECK(value(found[0]) == Approx(value(expected[0])).epsilon(1e-6));
        for (const std::size_t i : {1U, 2U}) {
          // Rows of extreme norms have gradients of extreme sizes.
          const at::Tensor largest = expected[i].abs().amax(at::IntArrayRef{1}, /*keepdim=*/true);
          CHECK(((found[i] - expected[i]).abs() <= 1e-3 * largest).all().item<bool>());
        }
      }
    }
  }
}

TEST_CASE("gradients of rows of extreme norms are the same however they are asked for", "[loss][tiled]") {
  HybridLossInputs given = many(1100, 6);
  given.text_mask = random_tensor({1100}, 5) > -1;
  HybridLossOptions options = options_for(0.7);
  options.execution = Execution::kFused;
  const auto fresh = [&] {
    HybridLossInputs mine = given;
    for (at::Tensor* rows : {&mine.image, &mine.text, &mine.class_prompts}) *rows = rows->to(at::kFloat);
    make_extreme(mine.image), make_extreme(mine.text);
    for (at::Tensor* rows : {&mine.image, &mine.text, &mine.class_prompts}) rows->requires_grad_(true);
    return mine;
  };
  const auto gradients_of = [](const HybridLossInputs& inputs) {
    return std::vector<at::Tensor>{inputs.image.grad(), inputs.text.grad(), inputs.class_prompts.grad()};
  };
  HybridLossInputs inputs = fresh();
  hybrid_contrastive_loss(inputs, options).total.backward();
  const auto expected = gradients_of(inputs);

  inputs = fresh();
  const auto asked = torch::autograd::grad({hybrid_contrastive_loss(inputs, options).total},
                                           {inputs.image, inputs.text, inputs.class_prompts});
  for (std::size_t i = 0; i < 3; ++i) CHECK(at::equal(asked[i], expected[i]));

  inputs = fresh();
  HybridLossOutput output = hybrid_contrastive_loss(inputs, options);
  output.total.backward({}, /*retain_graph=*/true);
  output.total.backward();
  const auto twice = gradients_of(inputs);
  for (std::size_t i = 0; i < 3; ++i) CHECK(at::equal(twice[i], 2 * expected[i]));

  inputs = fresh();
  output = hybrid_contrastive_loss(inputs, options);
  (0.7 * output.clip).backward({}, /*retain_graph=*/true);
  (0.3 * output.class_term).backward();
  const auto apart = gradients_of(inputs);
  for (std::size_t i = 0; i < 3; ++i) {
    const at::Tensor largest = expected[i].abs().amax(at::IntArrayRef{1}, /*keepdim=*/true);
    CHECK(((apart[i] - expected[i]).abs() <= 1e-4 * largest).all().item<bool>());
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
