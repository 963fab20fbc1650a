#include "daug/translator/guidance.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "backend/backward_here.h"
#include "backend/fitting_rows.h"
#include "backend/graph_cache.h"
#include "backend/upload.h"
#include "daug/data/labels.h"
#include "daug/translator/noise_aware_classifier.h"
#include "half_network.h"
#include "replayed_networks.h"

namespace daug {

namespace {

/// Gradient in the precision of float16 images [B, C, H, W], computed on a larger scale: where confident, the
/// likelihood's gradients are smaller than what such a type can hold. The scale falls until nothing overflows; each
/// item keeps its largest one, so that it does not depend on its batch. `scaled`: the gradient in float32 on a scale,
/// which it is divided by again, and whether no smaller one will be asked for.
template <class Scaled>
at::Tensor gradient_on_scales(const Scaled& scaled) {
  at::Tensor result;
  for (double scale = 65536;; scale /= 16) {
    const bool last = scale <= 1;
    const at::Tensor gradient = scaled(scale, last);
    result = result.defined() ? at::where(result.isfinite().flatten(1).all(1).reshape({-1, 1, 1, 1}), result, gradient)
                              : gradient;
    if (last || std::isfinite(result.sum().item<double>())) return result;
  }
}

/// log p_f for states of +1 plus log (1 - p_f) for states of -1, summed over findings and batch.
at::Tensor log_likelihood(const at::Tensor& logits, const at::Tensor& state, GuidanceHead head) {
  // log p = log_sigmoid(z) for +1 and log(1 - p) = log_sigmoid(-z) for -1: one expression in the signed state.
  if (head == GuidanceHead::kSigmoid) return (state.abs() * at::log_sigmoid(logits * state)).sum();
  const std::int64_t classes = logits.size(1);
  const at::Tensor all = at::logsumexp(logits, {1}, true);
  const at::Tensor self = at::eye(classes, logits.options().dtype(at::kBool));
  const at::Tensor others = logits.unsqueeze(1).masked_fill(self, -std::numeric_limits<double>::infinity());
  const at::Tensor present = logits - all, absent = at::logsumexp(others, {2}) - all;
  return at::where(state > 0, present, at::where(state < 0, absent, at::zeros_like(absent))).sum();
}

class NetworkGuidance final : public GuidanceClassifier {
 public:
  NetworkGuidance(NoiseAwareClassifier network, NoiseSchedule schedule, GuidanceHead head,
                  std::vector<std::string> findings, std::unique_ptr<backend::GraphCache> graphs)
      : network_(std::move(network)),
        schedule_(std::move(schedule)),
        head_(head),
        findings_(std::move(findings)),
        graphs_(std::move(graphs)) {
    network_->eval();
    half_ = detail::half_type(*network_);
  }

  std::int64_t num_findings() const override { return network_->options().out_channels; }
  std::vector<std::string> findings() const override { return findings_; }
  std::int64_t channels() const override { return network_->options().in_channels; }
  const NoiseSchedule* schedule() const override { return &schedule_; }
  std::int64_t image_size() const override {  // attention pooling alone has a position for each place
    const auto& options = network_->options();
    return options.pool == ClassifierPool::kAttention ? options.image_size : 0;
  }

  void require_input(const at::Tensor& x, const char* function) const override {
    const at::Tensor weight = network_->parameters().front();
    require(half_.has_value() || x.scalar_type() == weight.scalar_type(), function, "x",
            detail::concat("images of ", weight.scalar_type(), ", the classifier's type"), x.scalar_type());
    require(x.device() == weight.device(), function, "x",
            detail::concat("images on ", weight.device(), ", where the classifier is"), x.device());
    const std::int64_t least = std::int64_t{1} << (network_->options().channel_mult.size() - 1);
    require(x.size(-2) >= least && x.size(-1) >= least, function, "x",
            detail::concat("images of at least ", least, " pixels a side, of which the classifier's levels leave one"),
            x.sizes());
  }

  at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const std::vector<std::int64_t> shape = {x.size(0), num_findings()};
    if (!condition.defined() || condition.sizes() != at::IntArrayRef(shape))  // one logit would fit any number
      fail(ErrorCode::kMismatch, "daug::GuidanceClassifier::gradient", "condition",
           detail::concat("shape ", at::IntArrayRef(shape), ", a state for each of the classifier's findings"),
           condition.defined() ? condition.sizes() : at::IntArrayRef{});
    const at::Tensor states = backend::upload(condition, x.device());
    return rows_.join(x.size(0), [&](std::int64_t begin, std::int64_t count) {
      return gradient_of(x.narrow(0, begin, count), level, states.narrow(0, begin, count));
    });
  }

  std::int64_t bytes_per_item(std::int64_t height, std::int64_t width) const override {
    return network_->gradient_bytes(height, width);
  }

 private:
  /// The images, as a leaf in the network's type, and the log-likelihood of states of theirs, in float32 or wider.
  struct Likelihood {
    at::Tensor images, value;
    bool half = false;  ///< computed in float16

    /// The gradient of `output`, which the value is part of, in the value's type.
    at::Tensor gradient(const at::Tensor& output, bool again) const {
      return torch::autograd::grad({output}, {images}, {}, again)[0].to(value.scalar_type());
    }
  };

  Likelihood likelihood(const at::Tensor& x, const at::Tensor& timesteps, const at::Tensor& condition) const {
    Likelihood result;
    result.images =
        x.detach().to(half_.value_or(x.scalar_type()), /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
    const at::Tensor logits = const_cast<NoiseAwareClassifier&>(network_)->forward(result.images, timesteps);
    const at::Tensor wide = logits.to(at::promote_types(logits.scalar_type(), at::kFloat));
    result.value = log_likelihood(wide, condition.to(wide.options()).clone(), head_);
    result.half = logits.scalar_type() == at::kHalf;
    return result;
  }

  at::Tensor gradient_of(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const {
    c10::InferenceMode inference_off(false);
    const auto timesteps = at::full({x.size(0)}, schedule_.timestep(level), x.options().dtype(at::kLong));
    // A network that somebody trains again draws other masks in every call.
    if (graphs_ && !network_->is_training() && graphs_->captures(x)) return replayed(x, timesteps, condition);
    at::AutoGradMode gradients_on(true);
    const Likelihood made = likelihood(x, timesteps, condition);
    if (!made.half) return made.gradient(made.value, false);
    return gradient_on_scales(
        [&made](double scale, bool last) { return made.gradient(made.value * scale, !last) / scale; });
  }

  /// The same from graphs of the way there and back. Each scale is one replay, and is read by it as what it is told.
  at::Tensor replayed(const at::Tensor& x, const at::Tensor& timesteps, const at::Tensor& condition) const {
    at::NoGradGuard no_grad;
    const auto there_and_back = [this](const std::vector<at::Tensor>& given) {
      const backend::BackwardHere here;
      at::AutoGradMode gradients_on(true);
      const Likelihood made = likelihood(given[0], given[1], given[2]);
      const at::Tensor& scale = given[3];
      return scale.defined() ? made.gradient(made.value * scale, false) / scale : made.gradient(made.value, false);
    };
    std::vector<at::Tensor> given = {x.detach(), timesteps, condition, at::Tensor()};
    if (half_ != at::kHalf) return graphs_->call(given, there_and_back);
    return gradient_on_scales([&](double scale, bool) {
      given[3] = at::full({}, scale, x.options().dtype(at::kFloat));
      return graphs_->call(given, there_and_back);
    });
  }

  NoiseAwareClassifier network_;
  NoiseSchedule schedule_;
  GuidanceHead head_;
  std::vector<std::string> findings_;
  std::optional<at::ScalarType> half_;  ///< the network's type, if it is one of the half types
  backend::FittingRows rows_{"daug::GuidanceClassifier::gradient", "one image"};
  std::unique_ptr<backend::GraphCache> graphs_;  ///< null: none
};

}  // namespace

Target toward(std::string finding) { return {std::move(finding), true}; }
Target away_from(std::string finding) { return {std::move(finding), false}; }
Target toward(const FindingGroup& group) { return {group.name, true, 1, group.findings}; }
Target away_from(const FindingGroup& group) { return {group.name, false, 1, group.findings}; }

std::vector<float> target_condition(const Target& target, const std::vector<std::string>& findings, bool opposite) {
  constexpr const char* kFunction = "daug::target_condition";
  require_range(target.strength, 0.0, 1000.0, kFunction, "target.strength");
  const float state = target.toward != opposite ? 1.0F : -1.0F;
  const bool group = !target.members.empty();
  if (!group && target.finding == kNoFinding) return std::vector<float>(findings.size(), -state);
  std::vector<float> condition(findings.size(), 0.0F);
  for (const auto& name : group ? target.members : std::vector<std::string>{target.finding}) {
    const auto found = std::find(findings.begin(), findings.end(), name);
    if (found == findings.end()) {
      std::string known = group ? "" : kNoFinding;
      for (const auto& finding : findings) known += (known.empty() ? "" : ", ") + finding;
      fail(ErrorCode::kNotFound, kFunction, group ? "member of target " + target.finding : "target.finding",
           "one of " + known, name);
    }
    condition[static_cast<std::size_t>(found - findings.begin())] = state;
  }
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
  require_range(lowest_level, 0, highest_level, "daug::GuidanceOptions", "lowest_level");
}

std::shared_ptr<const GuidanceClassifier> make_guidance_classifier(const NoiseAwareClassifier& network,
                                                                   const NoiseSchedule& schedule, GuidanceHead head,
                                                                   std::vector<std::string> findings,
                                                                   NetworkPrecision precision, Execution graphs) {
  constexpr const char* kFunction = "daug::make_guidance_classifier";
  const std::int64_t logits = network->options().out_channels;
  require(head != GuidanceHead::kSoftmax || logits >= 2, kFunction, "network", "at least two logits for a softmax",
          logits);
  if (!findings.empty() && static_cast<std::int64_t>(findings.size()) != logits)
    fail(ErrorCode::kMismatch, kFunction, "findings", detail::concat("a name for each of ", logits, " logits"),
         findings.size());
  const NoiseAwareClassifier answering = detail::in_precision(network, precision);
  return detail::replayed_guide(
      answering, schedule, head, std::move(findings),
      backend::make_graph_cache(graphs, answering->parameters(), kFunction, "gradient_graph"));
}

std::shared_ptr<const GuidanceClassifier> detail::replayed_guide(const NoiseAwareClassifier& network,
                                                                 const NoiseSchedule& schedule, GuidanceHead head,
                                                                 std::vector<std::string> findings,
                                                                 std::unique_ptr<backend::GraphCache> graphs) {
  return std::make_shared<NetworkGuidance>(network, schedule, head, std::move(findings), std::move(graphs));
}

void require_guidable(const GuidanceClassifier& classifier, const at::Tensor& x, const char* function) {
  const std::int64_t channels = classifier.channels(), size = classifier.image_size();
  require(channels == 0 || x.size(1) == channels, function, "x",
          detail::concat("images of ", channels, " channels, which the classifier was made for"), x.sizes());
  require(size == 0 || (x.size(-2) == size && x.size(-1) == size), function, "x",
          detail::concat("images of ", size, " x ", size, " pixels, which the classifier was made for"), x.sizes());
  classifier.require_input(x, function);
}

}  // namespace daug
