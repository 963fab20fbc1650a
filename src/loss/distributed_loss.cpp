#include "daug/loss/distributed_loss.h"

#include <ATen/ATen.h>

#include <exception>

#include "daug/core/error.h"
#include "loss/contrastive.h"
#include "loss/loss_inputs.h"
#include "loss/ring.h"

namespace daug {
namespace {

using namespace detail;

/// What one rank brings, checked.
struct Share {
  Embeddings image, text;  ///< items with a report
  bool bfloat16 = false;   ///< those are multiplied, and images travel, as such
  at::Tensor tau, bias;
  ExchangedItems items;       ///< those; with labels where pairs depend on them, `known` then always defined
  std::int64_t findings = 0;  ///< of the labels, where a term reads them
  at::Tensor class_sum;       ///< sum over this rank's known labels
  double known = 0;           ///< their number
};

Share read_share(const HybridLossInputs& given, const HybridLossOptions& options) {
  require_image(given.image);
  const HybridLossInputs local = widened(given);
  const double w = options.clip_weight;
  Share share;
  share.bfloat16 = w > 0 && multiplies_bfloat16(given.image, given.text, options.execution);
  share.tau = temperature(local.logit_scale, local.image, options);
  // All rows are looked at before some are selected, so that errors give a row its number among the caller's.
  const Embeddings image =
      read_embeddings(local.image, "image", options.normalise, {}, /*checks=*/nullptr, share.bfloat16);
  const bool pairs_by_labels = options.label_pairs != LabelPairs::kNegatives;
  Targets targets;
  if (w < 1 || pairs_by_labels) {
    targets = read_targets(local, options);
    if (!targets.known.defined()) targets.known = at::ones_like(targets.labels, at::kBool);
    share.findings = targets.labels.size(1);
  }
  if (w > 0) {
    require_like_image(local.text, local.image.size(0), "text", local.image);
    require_study(local.study, local.image, options);
    share.bias = finite_scalar(local.logit_bias, options.logit_bias, "logit_bias", local.image);
    share.items = exchanged_items(local, pairs_by_labels ? targets : Targets());
    const at::Tensor& index = share.items.index;
    const auto select = [&](const at::Tensor& of_all) {
      return of_all.defined() && index.defined() ? of_all.index_select(0, index) : of_all;
    };
    const auto with_text = [&](const Embeddings& all) {
      return Embeddings{select(all.rows), select(all.scale), select(all.inverse_norm)};
    };
    share.image = with_text(image);
    share.text =
        with_text(read_embeddings(local.text, "text", options.normalise, index, /*checks=*/nullptr, share.bfloat16));
  }
  if (w < 1) {
    const at::Tensor directions = class_directions(local.class_prompts, local.image, options);
    if (!options.normalise) require_finite_scores(local.image, directions, "class_prompts", share.tau);
    const at::Tensor logits = class_logits(tiled_products(image, directions, share.tau), local.class_bias, options);
    share.class_sum = class_loss(logits, targets, local.positive_weights, /*sum=*/true);
    share.known = targets.known.sum().item<double>();
  }
  return share;
}

/// A number for the type that embeddings came in and the one that images travel in.
std::int64_t type_of(const Share& share, const HybridLossInputs& local) {
  return 2 * static_cast<std::int64_t>(local.image.scalar_type()) + (share.bfloat16 ? 1 : 0);
}

/// Rows [n, ...] of all ranks in their order.
at::Tensor gather_rows(const at::Tensor& mine, const GlobalBatch& batch) {
  std::vector<at::Tensor> blocks(static_cast<std::size_t>(batch.size()));
  at::Tensor block = mine.contiguous();
  for (std::int64_t step = 0, home = batch.rank(); step < batch.size(); ++step) {
    blocks[GlobalBatch::index(home)] = block;
    home = batch.before(home);
    if (step + 1 < batch.size()) block = batch.ring->pass_on({block}, batch.count(home))[0];
  }
  return at::cat(blocks);
}

PairRules global_rules(const ExchangedItems& mine, const HybridLossOptions& options, const GlobalBatch& batch) {
  Targets targets;
  if (options.label_pairs != LabelPairs::kNegatives)
    targets = {gather_rows(mine.targets.labels, batch),
               gather_rows(mine.targets.known.to(at::kByte), batch).to(at::kBool)};
  const at::Tensor study = mine.study.defined() ? gather_rows(mine.study.to(at::kLong), batch) : mine.study;
  return pair_rules(study, targets, options);
}

}  // namespace

HybridLossOutput distributed_contrastive_loss(const HybridLossInputs& local, const HybridLossOptions& options,
                                              c10d::ProcessGroup& group, GradientReduction reduction) {
  options.validate();
  const auto ring = ring_of(group);
  const auto ranks = ring->size(), rank = ring->rank();
  Share share;
  std::exception_ptr refused;
  try {
    share = read_share(local, options);
  } catch (...) {
    refused = std::current_exception();
  }
  // Every rank learns of every other's items before any waits for a block: an error here is an error everywhere.
  enum Column { kItems, kWidth, kFindings, kType, kDevice, kStudies, kRefused, kColumns };
  const auto columns = static_cast<std::int64_t>(kColumns);
  const at::Tensor table = at::zeros({ranks, columns}, at::kLong);
  const std::vector<std::int64_t> mine = {share.image.rows.defined() ? share.image.rows.size(0) : 0,
                                          refused ? 0 : local.image.size(1),
                                          share.findings,
                                          refused ? 0 : type_of(share, local),
                                          refused ? 0 : static_cast<std::int64_t>(local.image.device().type()),
                                          share.items.study.defined() ? 1 : 0,
                                          refused ? 1 : 0};
  table[rank].copy_(at::tensor(mine, at::kLong));
  ring->add_up_numbers(table, local.image.defined() ? local.image.device() : at::Device(at::kCPU));
  if (refused) std::rethrow_exception(refused);
  const auto entry = [&](std::int64_t of, Column column) {
    return table.const_data_ptr<std::int64_t>()[of * columns + static_cast<std::int64_t>(column)];
  };
  GlobalBatch batch;
  batch.ring = ring;
  batch.first = {0};
  for (std::int64_t of = 0; of < ranks; ++of) {
    if (entry(of, kRefused))
      fail(ErrorCode::kMismatch, kLossFunction, concat("rank ", of), "items that pass its checks", "an error there");
    for (const Column column : {kWidth, kFindings, kType, kDevice, kStudies})
      if (entry(of, column) != entry(0, column))
        fail(ErrorCode::kMismatch, kLossFunction, concat("rank ", of),
             "embeddings, labels and studies in the shapes, dtype and kind of device of rank 0", "others");
    batch.first.push_back(batch.first.back() + entry(of, kItems));
  }
  const double w = options.clip_weight;
  if (w > 0 && !options.normalise) {
    // The reports of a rank meet the images of every other.
    const at::Tensor longest = at::zeros({ranks, 2}, local.image.options().dtype(at::kDouble));
    longest[rank][0].fill_(longest_row(share.image.rows));
    longest[rank][1].fill_(longest_row(share.text.rows));
    ring->add_up(longest);
    require_finite_scores(longest.select(1, 0).max().item<double>(), longest.select(1, 1).max().item<double>(), "text",
                          share.tau);
  }
  const bool mean = reduction == GradientReduction::kMean;
  batch.embedding_scale = mean ? static_cast<double>(ranks) : 1;
  batch.shared_scale = mean ? 1 : 1 / static_cast<double>(ranks);

  HybridLossOutput output;
  if (w > 0) {
    output.clip = batch.first.back() == 0
                      ? share.image.rows.sum() + share.text.rows.sum()  // no pair: 0, still differentiable
                      : tiled_contrastive(share.image, share.text, {}, share.tau, share.bias,
                                          global_rules(share.items, options, batch), options.contrastive_form,
                                          options.execution, &batch, share.bfloat16);
  }
  if (w < 1) {
    const at::Tensor sums = at::zeros({2}, local.image.options().dtype(at::kDouble));
    sums[0].copy_(share.class_sum.detach());
    sums[1].fill_(share.known);
    ring->add_up(sums);
    const at::Tensor known = sums[1].clamp_min(1);
    const at::Tensor differentiable = share.class_sum * (batch.embedding_scale / known.item<double>());
    output.class_term = differentiable + ((sums[0] / known).to(differentiable.scalar_type()) - differentiable.detach());
  }
  output.total = !output.class_term.defined() ? output.clip
                 : !output.clip.defined()     ? output.class_term
                                              : w * output.clip + (1 - w) * output.class_term;
  return output;
}

}  // namespace daug
