#include "daug/loss/hybrid_contrastive_loss.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/fitting_rows.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/loss/deferred_checks.h"
#include "loss/contrastive.h"
#include "loss/loss_inputs.h"
#include "loss/tile_math.h"

namespace daug {
namespace {

using namespace detail;

/// On the CPU: below, all of S lies in the caches and whole matrices are as fast.
constexpr std::int64_t kTiledFrom = 1024;

/// Matrices of all pairs that the reference holds at a time, with gradients, at most.
std::int64_t whole_matrices(const HybridLossInputs& inputs, const HybridLossOptions& options) {
  if (options.clip_weight == 0) return 0;
  if (options.contrastive_form == ContrastiveForm::kSigmoid) return 14;
  return inputs.study.defined() || options.label_pairs != LabelPairs::kNegatives ? 10 : 6;
}

/// Whether tiles pay: on the CPU by speed, everywhere by memory.
bool tiles_pay(const HybridLossInputs& inputs, const HybridLossOptions& options) {
  const at::Tensor& image = inputs.image;
  const std::int64_t items = image.size(0), whole = whole_matrices(inputs, options) * items * items;
  const std::int64_t rows = 4 * image.numel(), held = tile_math(image, Execution::kAuto).held();
  if (!image.is_cpu()) return whole > rows + held;
  // Copies of rows and their gradients, of which the reference has up to twice as many, are not there with the
  // matrices.
  return items >= kTiledFrom || std::max(whole, rows) > held;
}

bool use_tiles(const HybridLossInputs& inputs, const HybridLossOptions& options) {
  const at::Tensor& image = inputs.image;
  const bool possible = image.scalar_type() == at::kFloat || image.scalar_type() == at::kDouble;
  if (options.execution == Execution::kFused && !possible)
    fail(ErrorCode::kUnsupported, kLossFunction, "execution",
         "kAuto or kReference for this loss (tiles take float32 and float64)", "kFused");
  if (options.execution == Execution::kAuto) return possible && tiles_pay(inputs, options);
  return possible && options.execution == Execution::kFused;
}

/// The contrastive term of image rows as embed() or read_embeddings() returned them. `bfloat16`: tiles multiply images
/// and reports as such.
at::Tensor contrastive_term(const Embeddings& image, const HybridLossInputs& inputs, const at::Tensor& tau,
                            const PairRules& rules, const HybridLossOptions& options, bool tiled, bool bfloat16,
                            DeferredChecks* checks) {
  const at::Tensor& text = inputs.text;
  require_like_image(text, image.rows.size(0), "text", image.rows);
  const at::Tensor items = items_with_text(inputs.text_mask, image.rows);
  const at::Tensor index = backend::upload(items, image.rows.device());
  const at::Tensor bias = finite_scalar(inputs.logit_bias, options.logit_bias, "logit_bias", image.rows, checks);
  // An absent report's row may hold anything: rows are selected before they are read.
  const auto select = [&](const at::Tensor& rows) { return index.defined() ? rows.index_select(0, index) : rows; };
  if (index.defined() && index.size(0) == 0) return select(image.rows).sum() + select(text).sum();  // 0
  const Embeddings reports = tiled ? read_embeddings(text, "text", options.normalise, index, checks, bfloat16)
                                   : Embeddings{embed(select(text), "text", options.normalise, index, checks), {}, {}};
  // After the rows, so that one that is not finite is named.
  if (!options.normalise) require_finite_scores(select(image.rows), select(text), "text", tau, checks);
  const PairRules mine = items.defined() ? rules.select(items) : rules;
  if (!tiled) return reference_contrastive(select(image.rows), reports.rows, tau, bias, mine, options.contrastive_form);
  return tiled_contrastive(image, reports, index, tau, bias, mine, options.contrastive_form, options.execution,
                           /*batch=*/nullptr, bfloat16, /*deferred=*/checks != nullptr);
}

/// Log-odds of every finding, the same way.
at::Tensor finding_logits(const Embeddings& image, const at::Tensor& prompts, const at::Tensor& tau,
                          const at::Tensor& class_bias, const HybridLossOptions& options, bool tiled,
                          DeferredChecks* checks) {
  const at::Tensor directions = class_directions(prompts, image.rows, options, checks);
  if (!options.normalise) require_finite_scores(image.rows, directions, "class_prompts", tau, checks);
  const at::Tensor products = tiled ? tiled_products(image, directions, tau) : tau * image.rows.matmul(directions.t());
  return class_logits(products, class_bias, options, checks);
}

}  // namespace

void HybridLossOptions::validate() const {
  constexpr const char* kName = "HybridLossOptions";
  require_range(clip_weight, 0, 1, kName, "clip_weight");
  require_range(logit_scale, -10, 10, kName, "logit_scale");
  // float32 holds exp(46) and exp(-46), and sums of scores that large.
  constexpr double kFarthest = 46, kNone = std::numeric_limits<double>::infinity();
  const auto require_bound = [&](double bound, double none, const char* name) {
    require(bound == none || std::abs(bound) <= kFarthest, kName, name,
            detail::concat("a value in [", -kFarthest, ", ", kFarthest, "], or ", none, " for none"), bound);
  };
  require_bound(min_logit_scale, -kNone, "min_logit_scale");
  require_bound(max_logit_scale, kNone, "max_logit_scale");
  require(min_logit_scale <= max_logit_scale, kName, "min_logit_scale and max_logit_scale", "a range",
          detail::concat(min_logit_scale, " to ", max_logit_scale));
  require(std::isfinite(class_bias), kName, "class_bias", "a finite number", class_bias);
  require(class_bias == 0 || class_form == ClassForm::kBce, kName, "class_bias", "0 with ClassForm::kPaired",
          class_bias);
  require(std::isfinite(logit_bias), kName, "logit_bias", "a finite number", logit_bias);
  require_range(label_softness, 0.001, 1000, kName, "label_softness");
  require_range(uncertain_target, 0, 1, kName, "uncertain_target");
}

HybridLossOutput hybrid_contrastive_loss(const HybridLossInputs& given, const HybridLossOptions& options,
                                         DeferredChecks* checks) try {
  options.validate();
  require_image(given.image);
  const HybridLossInputs inputs = widened(given);
  const double w = options.clip_weight;
  const at::Tensor tau = temperature(inputs.logit_scale, inputs.image, options, checks);
  const bool tiled = use_tiles(inputs, options);
  const bool bfloat16 = tiled && w > 0 && multiplies_bfloat16(given.image, given.text, options.execution);
  const Embeddings image = tiled ? read_embeddings(inputs.image, "image", options.normalise, {}, checks, bfloat16)
                                 : Embeddings{embed(inputs.image, "image", options.normalise, {}, checks), {}, {}};

  Targets targets;
  if (w < 1 || options.label_pairs != LabelPairs::kNegatives) targets = read_targets(inputs, options);

  HybridLossOutput output;
  if (w > 0) {
    require_study(inputs.study, inputs.image, options);
    output.clip = contrastive_term(image, inputs, tau, pair_rules(inputs.study, targets, options), options, tiled,
                                   bfloat16, checks);
  }
  if (w < 1)
    output.class_term =
        class_loss(finding_logits(image, inputs.class_prompts, tau, inputs.class_bias, options, tiled, checks), targets,
                   inputs.positive_weights, /*sum=*/false, checks);
  if (!output.class_term.defined()) {
    output.total = output.clip;
  } else if (!output.clip.defined()) {
    output.total = output.class_term;
  } else {
    output.total = w * output.clip + (1 - w) * output.class_term;
  }
  if (checks && checks->passed().defined())
    output.total = output.total.masked_fill(checks->passed().logical_not(), std::numeric_limits<double>::quiet_NaN());
  return output;
} catch (const std::exception& error) {
  backend::rethrow_typed(error, kLossFunction);
}

at::Tensor class_probabilities(const at::Tensor& image, const at::Tensor& class_prompts,
                               const HybridLossOptions& options, const at::Tensor& logit_scale,
                               const at::Tensor& class_bias) {
  options.validate();
  require_image(image);
  const at::Tensor wide = widened(image), tau = temperature(logit_scale, wide, options);
  const Embeddings embeddings{embed(wide, "image", options.normalise), {}, {}};
  return finding_logits(embeddings, widened(class_prompts), tau, class_bias, options, /*tiled=*/false,
                        /*checks=*/nullptr)
      .sigmoid();
}

void clamp_logit_scale(at::Tensor& logit_scale, const HybridLossOptions& options) {
  at::NoGradGuard no_grad;
  logit_scale.clamp_(options.min_logit_scale, options.max_logit_scale);
}

}  // namespace daug
