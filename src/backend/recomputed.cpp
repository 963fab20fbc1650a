#include "recomputed.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include "autocast_state.h"

namespace daug::backend {

namespace {

using torch::autograd::variable_list;

thread_local bool repeats = false;

/// Says for a scope that a part is computed again; parts may lie inside each other.
class Repetition {
 public:
  Repetition() : before_(repeats) { repeats = true; }
  ~Repetition() { repeats = before_; }
  Repetition(const Repetition&) = delete;
  Repetition& operator=(const Repetition&) = delete;

 private:
  bool before_;
};

/// Computes under an autocast for a scope. LibTorch keeps no copies of weights meanwhile: those that are made without
/// gradients would serve where gradients are wanted.
class UnderAutocast {
 public:
  explicit UnderAutocast(const AutocastState& state)
      : before_(AutocastState::of(state.device)), cached_(at::autocast::is_autocast_cache_enabled()) {
    state.set();
    if (state.enabled) at::autocast::set_autocast_cache_enabled(false);
  }
  ~UnderAutocast() {
    before_.set();
    at::autocast::set_autocast_cache_enabled(cached_);
  }
  UnderAutocast(const UnderAutocast&) = delete;
  UnderAutocast& operator=(const UnderAutocast&) = delete;

 private:
  AutocastState before_;
  bool cached_;
};

class RecomputedBackward final : public torch::autograd::Node {
 public:
  RecomputedBackward(std::function<at::Tensor(at::Tensor, const at::Tensor&)> forward, variable_list inputs,
                     const AutocastState& autocast)
      : forward_(std::move(forward)), inputs_(std::move(inputs)), autocast_(autocast) {
    set_next_edges(torch::autograd::collect_next_edges(inputs_));
    // Activations are cut off, so that the repetition ends there; parameters are leaves already.
    for (std::size_t i = 0; i < 2; ++i) {
      const bool wanted = inputs_[i].requires_grad();
      inputs_[i] = inputs_[i].detach().requires_grad_(wanted);
    }
  }

  variable_list apply(variable_list&& gradients) override {
    variable_list result(inputs_.size());
    if (!gradients[0].defined()) return result;
    at::AutoGradMode gradients_on(true);
    std::vector<std::size_t> places;
    variable_list wanted;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (!inputs_[i].requires_grad()) continue;
      places.push_back(i);
      wanted.push_back(inputs_[i]);
    }
    const at::Tensor output = repeated();
    if (!output.requires_grad()) return result;  // made with frozen parameters alone
    const variable_list found =
        torch::autograd::grad({output}, wanted, {gradients[0]}, /*retain_graph=*/false, /*create_graph=*/false,
                              /*allow_unused=*/true);
    for (std::size_t i = 0; i < places.size(); ++i) result[places[i]] = found[i];
    return result;
  }

 private:
  at::Tensor repeated() const {
    const Repetition scope;
    const UnderAutocast as_before(autocast_);  // the backward pass is outside the caller's autocast
    return forward_(inputs_[0], inputs_[1]);
  }

  std::function<at::Tensor(at::Tensor, const at::Tensor&)> forward_;
  variable_list inputs_;
  AutocastState autocast_;
};

}  // namespace

at::Tensor recomputed(std::function<at::Tensor(at::Tensor, const at::Tensor&)> forward, const at::Tensor& x,
                      const at::Tensor& embedding, const std::vector<at::Tensor>& parameters) {
  variable_list inputs = {x, embedding};
  inputs.insert(inputs.end(), parameters.begin(), parameters.end());
  const AutocastState autocast = AutocastState::of(x.device().type());
  at::Tensor output;
  {
    at::NoGradGuard no_grad;
    const UnderAutocast without_copies(autocast);
    output = forward(x, embedding);
  }
  bool differentiable = false;
  for (const at::Tensor& input : inputs) differentiable = differentiable || input.requires_grad();
  if (!differentiable) return output;
  const std::shared_ptr<torch::autograd::Node> node(
      new RecomputedBackward(std::move(forward), std::move(inputs), autocast), torch::autograd::deleteNode);
  torch::autograd::set_history(output, node);
  return output;
}

bool is_repetition() noexcept { return repeats; }

}  // namespace daug::backend
