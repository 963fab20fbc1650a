#pragma once
// Reading and checking what the hybrid loss is computed from; shared by its forms. With `checks` no number of a device
// is looked at: what is found of embeddings and parameters is noted there.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <string>

#include "daug/loss/deferred_checks.h"
#include "daug/loss/hybrid_contrastive_loss.h"

namespace daug::detail {

/// What error messages name.
inline constexpr const char* kLossFunction = "daug::hybrid_contrastive_loss";

/// Throws kInvalidArgument for an undefined tensor, kMismatch for another one, unless `condition`.
void require_tensor(bool condition, const char* argument, const std::string& expected, const at::Tensor& actual);
void require_image(const at::Tensor& image);
void require_like_image(const at::Tensor& other, std::int64_t rows, const char* argument, const at::Tensor& image);
/// text_mask as the numbers of the items with a report, int64 [n] where the mask is; undefined: all have one.
at::Tensor items_with_text(const at::Tensor& text_mask, const at::Tensor& image);

/// Embeddings of 16 bits as float32, others as they are: neither their squares nor their scores fit into 16 bits.
at::Tensor widened(const at::Tensor& embeddings);
/// The same of images, reports and prompts.
HybridLossInputs widened(HybridLossInputs inputs);

/// Embeddings [N, D] whose unit rows are rows / scale * inverse_norm.
struct Embeddings {
  at::Tensor rows;
  at::Tensor scale;         ///< [N] without gradient; undefined: 1. Beside one, gradients of rows are those of
                            ///< rows / scale, which a hook divides by it
  at::Tensor inverse_norm;  ///< [N] without gradient; undefined: the rows are used as they are
};

/// Embeddings checked row by row and divided by their norm when asked, differentiable. `index` has the numbers that
/// errors give the rows (undefined: their places). Gradients of rows so short that theirs are no numbers of the type
/// are held at half of the largest.
at::Tensor embed(const at::Tensor& vectors, const char* argument, bool normalise, const at::Tensor& index = {},
                 DeferredChecks* checks = nullptr);
/// The same, undivided and not copied: rows of extreme norms have their largest number as scale, all others 1; there is
/// none where the norms are known to allow it. `index` names the rows that are used (undefined: all); the others may
/// hold anything, and their inverse norm does. With `exact` a scale is the power of two below that number: numbers of
/// bfloat16 divided by it are such numbers, but for those that are nothing beside it.
Embeddings read_embeddings(const at::Tensor& vectors, const char* argument, bool normalise, const at::Tensor& index,
                           DeferredChecks* checks = nullptr, bool exact = false);
/// At least the norm of every row [n, D], 0 without rows; finite for float32 vectors whose norms are not in float32.
double longest_row(const at::Tensor& rows);
/// Throws kNumeric when scores of embeddings that are not normalised, of norms up to these, could overflow.
void require_finite_scores(double longest_image, double longest_other, const char* argument, const at::Tensor& tau);
/// The same of images and others themselves.
void require_finite_scores(const at::Tensor& image, const at::Tensor& other, const char* argument,
                           const at::Tensor& tau, DeferredChecks* checks = nullptr);

/// tau, a scalar like image; differentiable when it comes from a tensor. Clamped as the options say.
at::Tensor temperature(const at::Tensor& logit_scale, const at::Tensor& image, const HybridLossOptions& options,
                       DeferredChecks* checks = nullptr);
/// One number like image: `given`, or `otherwise` when undefined, which stays on the CPU. Throws kNumeric unless sums
/// of it stay finite.
at::Tensor finite_scalar(const at::Tensor& given, double otherwise, const char* argument, const at::Tensor& image,
                         DeferredChecks* checks = nullptr);

/// Labels as numbers like image with the unknown ones set to 0, and which are known (undefined: all). They stay where
/// the labels are, and are looked at there.
struct Targets {
  at::Tensor labels;
  at::Tensor known;
};
Targets read_targets(const HybridLossInputs& inputs, const HybridLossOptions& options);

/// What ranks exchange of their n items with a report beside embeddings, on the embeddings' device, and their numbers.
struct ExchangedItems {
  at::Tensor index;  ///< [n] int64; undefined: all have a report
  at::Tensor study;  ///< [n] integers, or undefined
  Targets targets;   ///< [n, K], or empty
};
/// Of a rank's inputs, with `targets` as read_targets returned them, or empty. What lies on the CPU is looked at there.
ExchangedItems exchanged_items(const HybridLossInputs& local, const Targets& targets);

/// Which pairs attract each other and which are left out; all undefined: an item attracts its own pair alone.
struct PairRules {
  at::Tensor positive;  ///< [n] int64: items of one group attract
  at::Tensor ignored;   ///< [n] int64: pairs of one group leave the sums unless they attract; not with states
  at::Tensor states;    ///< [n, F] like the embeddings, without gradient: unit rows whose products s are the agreement
                        ///< of labels; pairs of no group attract by exp((s - 1) / softness), 1 at most
  double softness = 1;

  PairRules select(const at::Tensor& index) const;
  PairRules on(const c10::Device& device) const;
};
/// `labels` may be empty when no rule asks for them.
PairRules pair_rules(const at::Tensor& study, const Targets& targets, const HybridLossOptions& options);
void require_study(const at::Tensor& study, const at::Tensor& image, const HybridLossOptions& options);

/// Prompts [K, D] as directions that the log-odds are products with: unit vectors, or differences of two.
at::Tensor class_directions(const at::Tensor& prompts, const at::Tensor& image, const HybridLossOptions& options,
                            DeferredChecks* checks = nullptr);
/// Log-odds [B, K] from products tau v.c [B, K] of what class_directions returned. Throws kNumeric for a bias whose
/// sums could overflow.
at::Tensor class_logits(const at::Tensor& products, const at::Tensor& class_bias, const HybridLossOptions& options,
                        DeferredChecks* checks = nullptr);
/// Mean over known labels, or with `sum` their sum. Throws kNumeric for weights so large that it could overflow; they
/// are looked at where they are.
at::Tensor class_loss(const at::Tensor& logits, const Targets& targets, const at::Tensor& positive_weights, bool sum,
                      DeferredChecks* checks = nullptr);

}  // namespace daug::detail
