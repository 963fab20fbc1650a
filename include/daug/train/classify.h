#pragma once
/// @file
/// Classification with trained encoders: from prompts alone, and by a linear probe on embeddings.

#include <cstdint>
#include <vector>

#include "daug/data/baselines.h"
#include "daug/encoder/prompts.h"
#include "daug/encoder/text_encoder.h"
#include "daug/encoder/tokenizer.h"
#include "daug/loss/hybrid_contrastive_loss.h"

namespace daug {

/// Classes for class_probabilities from prompts in several wordings (prompt ensemble; arXiv 2103.00020, section 3.1.4):
/// the mean over the wordings of each one's embedding at unit length, at unit length again. [K, D] for ClassForm::kBce,
/// of the positive prompts; [2K, D] for kPaired, negative and positive alternating. Without gradients;
/// on the CPU, wherever the encoder is.
///
/// `context_length` is the longest prompt in tokens, start and end included, in [2, the encoder's]. Throws
/// kInvalidArgument for no wordings or wordings of different classes, kNumeric naming the class by its first positive
/// prompt when a prompt's embedding is zero or not finite or the wordings' embeddings cancel each other, and as
/// require_vocabulary.
at::Tensor embed_class_prompts(const TextEncoder& text, const Tokenizer& tokenizer,
                               const std::vector<ClassPrompts>& wordings, ClassForm form, std::int64_t context_length);

/// Logistic regressions on embeddings: what an encoder's features are worth by themselves. Embeddings are brought to
/// unit length and standardised by the training rows' means and deviations; then one regression a class with an L2
/// penalty (fit_logistic), which has one solution. Deterministic.
class LinearProbe {
 public:
  /// Fits to embeddings [N, D], N >= 2, labels [N, K] in {0, 1} and label_mask [N, K] >= 0, the weight of each label
  /// (0: unknown). A class of which one label alone is known gets its frequency. `l2` > 0 is the penalty. Throws
  /// kInvalidArgument naming the argument: other shapes, values that are not finite, a zero embedding, other labels.
  static LinearProbe fit(const at::Tensor& embeddings, const at::Tensor& labels, const at::Tensor& label_mask,
                         double l2 = 1);

  /// Probabilities [N, K] of embeddings [N, D], float64. Throws as fit.
  at::Tensor predict(const at::Tensor& embeddings) const;

 private:
  Eigen::RowVectorXd mean_, deviation_;
  LogisticModel model_;
};

}  // namespace daug
