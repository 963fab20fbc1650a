#pragma once
/// @file
/// The hybrid loss of arXiv 2412.04828: images are pulled towards their reports and towards the prompts of their
/// findings. Eager reference in ATen operations: any device, differentiable, float32 or float64.

#include <ATen/core/Tensor.h>

namespace daug {

/// How image embeddings and class prompts become a probability per finding.
enum class ClassForm {
  kBce,     ///< one prompt a finding, p = sigmoid(tau v.c + bias)
  kPaired,  ///< a negative and a positive prompt a finding, p = softmax(tau v.c-, tau v.c+) of the positive one
};

/// Settings of hybrid_contrastive_loss. Defaults are the published classification setting.
struct HybridLossOptions {
  /// w, weight of the contrastive term, in [0, 1]; the class term weighs 1 - w. A term of weight 0 is not computed.
  double clip_weight = 0.7;
  /// Layout of the class prompts.
  ClassForm class_form = ClassForm::kBce;
  /// ln tau of both terms, in [-10, 10]; a tensor given to the functions below takes its place.
  double logit_scale = 4.602;
  /// Added to the kBce logits. The published loss has none (0), so an untrained cosine of 0.05 already means p = 0.993.
  double class_bias = 0;
  /// Embeddings and prompts are divided by their L2 norm first; off, they are taken as they come.
  bool normalise = true;
  /// Two items with the same labels repel each other, as published; off, such pairs leave the softmax (needs labels).
  bool same_label_negatives = true;

  /// Throws kInvalidArgument naming the option that is out of range.
  void validate() const;
};

/// Scalars of the embeddings' dtype. A term of weight 0 stays undefined.
struct HybridLossOutput {
  at::Tensor total;       ///< w clip + (1 - w) class
  at::Tensor clip;        ///< L_clip >= 0
  at::Tensor class_term;  ///< L_class >= 0
};

/// The hybrid loss (arXiv 2412.04828, training objective; L_clip: arXiv 2103.00020):
///
///     L = w L_clip + (1 - w) L_class
///     L_clip = (CE(S, diagonal) + CE(S^T, diagonal)) / 2,   S = tau T V^T
///     L_class = mean over known labels of the binary cross-entropy of p_ik against labels_ik   (see ClassForm)
///
/// The two-way softmax cross-entropy of kPaired is computed as the equal binary cross-entropy of tau v.(c+ - c-).
///
/// - image [B, D]: embeddings, one an item; B >= 1.
/// - text [B, D]: report embeddings; may be undefined when w = 0.
/// - class_prompts [K, D] (kBce) or [2K, D] (kPaired: negative and positive alternating); may be undefined when w = 1.
/// - labels [B, K]: targets in [0, 1], any dtype; may be undefined when w = 1 (and same_label_negatives is on).
/// - label_mask [B, K], bool or 0/1: zero marks an unknown label, whose value is never read. Undefined: all known.
/// - text_mask [B], bool or 0/1: zero marks an item without a report; it leaves rows and columns of S, and its text
///   row is never read. Undefined: all have one.
/// - logit_scale: scalar tensor in place of options.logit_scale, e.g. a parameter to learn it.
///
/// A term nothing is left of (no text, no known label) is 0 and has zero gradients. Deterministic on the CPU.
/// Throws kInvalidArgument or kMismatch for shapes, dtypes and label values, kNumeric naming the row whose embedding
/// is not finite or, when normalising, is zero.
HybridLossOutput hybrid_contrastive_loss(const at::Tensor& image, const at::Tensor& text,
                                         const at::Tensor& class_prompts, const at::Tensor& labels,
                                         const at::Tensor& label_mask, const at::Tensor& text_mask,
                                         const HybridLossOptions& options, const at::Tensor& logit_scale = {});

/// Probability of every finding, [B, K] in [0, 1], from image [B, D] and prompts as above; what the class term trains.
/// Errors as hybrid_contrastive_loss.
at::Tensor class_probabilities(const at::Tensor& image, const at::Tensor& class_prompts,
                               const HybridLossOptions& options, const at::Tensor& logit_scale = {});

/// hybrid_contrastive_loss with its options bound and checked once.
class HybridContrastiveLoss {
 public:
  explicit HybridContrastiveLoss(const HybridLossOptions& options = {}) : options_(options) { options_.validate(); }

  /// See hybrid_contrastive_loss.
  HybridLossOutput operator()(const at::Tensor& image, const at::Tensor& text, const at::Tensor& class_prompts,
                              const at::Tensor& labels, const at::Tensor& label_mask = {},
                              const at::Tensor& text_mask = {}, const at::Tensor& logit_scale = {}) const {
    return hybrid_contrastive_loss(image, text, class_prompts, labels, label_mask, text_mask, options_, logit_scale);
  }

  /// See class_probabilities.
  at::Tensor probabilities(const at::Tensor& image, const at::Tensor& class_prompts,
                           const at::Tensor& logit_scale = {}) const {
    return class_probabilities(image, class_prompts, options_, logit_scale);
  }

  const HybridLossOptions& options() const noexcept { return options_; }

 private:
  HybridLossOptions options_;
};

}  // namespace daug
