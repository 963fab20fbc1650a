#include <ATen/ATen.h>

#include <limits>

#include "loss/contrastive.h"

namespace daug::detail {
namespace {

/// True at [i, j] when items i and j are of one group.
at::Tensor same_group(const at::Tensor& groups) { return groups.unsqueeze(0) == groups.unsqueeze(1); }

/// a_ij of the items, or undefined when each attracts its own pair alone.
at::Tensor attraction(const PairRules& rules, const at::Tensor& image) {
  if (!rules.states.defined())
    return rules.positive.defined() ? same_group(rules.positive).to(image.scalar_type()) : at::Tensor();
  const at::Tensor soft = ((rules.states.matmul(rules.states.t()) - 1) / rules.softness).exp().clamp_max(1);
  const at::Tensor one = at::ones_like(soft);
  const at::Tensor firm =
      rules.positive.defined() ? same_group(rules.positive) : at::eye(soft.size(0), soft.options()).to(at::kBool);
  return at::where(firm, one, soft);
}

/// Mean over rows of the cross-entropy of softmax(scores) against the attraction divided by its sum.
at::Tensor cross_entropy(const at::Tensor& scores, const at::Tensor& attracted, const at::Tensor& ignored) {
  at::Tensor logs = at::log_softmax(scores, 1);
  if (ignored.defined()) logs = logs.masked_fill(ignored, 0);
  return -(attracted / attracted.sum(1, /*keepdim=*/true) * logs).sum(1).mean();
}

}  // namespace

at::Tensor reference_contrastive(const at::Tensor& image, const at::Tensor& text, const at::Tensor& tau,
                                 const at::Tensor& bias, const PairRules& given, ContrastiveForm form) {
  const PairRules rules = given.on(image.device());
  at::Tensor attracted = attraction(rules, image), ignored;
  if (rules.ignored.defined()) {
    ignored = same_group(rules.ignored).fill_diagonal_(false);
    if (attracted.defined()) ignored = ignored & (attracted == 0);
  }
  at::Tensor scores = tau * text.matmul(image.t());
  if (form == ContrastiveForm::kSigmoid) {
    if (!attracted.defined()) attracted = at::eye(image.size(0), image.options());
    const at::Tensor logits = scores + bias;
    at::Tensor terms = attracted * at::log_sigmoid(logits) + (1 - attracted) * at::log_sigmoid(-logits);
    if (ignored.defined()) terms = terms.masked_fill(ignored, 0);
    return -terms.sum() / image.size(0);
  }
  if (ignored.defined()) scores = scores.masked_fill(ignored, -std::numeric_limits<double>::infinity());
  if (attracted.defined())
    return (cross_entropy(scores, attracted, ignored) + cross_entropy(scores.t(), attracted.t(), ignored)) / 2;
  const at::Tensor diagonal = at::arange(image.size(0), image.options().dtype(at::kLong));
  return (at::cross_entropy_loss(scores, diagonal) + at::cross_entropy_loss(scores.t(), diagonal)) / 2;
}

}  // namespace daug::detail
