#include "backend/fused_ops.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <type_traits>

#include "backend/device_kernels.h"
#include "backend/threads.h"
#include "daug/core/error.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/group_norm_silu.h"
#include "kernels/solver_update.h"

namespace daug::backend {

namespace {

template <class T>
const T* data(const at::Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  if constexpr (std::is_void_v<T>)
    return tensor.const_data_ptr();
  else
    return tensor.const_data_ptr<T>();
}

template <class T>
T* target(const at::Tensor& tensor) {
  if constexpr (std::is_void_v<T>)
    return tensor.mutable_data_ptr();
  else
    return tensor.mutable_data_ptr<T>();
}

/// [N, C] numbers whose rows have no gaps, of what has trailing 1s. The caller keeps it alive.
at::Tensor as_rows(const at::Tensor& tensor, std::int64_t batch, std::int64_t channels) {
  if (!tensor.defined()) return tensor;
  const at::Tensor rows = tensor.reshape({batch, channels});
  return channels == 1 || rows.stride(1) == 1 ? rows : rows.contiguous();
}

/// [N, C] seen as [N, C, 1, ...] of as many dimensions as x.
at::Tensor spread(const at::Tensor& tensor, const at::Tensor& x) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  std::copy_n(x.sizes().begin(), tensor.numel() == x.size(0) ? 1 : 2, shape.begin());
  return tensor.reshape(shape);
}

void require_rows(const at::Tensor& tensor, const at::Tensor& x, const char* function, const char* argument) {
  require(!tensor.defined() || tensor.numel() == x.size(0) * x.size(1), function, argument,
          detail::concat("shape [", x.size(0), ", ", x.size(1), "]"),
          tensor.defined() ? tensor.sizes() : at::IntArrayRef{});
}

void require_like(const at::Tensor& tensor, const at::Tensor& x, const char* function, const char* argument) {
  require(!tensor.defined() || tensor.sizes() == x.sizes(), function, argument, x.sizes(),
          tensor.defined() ? tensor.sizes() : at::IntArrayRef{});
}

at::Tensor clipped(const at::Tensor& x, const at::Tensor& estimate, const SolverStep& step) {
  if (!step.clip || !estimate.defined()) return estimate;
  const at::Tensor clean = ((x - step.deviation * estimate) / step.signal).clamp(-1, 1);
  return (x - step.signal * clean) / step.deviation;
}

at::Tensor reference_solver_update(const at::Tensor& x, const GuidedNoise& parts, const SolverStep& step) {
  const at::Tensor strength = parts.strength.defined() ? spread(parts.strength, x) : parts.strength;
  const auto scaled = [&](double factor, const at::Tensor& pull) {
    return strength.defined() ? factor * strength * pull : factor * pull;
  };
  at::Tensor noise = clipped(x, parts.first, step);
  if (parts.second.defined()) {
    const at::Tensor second = clipped(x, parts.second, step);
    noise = (parts.from_second ? second : noise) + scaled(parts.weight, noise - second);
  }
  if (parts.gradient.defined()) noise = noise - scaled(parts.gradient_weight, parts.gradient);
  const at::Tensor result = at::add(step.keep * x, noise, step.add);
  return step.previous.defined() ? at::add(result, step.previous, step.previous_weight) : result;
}

}  // namespace

bool lies_channels_last(const at::Tensor& x) {
  return x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast) && (x.numel() == 0 || !x.is_contiguous());
}

bool plain_float(std::initializer_list<at::Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) {
    return !tensor.defined() ||
           (tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
            !tensor.is_neg() && !(at::GradMode::is_enabled() && tensor.requires_grad()));
  });
}

bool use_fused(Execution execution, bool possible, const char* function, bool trusted) {
  if (execution == Execution::kFused && !possible)
    fail(ErrorCode::kUnsupported, function, "execution",
         "kAuto or kReference for these arguments (fused kernels take tensors without gaps and gradients: float32 on "
         "the CPU; on a CUDA device in builds for CUDA float32 and, but for maps and searches, float16 and bfloat16, "
         "within the limits of docs/architecture.md)",
         "kFused");
  return possible && (execution == Execution::kFused || (execution == Execution::kAuto && trusted));
}

at::Tensor group_norm_silu(const at::Tensor& x, std::int64_t groups, const at::Tensor& weight, const at::Tensor& bias,
                           double eps, const GroupNormExtras& extras, Execution execution) {
  constexpr const char* kFunction = "daug::backend::group_norm_silu";
  require(x.dim() >= 2, kFunction, "x", "shape [N, C, ...]", x.sizes());
  const std::int64_t batch = x.size(0), channels = x.size(1);
  require(groups >= 1 && channels % groups == 0, kFunction, "groups",
          detail::concat("a divisor of the ", channels, " channels"), groups);
  for (const at::Tensor& tensor : {weight, bias})
    require(!tensor.defined() || tensor.numel() == channels, kFunction, "weight or bias", channels,
            tensor.defined() ? tensor.numel() : 0);
  require(extras.scale.defined() == extras.shift.defined(), kFunction, "extras", "scale and shift, or neither", "one");
  require_rows(extras.offset, x, kFunction, "extras.offset");
  require_rows(extras.scale, x, kFunction, "extras.scale");
  require_rows(extras.shift, x, kFunction, "extras.shift");

  const bool last = lies_channels_last(x);
  const bool dense = (last || x.is_contiguous()) && (!weight.defined() || weight.is_contiguous()) &&
                     (!bias.defined() || bias.is_contiguous());
  const auto all = {x, weight, bias, extras.offset, extras.scale, extras.shift};
  const auto element = device_element(all);
  const bool possible =
      dense && (element ? kernels::cuda::fits_group_norm(batch, channels, groups, last) : plain_float(all));
  if (!use_fused(execution, possible, kFunction, !element || ran_on_a_device("group_norm_silu"))) {
    // As kernels do it. LibTorch's operator for devices rounds mean and deviation to a half type before it uses them.
    const bool widens = at::isReducedFloatingType(x.scalar_type()) && execution != Execution::kReference;
    const auto wide = [widens](const at::Tensor& tensor) {
      return widens && tensor.defined() ? tensor.to(at::kFloat) : tensor;
    };
    at::Tensor h = wide(x);
    if (extras.offset.defined()) h = h + spread(wide(extras.offset), x);
    h = at::group_norm(h, groups, wide(weight), wide(bias), eps);
    if (extras.scale.defined()) h = at::addcmul(spread(wide(extras.shift), x), h, spread(wide(extras.scale), x) + 1);
    if (extras.silu) h = at::silu(h);
    if (!widens) return h;
    // LibTorch's norm for devices answers contiguous whatever it is given: channels that lay last would be moved twice.
    const auto format_kept = last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve;
    return h.to(x.scalar_type(), /*non_blocking=*/false, /*copy=*/false, format_kept);
  }
  const auto format = last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const at::Tensor result = extras.in_place ? x : at::empty_like(x, format);
  const at::Tensor offset = as_rows(extras.offset, batch, channels), scale = as_rows(extras.scale, batch, channels),
                   shift = as_rows(extras.shift, batch, channels);
  const auto described = [&](auto p) {
    using T = std::remove_pointer_t<decltype(p.output)>;
    p.batch = batch;
    p.channels = channels;
    p.positions = batch * channels == 0 ? 0 : x.numel() / (batch * channels);
    p.groups = groups;
    p.channels_last = last;
    p.eps = eps;
    p.silu = extras.silu;
    p.input = data<T>(x);
    p.output = target<T>(result);
    p.weight = data<T>(weight);
    p.bias = data<T>(bias);
    p.offset = data<T>(offset);
    p.scale = data<T>(scale);
    p.shift = data<T>(shift);
    p.offset_stride = offset.defined() ? offset.stride(0) : 0;
    p.scale_stride = scale.defined() ? scale.stride(0) : 0;
    p.shift_stride = shift.defined() ? shift.stride(0) : 0;
    return p;
  };
  if (element) {
    const auto p = described(kernels::GroupNormSiluOf<void>{});
    const at::Tensor workspace =
        at::empty({kernels::group_norm_silu_workspace(p, *element)}, x.options().dtype(at::kFloat));
    require_launched(kernels::group_norm_silu_device(p, *element, target<float>(workspace), stream_of(x)), kFunction);
  } else {
    kernels::group_norm_silu(described(kernels::GroupNormSilu{}), torch_threads());
  }
  return result;
}

at::Tensor solver_update(const at::Tensor& x, const GuidedNoise& noise, const SolverStep& step, Execution execution) {
  constexpr const char* kFunction = "daug::backend::solver_update";
  require(x.dim() >= 1 && noise.first.defined(), kFunction, "x and noise.first", "tensors of one shape", x.sizes());
  require_like(noise.first, x, kFunction, "noise.first");
  require_like(noise.second, x, kFunction, "noise.second");
  require_like(noise.gradient, x, kFunction, "noise.gradient");
  require_like(step.previous, x, kFunction, "step.previous");
  require(!noise.strength.defined() || noise.strength.numel() == x.size(0), kFunction, "noise.strength", x.size(0),
          noise.strength.defined() ? noise.strength.numel() : 0);
  require(!step.clip || (step.signal > 0 && step.deviation > 0), kFunction, "step",
          "signal and deviation above 0 to clip with", detail::concat(step.signal, " and ", step.deviation));

  const bool last = lies_channels_last(x);
  const auto all = {x, noise.first, noise.second, noise.gradient, step.previous};
  const auto element = device_element(all);
  const bool possible = (element ? x.size(0) <= kernels::cuda::kMostInGrid : plain_float(all)) &&
                        !(noise.strength.defined() && at::GradMode::is_enabled() && noise.strength.requires_grad());
  if (!use_fused(execution, possible, kFunction, !element || ran_on_a_device("solver_update")))
    return reference_solver_update(x, noise, step);

  const auto format = last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  // A network with learned sigma returns more channels than these: what is left of its output has gaps, and so has one
  // of several states in a latent. With one row neither has: which path is taken must not depend on the batch.
  const auto dense = [&](const at::Tensor& tensor) { return tensor.defined() ? tensor.contiguous(format) : tensor; };
  const at::Tensor state = dense(x), first = dense(noise.first), second = dense(noise.second),
                   gradient = dense(noise.gradient), previous = dense(step.previous),
                   result = at::empty_like(x, format);
  const at::Tensor strength =
      noise.strength.defined() ? noise.strength.to(x.device(), at::kFloat).reshape({-1}).contiguous() : noise.strength;
  const auto described = [&](auto u) {
    using T = std::remove_pointer_t<decltype(u.output)>;
    u.lanes = x.size(0);
    u.elements = u.lanes == 0 ? 0 : x.numel() / u.lanes;
    u.x = data<T>(state);
    u.first = data<T>(first);
    u.second = data<T>(second);
    u.gradient = data<T>(gradient);
    u.strength = data<float>(strength);
    u.previous = data<T>(previous);
    u.output = target<T>(result);
    u.weight = noise.weight;
    u.from_second = noise.from_second;
    u.gradient_weight = noise.gradient_weight;
    u.keep = step.keep;
    u.add = step.add;
    u.previous_weight = step.previous_weight;
    u.clip = step.clip;
    u.signal = step.signal;
    u.deviation = step.deviation;
    return u;
  };
  if (element)
    require_launched(kernels::solver_update_device(described(kernels::SolverUpdateOf<void>{}), *element, stream_of(x)),
                     kFunction);
  else
    kernels::solver_update(described(kernels::SolverUpdate{}), torch_threads());
  return result;
}

}  // namespace daug::backend
