#include "backend/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "backend/device_kernels.h"
#include "backend/fused_ops.h"
#include "daug/core/error.h"
#include "kernels/device.h"

namespace daug::backend {

namespace {

/// Whether the kernel can read a group that lies on this device.
bool takes_adamw_kernel(const AdamwGroup& group, const AdamwSettings& settings, const c10::Device& device) {
  const auto arrays = {group.weights,       group.gradient, group.first_moment,
                       group.second_moment, group.average,  group.steps};
  const auto fits = [](const at::Tensor& tensor) { return !tensor.defined() || tensor.is_contiguous(); };
  const auto there = [&](const at::Tensor& tensor) { return !tensor.defined() || tensor.device() == device; };
  return device_element(arrays) == kernels::Element::kFloat32 && std::all_of(arrays.begin(), arrays.end(), fits) &&
         there(group.weights) && there(settings.factor) && there(settings.applied);
}

void require_adamw_group(const AdamwGroup& group, const char* function) {
  const auto alike = [&](const at::Tensor& tensor) {
    return tensor.defined() && group.weights.defined() && tensor.sizes() == group.weights.sizes();
  };
  require(alike(group.weights) && alike(group.gradient) && alike(group.first_moment) && alike(group.second_moment) &&
              (!group.average.defined() || alike(group.average)),
          function, "groups", "weights, gradient, moments and average of one shape", "others");
  require(group.steps.defined() && group.steps.numel() == 1, function, "groups", "a number of steps", "none");
}

void reference_adamw(const std::vector<AdamwGroup>& groups, const AdamwSettings& settings) {
  std::optional<at::Tensor> omitted;
  at::Tensor weight;
  if (settings.applied.defined()) {
    omitted = settings.applied.logical_not().to(at::kFloat);  // as the operator takes it, whatever it updates
    weight = settings.applied.to(at::kDouble) * (1 - settings.average_decay);
  }
  for (const AdamwGroup& group : groups) {
    if (settings.factor.defined()) group.gradient.mul_(settings.factor);
    group.steps.add_(1);
    if (omitted) group.steps.sub_(*omitted);
    at::_fused_adamw_({group.weights}, {group.gradient}, {group.first_moment}, {group.second_moment}, {}, {group.steps},
                      group.rate, settings.beta1, settings.beta2, group.decay, settings.epsilon, false, false,
                      std::nullopt, omitted);
    if (group.average.defined()) update_average(group.average, group.weights, settings.average_decay, weight);
  }
}

void fused_adamw(const std::vector<AdamwGroup>& groups, const AdamwSettings& settings, const char* function) {
  const at::Tensor workspace = at::empty({static_cast<std::int64_t>(groups.size()) * kernels::kAdamwWorkspace},
                                         groups.front().weights.options());
  float* of_group = workspace.mutable_data_ptr<float>();
  for (const AdamwGroup& group : groups) {
    kernels::AdamwStep s;
    s.elements = group.weights.numel();
    s.gradient = group.gradient.const_data_ptr<float>();
    s.weights = group.weights.mutable_data_ptr<float>();
    s.first_moment = group.first_moment.mutable_data_ptr<float>();
    s.second_moment = group.second_moment.mutable_data_ptr<float>();
    s.average = group.average.defined() ? group.average.mutable_data_ptr<float>() : nullptr;
    s.steps = group.steps.mutable_data_ptr<float>();
    s.factor = settings.factor.defined() ? settings.factor.const_data_ptr<double>() : nullptr;
    s.applied = settings.applied.defined() ? settings.applied.const_data_ptr<bool>() : nullptr;
    s.rate = group.rate;
    s.decay = group.decay;
    s.beta1 = settings.beta1;
    s.beta2 = settings.beta2;
    s.epsilon = settings.epsilon;
    s.average_decay = settings.average_decay;
    require_launched(kernels::adamw_device(s, of_group, stream_of(group.weights)), function);
    of_group += kernels::kAdamwWorkspace;
  }
}

}  // namespace

void adamw(const std::vector<AdamwGroup>& groups, const AdamwSettings& settings, Execution execution) {
  constexpr const char* kFunction = "daug::backend::adamw";
  for (const AdamwGroup& group : groups) require_adamw_group(group, kFunction);
  require(!settings.factor.defined() || (settings.factor.numel() == 1 && settings.factor.scalar_type() == at::kDouble),
          kFunction, "settings.factor", "a number of float64", "another tensor");
  require(!settings.applied.defined() || (settings.applied.numel() == 1 && settings.applied.scalar_type() == at::kBool),
          kFunction, "settings.applied", "a truth value", "another tensor");
  if (groups.empty()) return;
  const c10::Device device = groups.front().weights.device();
  const bool possible = std::all_of(groups.begin(), groups.end(), [&](const AdamwGroup& group) {
    return takes_adamw_kernel(group, settings, device);
  });
  if (use_fused(execution, possible, kFunction, ran_on_a_device("adamw"),
                "kAuto or kReference for these parameters (the kernel takes float32 on a CUDA device, in builds for "
                "CUDA)"))
    fused_adamw(groups, settings, kFunction);
  else
    reference_adamw(groups, settings);
}

void update_average(const at::Tensor& average, const at::Tensor& values, double decay, const at::Tensor& weight) {
  if (weight.defined())
    average.lerp_(values, weight.to(values.scalar_type()));
  else
    average.lerp_(values, 1 - decay);
}

}  // namespace daug::backend
