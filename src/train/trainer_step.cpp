// A step of a trainer once its gradients are there: the mean over workers and ranks, AdamW, running averages, buffers.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/adamw.h"
#include "trainer_state.h"

namespace daug {

std::vector<at::Tensor> Trainer::State::average_gradients() {
  const double shares = static_cast<double>(replicas.size()) * static_cast<double>(ranks.size());
  std::vector<at::Tensor> squares;
  for (auto& group : groups) {
    const at::Tensor& mean = group.gradients[0];
    for (std::size_t worker = 1; worker < group.gradients.size(); ++worker) mean.add_(group.gradients[worker]);
    ranks.add_up(mean);
    if (shares > 1) mean.div_(shares);
    squares.push_back(at::dot(mean, mean));
  }
  return squares;
}

double Trainer::learning_rate(std::int64_t step) const {
  if (step < options_.warmup_steps)
    return options_.learning_rate * static_cast<double>(step + 1) / static_cast<double>(options_.warmup_steps);
  const double span = static_cast<double>(std::max<std::int64_t>(options_.steps - options_.warmup_steps, 1));
  const double done = static_cast<double>(step - options_.warmup_steps) / span;
  const double cosine = 0.5 * (1 + std::cos(3.14159265358979323846 * std::min(done, 1.0)));
  return options_.learning_rate * (options_.final_rate + (1 - options_.final_rate) * cosine);
}

/// Makes a step unless a gradient is not finite; whether it did.
bool Trainer::update(std::int64_t step) {
  at::NoGradGuard no_grad;
  share_buffers();
  double square_norm = 0;
  for (const at::Tensor& square : state_->average_gradients()) square_norm += square.item<double>();
  if (!std::isfinite(square_norm)) return false;
  const double norm = std::sqrt(square_norm);
  if (options_.clip_norm > 0 && norm > options_.clip_norm)
    for (auto& group : state_->groups) group.gradients[0].mul_(options_.clip_norm / norm);
  apply_gradients(step, {}, {});
  return true;
}

/// `update` and `settle_buffers` without a look at any number, so that a device is not waited for. Returns the loss as
/// the history has it, float64: NaN for a step that was left out.
at::Tensor Trainer::update_unread(std::int64_t step, const at::Tensor& loss) {
  at::NoGradGuard no_grad;
  const at::Tensor square_norm = at::stack(state_->average_gradients()).sum(at::kDouble);
  const at::Tensor mean = loss.to(square_norm.device(), at::kDouble);
  const at::Tensor applied = mean.isfinite().logical_and(square_norm.isfinite());
  at::Tensor factor;
  if (options_.clip_norm > 0) factor = (square_norm.rsqrt() * options_.clip_norm).clamp_max(1);
  for (auto& buffer : state_->buffers) {  // before averages: 0 times what is not finite is not 0
    buffer.kept.copy_(at::where(applied, buffer.values, buffer.kept));
    buffer.values.copy_(buffer.kept);
  }
  apply_gradients(step, applied, factor);
  return at::where(applied, mean, std::numeric_limits<double>::quiet_NaN());
}

/// AdamW, of gradients times `factor`, and the averages. Where `applied`, a truth value on the device, is given and
/// false, both change nothing.
void Trainer::apply_gradients(std::int64_t step, const at::Tensor& applied, const at::Tensor& factor) {
  // Early on the average follows closely, or it would remember the initial weights.
  const double decay = std::min(options_.ema_decay, static_cast<double>(1 + step) / static_cast<double>(10 + step));
  const double rate = learning_rate(step);
  const bool apart = state_->extra != nullptr;  // it may change weights before their averages take them in
  std::vector<backend::AdamwGroup> groups;
  for (const auto& group : state_->groups)
    groups.push_back({group.values, group.gradients[0], group.first_moment, group.second_moment,
                      apart ? at::Tensor() : group.average, group.step, rate * group.rate_scale, group.decay});
  backend::adamw(groups, {options_.beta1, options_.beta2, options_.epsilon, decay, factor, applied},
                 options_.execution);
  at::Tensor weight;
  if (applied.defined()) weight = applied.to(at::kDouble) * (1 - decay);
  if (apart) {
    state_->extra->step_done();
    for (auto& group : state_->groups) group.update_average(decay, weight);
  }
  for (auto& buffer : state_->buffers) buffer.update_average(decay, weight);
}

/// Averages buffers over ranks: each has counted its own items.
void Trainer::share_buffers() {
  const auto ranks = state_->ranks.size();
  std::vector<at::Tensor> flat;
  for (const auto& buffer : state_->buffers)
    if (buffer.values.is_floating_point()) flat.push_back(buffer.values.reshape({-1}));
  if (ranks == 1 || flat.empty()) return;
  const at::Tensor mean = at::cat(flat);
  state_->ranks.add_up(mean);
  mean.div_(static_cast<double>(ranks));
  std::int64_t offset = 0;
  for (auto& buffer : state_->buffers) {
    if (!buffer.values.is_floating_point()) continue;
    buffer.values.copy_(mean.narrow(0, offset, buffer.values.numel()).view(buffer.values.sizes()));
    offset += buffer.values.numel();
  }
}

void Trainer::settle_buffers(bool applied) {
  at::NoGradGuard no_grad;
  for (auto& buffer : state_->buffers) {
    if (applied)
      buffer.kept.copy_(buffer.values);
    else
      buffer.values.copy_(buffer.kept);
  }
}

}  // namespace daug
