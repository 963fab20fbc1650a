#include "daug/translator/self_test.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "daug/core/error.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/finite_check.h"
#include "item_noise_like.h"

namespace daug {

namespace {

/// Welch's t of two samples.
double separation_of(const at::Tensor& with, const at::Tensor& without) {
  if (with.numel() < 2 || without.numel() < 2) return std::numeric_limits<double>::quiet_NaN();
  const auto error = [](const at::Tensor& sample) {
    return sample.var().item<double>() / static_cast<double>(sample.numel());
  };
  // Two constant samples that differ are infinitely far apart; two equal ones are not apart at all.
  const double difference = with.mean().item<double>() - without.mean().item<double>();
  return difference == 0 ? 0 : difference / std::sqrt(error(with) + error(without));
}

PolarityTest judged(const at::Tensor& scores, const at::Tensor& states, const std::vector<std::string>& findings) {
  constexpr double kDecided = 2;
  PolarityTest result;
  for (std::size_t f = 0; f < findings.size(); ++f) {
    const auto column = static_cast<std::int64_t>(f);
    const at::Tensor score = scores.select(1, column), state = states.select(1, column);
    const double t = separation_of(score.index({state > 0}), score.index({state < 0}));
    result.separation.push_back(t);
    if (t < -kDecided)
      result.swapped.push_back(findings[f]);
    else if (!(t > kDecided))
      result.undecided.push_back(findings[f]);
  }
  return result;
}

}  // namespace

SelfTest DiffusionTranslator::self_test(const LabelledBatch& batch, const RunControl& control) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::self_test";
  const at::Tensor& x = batch.x;
  require_images(*predictor_, x, kFunction);
  if (classifier_) require_guidable(*classifier_, x, kFunction);
  const auto findings = static_cast<std::int64_t>(findings_.size());
  const bool labelled = batch.states.defined();
  require(labelled && batch.states.sizes() == at::IntArrayRef({x.size(0), findings}), kFunction, "states",
          detail::concat("shape [", x.size(0), ", ", findings, "]"),
          labelled ? batch.states.sizes() : at::IntArrayRef{});
  require_states(batch.states, kFunction, "states");
  require(static_cast<std::int64_t>(batch.items.size()) == x.size(0), kFunction, "items", x.size(0),
          batch.items.size());
  const bool conditional = options_.guidance.kind != GuidanceKind::kClassifier;
  at::Tensor presence, absence;  // of each finding alone
  if (conditional) {
    const at::Tensor alone = at::eye(findings, x.options());
    presence = predictor_->prepared(alone), absence = predictor_->prepared(-alone);
  }
  const at::Tensor of_denoiser = at::zeros({x.size(0), findings}, x.options().dtype(at::kDouble));
  const at::Tensor of_classifier = at::zeros_like(of_denoiser);
  FiniteCheck finite(kFunction);  // no number is as little evidence as no label, and would pass for it
  const auto score = [&](std::int64_t level, const at::Tensor& noise) {
    const at::Tensor noisy = noised(schedule_, x, noise, level);
    const at::Tensor from_mean = schedule_.signal(level) * (x - x.mean(0, true));
    for (std::int64_t f = 0; f < findings; ++f) {
      control.stop.throw_if_stopped(kFunction);
      const std::string where = detail::concat("level ", level, ", finding ", findings_[static_cast<std::size_t>(f)]);
      if (conditional) {
        const auto error = [&](const at::Tensor& states) {
          const at::Tensor state = states.defined() ? states.narrow(0, f, 1).repeat_interleave(x.size(0), 0) : states;
          return (predict(noisy, level, state) - noise).square().mean({1, 2, 3});
        };
        of_denoiser.select(1, f).add_(error(absence) - error(presence));
        finite.see(of_denoiser.select(1, f), "denoiser, " + where);
      }
      if (!classifier_) continue;
      at::Tensor present = at::zeros({x.size(0), findings}, x.options());
      present.select(1, f).fill_(1);
      // Gradients of the log-odds along the line from the batch's mean image add up to how far the log-odds rise, so
      // that it is the gradients that are judged; by Gauss's rule with two points.
      for (const double part : {0.5 - std::sqrt(1.0 / 12), 0.5 + std::sqrt(1.0 / 12)}) {
        const at::Tensor point = noisy - part * from_mean;
        const at::Tensor slope = gradients(point, level, present) - gradients(point, level, -present);
        of_classifier.select(1, f).add_((slope * from_mean).sum({1, 2, 3}));
      }
      finite.see(of_classifier.select(1, f), "classifier, " + where);
    }
  };
  // Where the walk is a quarter, half and three quarters done.
  for (const std::size_t quarter : {1U, 2U, 3U}) {
    const std::int64_t level = path_[(quarter * (path_.size() - 1) + 3) / 4];
    const at::Tensor noise = detail::item_noise_like(x, batch.items, 0, detail::concat("self test/", level));
    score(level, noise);
    score(level, -noise);  // what is linear in the noise cancels
  }
  finite.settle();
  SelfTest result;
  if (conditional) result.denoiser = judged(of_denoiser, batch.states, findings_);
  if (classifier_) result.classifier = judged(of_classifier, batch.states, findings_);
  return result;
}

}  // namespace daug
