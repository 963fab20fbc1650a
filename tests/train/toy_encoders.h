#pragma once
// A toy cohort that encoders learn in seconds, and how they are compared.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <map>
#include <string>
#include <vector>

#include "daug/train/encoder_trainer.h"
#include "support/tensor.h"
#include "translator/toys.h"

namespace daug::test {

/// Sixteen-pixel images of noise with a bright square in one of two corners for each of two findings; each report is
/// one word that says which. Maps show noise and the square of the second finding only.
struct ToyCohort {
  explicit ToyCohort(std::int64_t count = 24) {
    EncoderDataset& d = dataset;
    d.images = 0.3 * random_tensor({count, 1, 16, 16}, 1).to(at::kFloat);
    d.maps = 0.1 * random_tensor({count, 2, 16, 16}, 2).to(at::kFloat);
    d.labels = at::zeros({count, 2});
    d.label_mask = at::ones({count, 2});
    d.text_mask = at::ones({count});
    d.text.ids = at::zeros({count, 3}, at::kLong);
    d.text.end = at::full({count}, 2, at::kLong);
    for (std::int64_t i = 0; i < count; ++i) {
      const bool first = i % 2, second = i / 2 % 2;
      if (first) d.images[i][0].slice(0, 0, 5).slice(1, 0, 5).add_(1);
      if (second) d.images[i][0].slice(0, 11, 16).slice(1, 11, 16).add_(1);
      if (second) d.maps[i][1].slice(0, 11, 16).slice(1, 11, 16).add_(1);
      d.labels[i][0] = first ? 1 : 0;
      d.labels[i][1] = second ? 1 : 0;
      d.text.ids[i].copy_(at::tensor(std::vector<std::int64_t>{1, 3 + i % 4, 2}));
    }
    d.prompts.ids = at::tensor(std::vector<std::int64_t>{1, 7, 2, 1, 8, 2}).reshape({2, 3});
    d.prompts.end = at::full({2}, 2, at::kLong);
  }
  EncoderDataset dataset;
};

inline EncoderTrainerOptions small(ChannelMode mode, std::int64_t epochs = 12) {
  EncoderTrainerOptions options;
  options.image.image_size = 16;
  options.image.embed_dim = options.text.embed_dim = 16;
  options.image.conv.base_width = 8;
  options.text.vocab_size = 9;
  options.text.context_length = 3;
  options.text.width = 16;
  options.text.heads = 2;
  options.text.depth = 1;
  options.loss.logit_scale = 2.3;
  options.augment.mode = mode;
  options.epochs = epochs;
  options.batch_size = 8;
  options.optimizer.learning_rate = 3e-3;
  options.optimizer.warmup_steps = 2;
  return options;
}

/// Parameters and buffers.
inline std::map<std::string, at::Tensor> weights_of(const EncoderPair& pair) {
  std::map<std::string, at::Tensor> weights;
  const auto module = pair.as_module();
  for (const auto& item : module->named_parameters()) weights[item.key()] = item.value().detach().clone();
  for (const auto& item : module->named_buffers()) weights[item.key()] = item.value().detach().clone();
  return weights;
}

inline bool same_weights(const EncoderPair& a, const EncoderPair& b) {
  const auto left = weights_of(a), right = weights_of(b);
  if (left.size() != right.size()) return false;
  for (const auto& [name, value] : left)
    if (!right.count(name) || !same_bits(value, right.at(name))) return false;
  return true;
}

/// Macro AUROC of scores [N, F] by its definition: every positive against every negative, a tie counting half.
inline double macro_auroc(const at::Tensor& scores, const at::Tensor& labels) {
  const std::int64_t findings = labels.size(1);
  double macro = 0;
  for (std::int64_t f = 0; f < findings; ++f) {
    const at::Tensor present = scores.select(1, f).masked_select(labels.select(1, f) > 0.5);
    const at::Tensor absent = scores.select(1, f).masked_select(labels.select(1, f) < 0.5);
    const at::Tensor pairs = present.unsqueeze(1) - absent.unsqueeze(0);
    macro += (pairs.gt(0).to(at::kDouble) + 0.5 * pairs.eq(0).to(at::kDouble)).mean().item<double>();
  }
  return macro / static_cast<double>(findings);
}

}  // namespace daug::test
