#include "daug/loss/hybrid_contrastive_loss.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "daug/core/error.h"

namespace daug {
namespace {

constexpr const char* kFunction = "hybrid_contrastive_loss";

void require_shape(bool condition, const char* argument, const std::string& expected, const at::Tensor& actual) {
  if (condition) return;
  if (!actual.defined()) fail(ErrorCode::kInvalidArgument, kFunction, argument, expected, "an undefined tensor");
  fail(ErrorCode::kMismatch, kFunction, argument, expected,
       detail::concat("shape ", actual.sizes(), " of ", actual.scalar_type()));
}

/// Embeddings [rows, D] like `like`: checked row by row through one reduction, divided by their norm when asked.
at::Tensor embed(const at::Tensor& vectors, const char* argument, bool normalise) {
  // The norm is infinite or not-a-number where an element is, so one number a row tells all.
  const at::Tensor norm = at::linalg_vector_norm(vectors, 2, at::IntArrayRef{1}, /*keepdim=*/true);
  const at::Tensor good = normalise ? at::isfinite(norm) & (norm > 0) : at::isfinite(norm);
  if (!good.all().item<bool>()) {
    const auto row = good.to(at::kByte).argmin(0).item<std::int64_t>();
    fail(ErrorCode::kNumeric, kFunction, detail::concat(argument, " row ", row),
         normalise ? "a finite vector with a norm above 0" : "a finite vector",
         detail::concat("norm ", norm[row].item<double>()));
  }
  return normalise ? vectors / norm : vectors;
}

void require_image(const at::Tensor& image) {
  require_shape(image.defined() && image.dim() == 2 && image.size(0) > 0 && image.size(1) > 0 &&
                    at::isFloatingType(image.scalar_type()),
                "image", "[B, D] floating point, B and D at least 1", image);
}

void require_like_image(const at::Tensor& other, std::int64_t rows, const char* argument, const at::Tensor& image) {
  require_shape(other.defined() && other.dim() == 2 && other.size(0) == rows && other.size(1) == image.size(1) &&
                    other.scalar_type() == image.scalar_type(),
                argument,
                detail::concat("shape [", rows, ", ", image.size(1), "] of ", image.scalar_type(), " as the image"),
                other);
}

/// tau as a tensor, differentiable when it comes from one.
at::Tensor temperature(const at::Tensor& logit_scale, const at::Tensor& image, const HybridLossOptions& options) {
  if (!logit_scale.defined()) return at::scalar_tensor(std::exp(options.logit_scale), image.options());
  require_shape(logit_scale.numel() == 1 && at::isFloatingType(logit_scale.scalar_type()), "logit_scale",
                "one floating-point number", logit_scale);
  const at::Tensor tau = logit_scale.reshape({}).to(image.scalar_type()).exp();
  if (!std::isfinite(tau.item<double>()))
    fail(ErrorCode::kNumeric, kFunction, "logit_scale", "a finite exponential", logit_scale.item<double>());
  return tau;
}

/// Log-odds [B, K] of every finding, from image embeddings that embed() returned.
at::Tensor class_logits(const at::Tensor& unit_image, const at::Tensor& prompts, const at::Tensor& tau,
                        const HybridLossOptions& options) {
  const bool paired = options.class_form == ClassForm::kPaired;
  require_shape(prompts.defined() && prompts.dim() == 2 && prompts.size(0) > 0 && (!paired || prompts.size(0) % 2 == 0),
                "class_prompts", paired ? "[2K, D], K at least 1" : "[K, D], K at least 1", prompts);
  require_like_image(prompts, prompts.size(0), "class_prompts", unit_image);
  at::Tensor directions = embed(prompts, "class_prompts", options.normalise);
  if (paired) directions = directions.slice(0, 1, std::nullopt, 2) - directions.slice(0, 0, std::nullopt, 2);
  const at::Tensor logits = tau * unit_image.matmul(directions.t());
  return paired ? logits : logits + options.class_bias;
}

/// Labels as numbers with the unknown ones set to 0, and which are known (undefined: all).
struct Targets {
  at::Tensor labels;
  at::Tensor known;
};

Targets read_targets(const at::Tensor& labels, const at::Tensor& mask, const at::Tensor& image) {
  require_shape(labels.defined() && labels.dim() == 2 && labels.size(0) == image.size(0), "labels",
                detail::concat("[B, K] with B = ", image.size(0)), labels);
  Targets targets{labels.to(image.scalar_type()), {}};
  if (mask.defined()) {
    require_shape(mask.sizes() == labels.sizes(), "label_mask", detail::concat("shape ", labels.sizes()), mask);
    targets.known = mask.to(at::kBool);
    targets.labels = targets.labels.masked_fill(targets.known.logical_not(), 0);
  }
  const at::Tensor good = (targets.labels >= 0) & (targets.labels <= 1);
  if (!good.all().item<bool>()) {
    const at::Tensor where = good.logical_not().nonzero()[0];
    const auto row = where[0].item<std::int64_t>(), column = where[1].item<std::int64_t>();
    fail(ErrorCode::kInvalidArgument, kFunction, detail::concat("labels[", row, ", ", column, "]"),
         "a known label in [0, 1]", targets.labels[row][column].item<double>());
  }
  return targets;
}

at::Tensor class_loss(const at::Tensor& logits, const Targets& targets) {
  if (!targets.known.defined()) return at::binary_cross_entropy_with_logits(logits, targets.labels);
  const at::Tensor weight = targets.known.to(logits.scalar_type());
  const at::Tensor sum = at::binary_cross_entropy_with_logits(logits, targets.labels, weight, {}, at::Reduction::Sum);
  return sum / weight.sum().clamp_min(1);
}

/// True at [i, j], i != j, when both items have the same known labels with the same values.
at::Tensor same_labels(const Targets& targets) {
  const auto equal_rows = [](const at::Tensor& rows) { return (rows.unsqueeze(0) == rows.unsqueeze(1)).all(2); };
  at::Tensor same = equal_rows(targets.labels);
  if (targets.known.defined()) same = same & equal_rows(targets.known);
  return same.fill_diagonal_(false);
}

/// L_clip of n paired embeddings [n, D]; `ignored` [n, n] bool or undefined removes pairs.
at::Tensor clip_loss(const at::Tensor& image, const at::Tensor& text, const at::Tensor& tau,
                     const at::Tensor& ignored) {
  at::Tensor scores = tau * text.matmul(image.t());
  if (ignored.defined()) scores = scores.masked_fill(ignored, -std::numeric_limits<double>::infinity());
  const at::Tensor diagonal = at::arange(image.size(0), image.options().dtype(at::kLong));
  return (at::cross_entropy_loss(scores, diagonal) + at::cross_entropy_loss(scores.t(), diagonal)) / 2;
}

}  // namespace

void HybridLossOptions::validate() const {
  require_range(clip_weight, 0, 1, "HybridLossOptions", "clip_weight");
  require_range(logit_scale, -10, 10, "HybridLossOptions", "logit_scale");
  require(std::isfinite(class_bias), "HybridLossOptions", "class_bias", "a finite number", class_bias);
}

HybridLossOutput hybrid_contrastive_loss(const at::Tensor& image, const at::Tensor& text,
                                         const at::Tensor& class_prompts, const at::Tensor& labels,
                                         const at::Tensor& label_mask, const at::Tensor& text_mask,
                                         const HybridLossOptions& options, const at::Tensor& logit_scale) {
  options.validate();
  require_image(image);
  const double w = options.clip_weight;
  const at::Tensor tau = temperature(logit_scale, image, options);
  const at::Tensor unit_image = embed(image, "image", options.normalise);

  Targets targets;
  if (w < 1 || !options.same_label_negatives) targets = read_targets(labels, label_mask, image);

  HybridLossOutput output;
  if (w > 0) {
    require_like_image(text, image.size(0), "text", image);
    at::Tensor ignored = options.same_label_negatives ? at::Tensor() : same_labels(targets);
    at::Tensor paired_image = unit_image, paired_text = text;
    if (text_mask.defined()) {
      require_shape(text_mask.dim() == 1 && text_mask.size(0) == image.size(0), "text_mask",
                    detail::concat("[B] with B = ", image.size(0)), text_mask);
      // Selecting comes before normalising: an absent report's row may hold anything.
      const at::Tensor rows = text_mask.nonzero().squeeze(1);
      paired_image = unit_image.index_select(0, rows);
      paired_text = text.index_select(0, rows);
      if (ignored.defined()) ignored = ignored.index_select(0, rows).index_select(1, rows);
    }
    output.clip = paired_image.size(0) > 0
                      ? clip_loss(paired_image, embed(paired_text, "text", options.normalise), tau, ignored)
                      : paired_image.sum() + paired_text.sum();  // no pair: 0, still differentiable
  }
  if (w < 1) {
    const at::Tensor logits = class_logits(unit_image, class_prompts, tau, options);
    require_shape(labels.size(1) == logits.size(1), "labels", detail::concat("[B, K] with K = ", logits.size(1)),
                  labels);
    output.class_term = class_loss(logits, targets);
  }
  if (!output.class_term.defined()) {
    output.total = output.clip;
  } else if (!output.clip.defined()) {
    output.total = output.class_term;
  } else {
    output.total = w * output.clip + (1 - w) * output.class_term;
  }
  return output;
}

at::Tensor class_probabilities(const at::Tensor& image, const at::Tensor& class_prompts,
                               const HybridLossOptions& options, const at::Tensor& logit_scale) {
  options.validate();
  require_image(image);
  const at::Tensor tau = temperature(logit_scale, image, options);
  return class_logits(embed(image, "image", options.normalise), class_prompts, tau, options).sigmoid();
}

}  // namespace daug
