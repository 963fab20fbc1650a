// Tiles of ATen operations, which devices take, on the CPU: beside whole matrices in float64, in bfloat16, and their
// memory.

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "daug/core/error.h"
#include "daug/loss/deferred_checks.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/loss_inputs.h"
#include "loss/problems.h"
#include "loss/seen_tiles.h"
#include "loss/tile_math.h"
#include "support/caught.h"
#include "support/host_reads.h"
#include "support/memory_count.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr LabelPairs kAllPairs[] = {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives,
                                    LabelPairs::kSoft};

/// Every input of the loss, in numbers that bfloat16 holds. Images lie column by column; many items share labels, and
/// with `masked` reports are missing and, beside all but kPositives, three items in a row are a study.
HybridLossInputs every_input(std::int64_t items, std::int64_t width, bool masked, LabelPairs pairs) {
  const auto numbers = [](std::vector<std::int64_t> shape, std::uint64_t seed) {
    return random_tensor(shape, seed).to(at::kBFloat16).to(at::kDouble);
  };
  HybridLossInputs inputs;
  inputs.image = numbers({width, items}, 1).t();
  inputs.text = (0.5 * inputs.image + random_tensor({items, width}, 2)).to(at::kBFloat16).to(at::kDouble);
  inputs.class_prompts = numbers({3, width}, 3);
  inputs.labels = (random_tensor({items, 3}, 4) > 0.3).to(at::kLong);
  inputs.label_mask = random_tensor({items, 3}, 5) > -1;
  inputs.positive_weights = at::tensor({3.0, 1.0, 0.25}, at::kDouble);
  inputs.logit_scale = at::tensor({2.625}, at::kDouble);
  inputs.class_bias = at::tensor({-2.0, 0.5, 1.0}, at::kDouble);
  inputs.logit_bias = at::tensor({-4.0}, at::kDouble);
  if (!masked) return inputs;
  inputs.text_mask = random_tensor({items}, 6) > -1;
  inputs.text.masked_fill_(inputs.text_mask.logical_not().unsqueeze(1), std::nan(""));
  if (pairs != LabelPairs::kPositives) inputs.study = at::arange(items, at::kLong).div(3, "floor");
  return inputs;
}

HybridLossOptions with_pairs(ContrastiveForm form, LabelPairs pairs) {
  HybridLossOptions options = options_for(0.7);
  options.contrastive_form = form, options.label_pairs = pairs, options.label_softness = 0.4;
  options.max_logit_scale = 4.7;
  return options;
}

struct LossAndGradients {
  double loss = 0;
  std::vector<at::Tensor> gradients;  ///< by images, reports, prompts, ln tau, biases of findings, b; float64
};

LossAndGradients differentiate(HybridLossInputs inputs, HybridLossOptions options, Execution execution,
                               at::ScalarType type, DeferredChecks* checks = nullptr) {
  options.execution = execution;
  const std::vector<at::Tensor*> leaves = {&inputs.image,       &inputs.text,       &inputs.class_prompts,
                                           &inputs.logit_scale, &inputs.class_bias, &inputs.logit_bias};
  for (at::Tensor* leaf : leaves) *leaf = leaf->to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  const auto output = hybrid_contrastive_loss(inputs, options, checks);
  output.total.backward();
  LossAndGradients result;
  result.loss = value(output.total);
  for (const at::Tensor* leaf : leaves)
    result.gradients.push_back(leaf->grad().defined() ? leaf->grad().to(at::kDouble)
                                                      : at::zeros(leaf->sizes(), at::kDouble));
  return result;
}

/// Errors relative to the largest number of each gradient and, with a tau, to what a score of that size comes to.
void check_near(const LossAndGradients& actual, const LossAndGradients& expected, double of_loss, double of_gradients,
                double tau = 0) {
  CHECK(std::abs(actual.loss - expected.loss) <= of_loss * (1 + std::abs(expected.loss)));
  const double of_rows = tau / static_cast<double>(expected.gradients[0].size(0));
  const double floors[] = {of_rows, of_rows, tau, 1 + tau, 1, 1};  // single numbers may come to next to nothing
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    INFO("gradient " << i);
    const at::Tensor difference = actual.gradients[i] - expected.gradients[i];
    CHECK(value(difference.abs().max()) <= of_gradients * (floors[i] + value(expected.gradients[i].abs().max())));
  }
}

}  // namespace

TEST_CASE("tiles of ATen operations give whole matrices' values and gradients with every option", "[loss][tiled]") {
  const auto math = daug::detail::aten_tile_math(32, 48);
  const daug::detail::TileMathGuard guard(*math);
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : kAllPairs)
      for (const bool masked : {false, true})
        for (const std::int64_t items : {1, 37, 100})  // of one tile, two, and twelve of which some have no own pair
          for (const double tau : {1.0, 14.0, 100.0}) {
            HybridLossInputs inputs = every_input(items, 6, masked, pairs);
            inputs.logit_scale = at::tensor({static_cast<float>(std::log(tau))}).to(at::kDouble);
            HybridLossOptions options = with_pairs(form, pairs);
            options.normalise = tau > 1;
            INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " masked " << masked
                         << " items " << items << " tau " << tau);
            const auto whole = differentiate(inputs, options, Execution::kReference, at::kDouble);
            const auto exact = differentiate(inputs, options, Execution::kFused, at::kDouble);
            check_near(exact, whole, 1e-12, 1e-12, tau);
            // float32 scores of tau are off by some 1e-7 of it, those of vectors as they come by more.
            const double tolerance = 1e-6 * (options.normalise ? 10 + tau : 40);
            const auto single = differentiate(inputs, options, Execution::kFused, at::kFloat);
            check_near(single, whole, tolerance, tolerance, tau);
          }
}

TEST_CASE("tiles of ATen operations hold the temperature in its bounds and do without reports", "[loss][tiled]") {
  const auto math = daug::detail::aten_tile_math(32, 48);
  const daug::detail::TileMathGuard guard(*math);
  HybridLossInputs inputs = every_input(70, 5, false, LabelPairs::kNegatives);
  inputs.logit_scale = at::tensor({80.0}, at::kDouble);  // e^80 beyond the bound, which it counts as
  const HybridLossOptions options = with_pairs(ContrastiveForm::kSoftmax, LabelPairs::kNegatives);
  const auto clamped = differentiate(inputs, options, Execution::kFused, at::kDouble);
  check_near(clamped, differentiate(inputs, options, Execution::kReference, at::kDouble), 1e-12, 1e-12, 110);
  CHECK(value(clamped.gradients[3]) == 0);
  inputs.text_mask = at::zeros({70}, at::kBool);
  HybridLossOptions contrastive = options;
  contrastive.clip_weight = 1;
  const auto none = differentiate(inputs, contrastive, Execution::kFused, at::kFloat);
  CHECK(none.loss == 0);
  for (const at::Tensor& gradient : none.gradients) CHECK(value(gradient.abs().max()) == 0);
}

TEST_CASE("tiles of ATen operations multiply bfloat16 as it is and add up in float32", "[loss][tiled]") {
  const auto tiles = daug::detail::aten_tile_math(32, 48);
  SeenTiles math(*tiles);
  const daug::detail::TileMathGuard guard(math);
  const auto rounded = [](const at::Tensor& gradient) { return gradient.to(at::kBFloat16).to(at::kDouble); };
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : kAllPairs)
      for (const bool masked : {false, true}) {
        INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " masked " << masked);
        HybridLossInputs inputs = every_input(100, 16, masked, pairs);
        const HybridLossOptions options = with_pairs(form, pairs);
        const auto whole = differentiate(inputs, options, Execution::kReference, at::kDouble);
        DeferredChecks checks;
        std::int64_t reads = 0;
        const auto tiled = [&](at::ScalarType type, bool defers = false) {
          const HostReads counted;
          if (defers) checks.begin(0);
          math.types.clear();
          const auto result = differentiate(inputs, options, Execution::kFused, type, defers ? &checks : nullptr);
          CHECK(math.types == std::set<at::ScalarType>{type});
          reads = counted.count();
          return result;
        };
        const auto narrow = tiled(at::kBFloat16);
        check_near(narrow, whole, 2.4e-5, 2e-2);
        CHECK_FALSE(at::equal(narrow.gradients[0], rounded(tiled(at::kFloat).gradients[0])));

        // Checks that are read later read no more of it than of float32.
        const auto later = tiled(at::kBFloat16, /*defers=*/true);
        const std::int64_t of_narrow = reads;
        tiled(at::kFloat, /*defers=*/true);
        CHECK(of_narrow == reads);
        check_near(later, whole, 2.4e-5, 2e-2);

        // An image and a report that float32 cannot square are divided by powers of two: the same bits, but for those.
        const double far = std::ldexp(1.0, 66);
        inputs.image[3].mul_(far), inputs.text[5].div_(far);
        const auto by_unit_rows = [far](LossAndGradients result) {
          result.gradients[0][3].mul_(far), result.gradients[1][5].div_(far);
          return result;
        };
        const auto scaled = by_unit_rows(tiled(at::kBFloat16, /*defers=*/true));
        CHECK(scaled.loss == later.loss);
        for (const std::size_t i : {0U, 1U}) CHECK(at::equal(scaled.gradients[i], later.gradients[i]));
        check_near(by_unit_rows(tiled(at::kBFloat16)), whole, 2.4e-5, 2e-2);
        checks.settle();
      }
}

TEST_CASE("views of rows and sums are made for each row and column of tiles, not for each tile", "[loss][tiled]") {
  const HybridLossInputs inputs = every_input(96, 6, false, LabelPairs::kNegatives);
  HybridLossOptions options = with_pairs(ContrastiveForm::kSoftmax, LabelPairs::kNegatives);
  options.execution = Execution::kFused;
  const auto views = [&](std::int64_t side) {
    const auto math = daug::detail::aten_tile_math(side, side);
    const daug::detail::TileMathGuard guard(*math);
    const HostReads counted({"aten::narrow"});
    hybrid_contrastive_loss(inputs, options);
    return counted.count();
  };
  const std::int64_t more = views(12) - views(96);
  CHECK(more > 0);
  // Rows, factors and three sums of 7 more slabs on each side; of each of 63 more tiles its own pairs.
  CHECK(more <= 5 * 2 * 7 + 63);
}

TEST_CASE("tiles of the sigmoid form read no more numbers than those of softmax: b stays where it is",
          "[loss][tiled]") {
  const auto by_aten = daug::detail::aten_tile_math(32, 48), by_kernels = daug::detail::kernel_tile_math(32, 48);
  for (const auto* math : {by_aten.get(), by_kernels.get()}) {
    const daug::detail::TileMathGuard guard(*math);
    const HybridLossInputs inputs = every_input(100, 6, false, LabelPairs::kNegatives);
    const auto reads = [&](ContrastiveForm form) {
      DeferredChecks checks;
      checks.begin(0);
      std::int64_t count = 0;
      {
        const HostReads counted;
        differentiate(inputs, with_pairs(form, LabelPairs::kNegatives), Execution::kFused, at::kFloat, &checks);
        count = counted.count();
      }
      checks.settle();
      return count;
    };
    INFO("by kernels: " << (math == by_kernels.get()));
    CHECK(reads(ContrastiveForm::kSigmoid) <= reads(ContrastiveForm::kSoftmax));
  }
}

TEST_CASE("rows of extreme norms that stay bfloat16 are divided by the power of two below their largest number",
          "[loss][tiled]") {
  const at::Tensor rows = at::tensor({1e-40, -1e-41, 3e38, -2e38, 3.0, -4.0, 0.0, 1e-25}, at::kFloat).reshape({4, 2});
  const auto scaled = [&](bool exact) {
    const auto found = daug::detail::read_embeddings(rows, "image", /*normalise=*/true, {}, nullptr, exact);
    CHECK(
        value(((rows / found.scale.unsqueeze(1) * found.inverse_norm.unsqueeze(1)).norm(2, 1, true) - 1).abs().max()) <
        1e-6);
    return found.scale;
  };
  const at::Tensor largest = rows.abs().amax(at::IntArrayRef{1}), plain = scaled(false), exact = scaled(true);
  CHECK(value(plain[2]) == 1);
  CHECK(value(exact[2]) == 1);
  for (const std::int64_t row : {0, 1, 3}) {
    INFO("row " << row);
    CHECK(value(plain[row]) == value(largest[row]));
    int exponent = 0;
    CHECK(std::frexp(value(exact[row]), &exponent) == 0.5);
    CHECK(value(exact[row]) <= value(largest[row]));
    CHECK(2 * value(exact[row]) > value(largest[row]));
  }
}

TEST_CASE("the memory of tiles of ATen operations is some B D numbers and 8 tiles, of bfloat16 too", "[loss][tiled]") {
  constexpr std::int64_t kItems = 2048, kWidth = 128, kSide = 512;  // whole scores would be 16 MB a matrix
  const auto math = daug::detail::aten_tile_math(kSide, kSide);
  const daug::detail::TileMathGuard guard(*math);
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : kAllPairs)
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        HybridLossInputs inputs = every_input(kItems, kWidth, pairs != LabelPairs::kNegatives, pairs);
        for (at::Tensor* leaf : {&inputs.image, &inputs.text, &inputs.class_prompts})
          *leaf = leaf->to(type).contiguous().requires_grad_(true);
        HybridLossOptions options = with_pairs(form, pairs);
        options.execution = Execution::kFused;
        MemoryCount count;
        hybrid_contrastive_loss(inputs, options).total.backward();
        INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " " << type);
        CHECK(count.peak() <= 4 * ((type == at::kFloat ? 4 : 7) * kItems * kWidth + 8 * kSide * kSide));
        CHECK(count.peak() >= 4 * 2 * kItems * kWidth);  // it counts at all: the gradients
        for (at::Tensor* leaf : {&inputs.image, &inputs.text, &inputs.class_prompts})
          leaf->mutable_grad() = at::Tensor();
      }
}

TEST_CASE("tiles refuse to be differentiated twice, and every form refuses no items", "[loss][tiled]") {
  HybridLossInputs inputs = every_input(5, 4, false, LabelPairs::kNegatives);
  inputs.image = inputs.image.clone().requires_grad_(true);
  HybridLossOptions options = options_for(1);
  for (const double w : {1.0, 0.0}) {
    options.clip_weight = w, options.execution = Execution::kFused;
    const at::Tensor total = hybrid_contrastive_loss(inputs, options).total;
    check_refused(ErrorCode::kUnsupported, "kReference",
                  [&] { total.backward({}, std::nullopt, /*create_graph=*/true); });
  }
  const auto math = daug::detail::aten_tile_math(32, 48);
  const daug::detail::TileMathGuard guard(*math);
  for (const auto execution : {Execution::kReference, Execution::kFused}) {
    options.execution = execution;
    HybridLossInputs empty = inputs;
    empty.image = empty.text = at::zeros({0, 4}, at::kDouble);
    check_refused(ErrorCode::kMismatch, "image", [&] { hybrid_contrastive_loss(empty, options); });
  }
}
