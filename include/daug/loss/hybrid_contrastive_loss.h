#pragma once
/// @file
/// The hybrid loss of arXiv 2412.04828: images are pulled towards their reports and towards the prompts of their
/// findings. Two forms with the same results up to rounding: a reference in ATen operations, and one in tiles for large
/// batches, in which no matrix of B x B exists.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>

#include "daug/core/execution.h"

namespace daug {

class DeferredChecks;

/// How image embeddings and class prompts become a probability per finding.
enum class ClassForm {
  kBce,     ///< one prompt a finding, p = sigmoid(tau v.c + bias)
  kPaired,  ///< a negative and a positive prompt a finding, p = softmax(tau v.c-, tau v.c+) of the positive one
};

/// How the scores of all pairs become L_clip.
enum class ContrastiveForm {
  kSoftmax,  ///< cross-entropy over rows and columns (arXiv 2103.00020), as published
  kSigmoid,  ///< binary cross-entropy of every pair (SigLIP, arXiv 2303.15343)
};

/// What a report and the image of another item are to each other when both items have the same labels: the same
/// findings are known, with the same values.
enum class LabelPairs {
  kNegatives,  ///< they repel, as published
  kIgnored,    ///< they leave the sums
  kPositives,  ///< they attract as the item's own pair does
  kSoft,       ///< every two items attract by how much their labels agree, see label_softness
};

/// What a label of -1, uncertain, means.
enum class UncertainLabels {
  kRefused,   ///< an error, as any label outside [0, 1]
  kMasked,    ///< unknown
  kSmoothed,  ///< a target of uncertain_target (after arXiv 1911.06475, which draws it from [0.55, 0.85])
};

/// Settings of hybrid_contrastive_loss. Defaults are the published classification setting.
struct HybridLossOptions {
  /// w, weight of the contrastive term, in [0, 1]; the class term weighs 1 - w. A term of weight 0 is not computed.
  double clip_weight = 0.7;
  /// Layout of the class prompts.
  ClassForm class_form = ClassForm::kBce;
  /// ln tau of both terms, in [-10, 10]; HybridLossInputs::logit_scale takes its place.
  double logit_scale = 4.602;
  /// Least ln tau, in [-46, 46]: a smaller one counts as this, without gradient (see clamp_logit_scale); -infinity:
  /// none.
  double min_logit_scale = -std::numeric_limits<double>::infinity();
  /// Largest ln tau, the same way; CLIP's is ln 100 = 4.6052; infinity: none.
  double max_logit_scale = std::numeric_limits<double>::infinity();
  /// Added to the kBce logits, 0 with kPaired. The published loss has none (0), so an untrained cosine of 0.05 already
  /// means p = 0.993. HybridLossInputs::class_bias takes its place.
  double class_bias = 0;
  /// Embeddings and prompts are divided by their L2 norm first; off, they are taken as they come.
  bool normalise = true;
  /// Form of the contrastive term.
  ContrastiveForm contrastive_form = ContrastiveForm::kSoftmax;
  /// b of ContrastiveForm::kSigmoid, finite (SigLIP starts at -10); HybridLossInputs::logit_bias takes its place.
  double logit_bias = -10;
  /// Pairs of items with the same labels; all but kNegatives need labels.
  LabelPairs label_pairs = LabelPairs::kNegatives;
  /// Temperature of LabelPairs::kSoft, in [0.001, 1000]; near 0 it is kPositives.
  double label_softness = 0.1;
  /// Labels of -1.
  UncertainLabels uncertain = UncertainLabels::kRefused;
  /// Target of uncertain labels with UncertainLabels::kSmoothed, in [0, 1].
  double uncertain_target = 0.7;
  /// kAuto: tiles for float32 and float64 where matrices of B x B (6; 10 with studies or label_pairs; 14 of kSigmoid)
  /// would take more memory than the tiled form may: on the CPU from 837, 648 and 548 items of float32 on, by speed
  /// always from 1024 on, and where 4 B D numbers are more than 16 MB; on a device from 2542, 1938 and 1624 items of
  /// width 512 on. The reference below and elsewhere.
  /// kFused: always tiles, of float32 on a CUDA device by the kernels of a build for CUDA, which kAuto takes only after
  /// a recorded run. Tiles can be differentiated once; a backward pass with create_graph throws kUnsupported.
  Execution execution = Execution::kAuto;

  /// Throws kInvalidArgument naming the option that is out of range.
  void validate() const;
};

/// What the loss is computed from: B items, K findings, D dimensions. Undefined tensors are absent. Embeddings and
/// scalars lie on one device. Labels, masks, studies and positive_weights may lie on the CPU instead, all of them,
/// where looking at them waits for no device.
struct HybridLossInputs {
  at::Tensor image;          ///< [B, D] embeddings, one an item; B >= 1
  at::Tensor text;           ///< [B, D] report embeddings; not read when w = 0
  at::Tensor class_prompts;  ///< [K, D] (kBce) or [2K, D] (kPaired: negative and positive alternating); not when w = 1
  at::Tensor labels;         ///< [B, K] targets in [0, 1] (-1: see uncertain), any dtype; where a term needs them
  at::Tensor
      label_mask;  ///< [B, K], bool or 0/1: 0 marks an unknown label, whose value is never read; absent: all known
  at::Tensor text_mask;  ///< [B], bool or 0/1: 0 marks an item without a report, whose text row is never read and
                         ///< which leaves rows and columns of S; absent: all have one
  at::Tensor study;      ///< [B] integers: items of one study attract each other as an item's own pair does; not with
                         ///< LabelPairs::kPositives
  at::Tensor positive_weights;  ///< [K], finite, >= 0: weight of positive targets of each finding; absent: 1
  at::Tensor class_bias;        ///< [K] or one number, kBce alone: a bias of each finding, e.g. a parameter
  at::Tensor logit_scale;       ///< one number in place of the option, e.g. a parameter
  at::Tensor logit_bias;        ///< the same for kSigmoid; kSoftmax has no use for it
};

/// Scalars of the embeddings' dtype, float32 for those of 16 bits. A term of weight 0 stays undefined.
struct HybridLossOutput {
  at::Tensor total;       ///< w clip + (1 - w) class
  at::Tensor clip;        ///< L_clip >= 0
  at::Tensor class_term;  ///< L_class >= 0
};

/// The hybrid loss (arXiv 2412.04828, training objective). With S = tau T V^T over the n items that have a report,
/// a_ij in [0, 1] what report i and image j attract each other by, and `left` the pairs that are left in:
///
///     L = w L_clip + (1 - w) L_class
///     kSoftmax: L_clip = (R(S, a) + R(S^T, a^T)) / 2
///               R(S, a) = 1/n sum_i [log sum_{j left} exp S_ij - sum_j a_ij S_ij / sum_j a_ij]
///     kSigmoid: L_clip = -1/n sum_{ij left} [a_ij log s(S_ij + b) + (1 - a_ij) log s(-S_ij - b)],   s the sigmoid
///     L_class = mean over known labels of the binary cross-entropy of p_ik against labels_ik   (see ClassForm), the
///               part of the positive target multiplied by positive_weights_k
///
/// - positive_weights: after CheXNet, arXiv 1711.05225, which weighs the negative part as well.
/// - As published, a = identity and all pairs are left: the cross-entropies against the diagonal (arXiv 2103.00020).
/// - study, LabelPairs::kPositives: a_ij = 1 for items of one study, with the same labels (SupCon, arXiv 2004.11362,
///   L_out; UniCL, arXiv 2204.03610).
/// - LabelPairs::kIgnored: such pairs, i != j, leave the sums, unless they are of one study. (After the elimination of
///   false negatives, arXiv 2011.11765, which guesses them from embeddings.)
/// - LabelPairs::kSoft: a_ij = exp((s_ij - 1) / label_softness), s_ij the cosine of the items' label states (for every
///   finding: target, 1 - target, unknown), which for hard labels is the fraction of findings on which both agree; 1
///   within a study. Labels get no gradient through L_clip. (After MedCLIP, arXiv 2210.10163, whose targets are the
///   softmax of a cosine of labels.)
///
/// The two-way softmax cross-entropy of kPaired is computed as the equal binary cross-entropy of tau v.(c+ - c-).
///
/// A term nothing is left of (no text, no known label) is 0 and has zero gradients. Deterministic on the CPU; does not
/// depend on the order of items but for rounding. When normalising, any finite embedding but zero is accepted, however
/// large or small; a gradient, which grows as tau / length, is held at half of the largest number of float32 or float64
/// where it would exceed that. Those of 16 bits (float16, bfloat16) are computed with as float32, and their gradients
/// rounded once, which makes infinities of what the type does not have; but tiles on a device multiply bfloat16 as it
/// is, with float32 sums: the loss is the same, gradients are made of factors rounded to bfloat16 (not yet run on a
/// device). So that sums of 1e10 terms stay finite, logit_bias and class_bias are bounded by M, 1e-10 of the largest
/// number of that type (3.4e28 of float32), and positive_weights by M over the largest log-odds. Memory beside the
/// inputs, with kAuto on the CPU and in tiles, gradients included: at most 4 B D numbers + 16 MB, whatever the strides
/// and norms of rows (with label_pairs while 3 K <= D), in float64 + 8 tiles of 2^20 numbers instead, on devices
/// without kernels for it of 2^22 (128 MB of float32); 3 B D float32 more for 16 bits.
///
/// Throws kInvalidArgument or kMismatch for shapes, dtypes and label values, kUnsupported for what kFused cannot do,
/// kNumeric naming the row whose embedding is not finite or, when normalising, is zero, or the scalar or bias that
/// is not finite, or what lies beyond these bounds, or, when not normalising, embeddings so long that scores overflow.
/// kOutOfMemory for what does not fit, kDevice where the device failed; a backward pass ends with LibTorch's own
/// errors.
///
/// With `checks` the kNumeric errors of embeddings, prompts and parameters are noted there and thrown by its `settle`,
/// with the same argument and row; `total` is then not a number, so that a step that looks at it can be left out. No
/// number of a device is read, if what may lie on the CPU lies there. Values and gradients are the same but for
/// rounding. Not yet run on a device.
HybridLossOutput hybrid_contrastive_loss(const HybridLossInputs& inputs, const HybridLossOptions& options,
                                         DeferredChecks* checks = nullptr);

/// The same with the published inputs in a row.
inline HybridLossOutput hybrid_contrastive_loss(const at::Tensor& image, const at::Tensor& text,
                                                const at::Tensor& class_prompts, const at::Tensor& labels,
                                                const at::Tensor& label_mask, const at::Tensor& text_mask,
                                                const HybridLossOptions& options, const at::Tensor& logit_scale = {}) {
  HybridLossInputs inputs;
  inputs.image = image;
  inputs.text = text;
  inputs.class_prompts = class_prompts;
  inputs.labels = labels;
  inputs.label_mask = label_mask;
  inputs.text_mask = text_mask;
  inputs.logit_scale = logit_scale;
  return hybrid_contrastive_loss(inputs, options);
}

/// Probability of every finding, [B, K] in [0, 1], from image [B, D] and prompts as above; what the class term trains.
/// Dtype and errors as hybrid_contrastive_loss.
at::Tensor class_probabilities(const at::Tensor& image, const at::Tensor& class_prompts,
                               const HybridLossOptions& options, const at::Tensor& logit_scale = {},
                               const at::Tensor& class_bias = {});

/// Holds a learnt ln tau in [min_logit_scale, max_logit_scale], in place and without gradient. To be called after every
/// step of the optimiser, as CLIP's training does: outside that range the loss gives the parameter no gradient.
void clamp_logit_scale(at::Tensor& logit_scale, const HybridLossOptions& options);

/// hybrid_contrastive_loss with its options bound and checked once.
class HybridContrastiveLoss {
 public:
  /// Throws what HybridLossOptions::validate throws.
  explicit HybridContrastiveLoss(const HybridLossOptions& options = {}) : options_(options) { options_.validate(); }

  /// See hybrid_contrastive_loss.
  HybridLossOutput operator()(const HybridLossInputs& inputs) const {
    return hybrid_contrastive_loss(inputs, options_);
  }
  /// The same with the published inputs in a row.
  HybridLossOutput operator()(const at::Tensor& image, const at::Tensor& text, const at::Tensor& class_prompts,
                              const at::Tensor& labels, const at::Tensor& label_mask = {},
                              const at::Tensor& text_mask = {}, const at::Tensor& logit_scale = {}) const {
    return hybrid_contrastive_loss(image, text, class_prompts, labels, label_mask, text_mask, options_, logit_scale);
  }

  /// See class_probabilities.
  at::Tensor probabilities(const at::Tensor& image, const at::Tensor& class_prompts, const at::Tensor& logit_scale = {},
                           const at::Tensor& class_bias = {}) const {
    return class_probabilities(image, class_prompts, options_, logit_scale, class_bias);
  }

  /// The options it was made with.
  const HybridLossOptions& options() const noexcept { return options_; }

 private:
  HybridLossOptions options_;
};

}  // namespace daug
