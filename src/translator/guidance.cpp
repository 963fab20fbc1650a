#include "daug/translator/guidance.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "daug/translator/noise_aware_classifier.h"

namespace daug {

namespace {

class SigmoidGuidance final : public GuidanceClassifier {
 public:
  SigmoidGuidance(NoiseAwareClassifier network, NoiseSchedule schedule)
      : network_(std::move(network)), schedule_(std::move(schedule)) {}

  at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    c10::InferenceMode inference_off(false);
    at::AutoGradMode gradients_on(true);
    const at::Tensor input = x.detach().clone().requires_grad_(true);
    const auto timesteps = at::full({x.size(0)}, schedule_.timestep(level), x.options().dtype(at::kLong));
    const at::Tensor logits = const_cast<NoiseAwareClassifier&>(network_)->forward(input, timesteps);
    // log p = log_sigmoid(z) for +1 and log(1 - p) = log_sigmoid(-z) for -1: one expression in the signed state.
    const at::Tensor state = condition.to(logits.scalar_type()).clone();
    const at::Tensor log_likelihood = (state.abs() * at::log_sigmoid(logits * state)).sum();
    return torch::autograd::grad({log_likelihood}, {input})[0];
  }

 private:
  NoiseAwareClassifier network_;
  NoiseSchedule schedule_;
};

}  // namespace

Target toward(std::string finding) { return {std::move(finding), true}; }
Target away_from(std::string finding) { return {std::move(finding), false}; }

std::vector<float> target_condition(const Target& target, const std::vector<std::string>& findings, bool opposite) {
  constexpr const char* kFunction = "daug::target_condition";
  const float state = target.toward != opposite ? 1.0F : -1.0F;
  if (target.finding == kNoFinding) return std::vector<float>(findings.size(), -state);
  const auto found = std::find(findings.begin(), findings.end(), target.finding);
  if (found == findings.end()) {
    std::string known = kNoFinding;
    for (const auto& finding : findings) known += ", " + finding;
    fail(ErrorCode::kNotFound, kFunction, "target.finding", "one of " + known, target.finding);
  }
  std::vector<float> condition(findings.size(), 0.0F);
  condition[static_cast<std::size_t>(found - findings.begin())] = state;
  return condition;
}

GuidanceKind guidance_kind(const std::string& name) {
  if (name == "none") return GuidanceKind::kNone;
  if (name == "classifier_free") return GuidanceKind::kClassifierFree;
  if (name == "contrast") return GuidanceKind::kContrast;
  if (name == "classifier") return GuidanceKind::kClassifier;
  fail(ErrorCode::kInvalidArgument, "daug::guidance_kind", "name",
       "\"none\", \"classifier_free\", \"contrast\" or \"classifier\"", name);
}

void GuidanceOptions::validate() const {
  require_range(weight, 0.0, 1000.0, "daug::GuidanceOptions", "weight");
  require_range(classifier_scale, 0.0, 10000.0, "daug::GuidanceOptions", "classifier_scale");
}

std::shared_ptr<const GuidanceClassifier> make_guidance_classifier(const NoiseAwareClassifier& network,
                                                                   const NoiseSchedule& schedule) {
  return std::make_shared<SigmoidGuidance>(network, schedule);
}

}  // namespace daug
