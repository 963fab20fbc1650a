#pragma once
// Operations on tensors that have a fused kernel beside LibTorch's operators. A kernel is used where no gradient is
// recorded: for float32 on the CPU, and on a CUDA device for float32, float16 or bfloat16 (one type for all tensors, or
// float32 for those that stand beside the values of a group norm) in sizes that a launch takes
// (kernels/cuda/launch_plan.h). Those of group norms and residual sums have gradients, unless they change an image's
// size on the way, and are used where one is recorded, too; residual sums have none for the CPU.
// Execution::kFused throws kUnsupported elsewhere; a device kernel whose tests no device has passed yet runs for kFused
// alone.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>
#include <utility>

#include "daug/backend/guided_noise.h"
#include "daug/core/execution.h"
#include "kernels/group_norm_silu.h"

namespace daug::backend {

/// Whether the fused kernels for the CPU may read these (undefined ones count as absent): CPU, float32.
bool float_on_cpu(std::initializer_list<at::Tensor> tensors);

/// The same, and no gradient recorded.
bool plain_float(std::initializer_list<at::Tensor> tensors);

/// Whether x lies channels last and not in order as well. Any empty tensor counts as contiguous; its strides decide.
bool lies_channels_last(const at::Tensor& x);

/// True when `execution` and `possible` lead to the fused kernel; kAuto takes a `trusted` one only. Throws kUnsupported
/// naming `function` for kFused where it is not possible, and what is expected then: `instead`, unless that is null.
bool use_fused(Execution execution, bool possible, const char* function, bool trusted = true,
               const char* instead = nullptr);

/// What a residual block does around a group norm. All undefined or [N, C], with any number of trailing 1s.
struct GroupNormExtras {
  at::Tensor offset;      ///< added before the norm
  at::Tensor scale;       ///< the norm is multiplied by 1 + scale
  at::Tensor shift;       ///< added after that; with scale or not at all
  bool silu = true;       ///< y * sigmoid(y) at the end
  bool in_place = false;  ///< x is given up: without a gradient the fused kernel writes there, and the result is x
};

/// silu(group_norm(x + offset) * (1 + scale) + shift) of x [N, C, ...], in x's type and memory format. Fused where x
/// has no gaps, as [N, C, P] or channels last. Half types, beside which the rest may be float32, are computed in
/// float32, statistics included, and rounded once, but by kReference as LibTorch's operators do. Deterministic;
/// independent of the number of threads and of the batch around a sample.
///
/// Where a gradient is recorded the same tensors are fused. What is said above then holds for all gradients but those
/// of weight and bias, which are sums over the batch. All arguments are kept for the backward pass, and none may change
/// before. With create_graph the gradient is the operators', and differentiable.
at::Tensor group_norm_silu(const at::Tensor& x, std::int64_t groups, const at::Tensor& weight, const at::Tensor& bias,
                           double eps = 1e-5, const GroupNormExtras& extras = {},
                           Execution execution = Execution::kAuto);

using kernels::SizeChange;

/// Images [N, C, H, W] in another size, by LibTorch's operators, which need 2 x 2 pixels to halve any. Differentiable.
at::Tensor resized_by_two(const at::Tensor& x, SizeChange change);

/// resized_by_two of group_norm_silu(x) and of x [N, C, H, W] itself, as a residual block that changes the size goes on
/// with them. On a CUDA device, where no gradient is recorded and the kernels of group_norm_silu take x, one pass makes
/// both: the means, too, are of float32 and rounded once. Elsewhere these are the operators on what group_norm_silu
/// answers, which takes `execution` and throws for it. Deterministic; independent of the batch around a sample.
std::pair<at::Tensor, at::Tensor> group_norm_silu_resized(const at::Tensor& x, std::int64_t groups,
                                                          const at::Tensor& weight, const at::Tensor& bias, double eps,
                                                          SizeChange change, Execution execution = Execution::kAuto);

/// h + skip + bias of each channel, of h [N, C, ...] in its memory format, skip of its shape and type and bias [C] of
/// that type or float32; undefined: none. There is a kernel for CUDA devices alone, of float32, float16 and bfloat16,
/// which adds in float32 and rounds once, with or without gaps; elsewhere these are LibTorch's operators, which round
/// each sum, and kFused throws kUnsupported. With `in_place` h is given up: without a gradient the sum may be written
/// there. Deterministic; independent of the number of threads and of the batch around a sample, but for the bias's
/// gradient, which is LibTorch's sum over all dimensions but the channels'. Differentiable any number of times.
at::Tensor residual_add(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias, bool in_place = false,
                        Execution execution = Execution::kAuto);

/// The same of images [N, C, H, W], doubled: resized_by_two of the sum. Where no gradient is recorded the kernel writes
/// it so; elsewhere, too, kFused throws kUnsupported where there is none.
at::Tensor residual_add_doubled(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias,
                                bool in_place = false, Execution execution = Execution::kAuto);

/// Whether a block on x gains by leaving biases of convolutions to what comes next, group_norm_silu (its offset) and
/// residual_add: on a device where the kernels of both, and their gradients while gradients are recorded, are taken by
/// this `execution`. For kFused also of float32 on the CPU, where it gains nothing, but is tested.
bool fuses_residuals(const at::Tensor& x, Execution execution);

/// How a solver leaves x: keep * x + add * noise + previous_weight * previous.
struct SolverStep {
  double keep = 1;  ///< 0: nothing of x, not even what is not finite
  double add = 0;
  at::Tensor previous = {};  ///< a remembered state in the shape of x; undefined: none
  double previous_weight = 0;
  bool clip = false;     ///< hold the clean image of each estimate in [-1, 1] first, with
  double signal = 1;     ///< sqrt(abar) > 0 and
  double deviation = 1;  ///< sqrt(1 - abar) > 0 at the level of x
};

/// One step of a sampler, in x's memory format, gaps or not. Deterministic; independent of the number of threads and of
/// the batch around a lane.
at::Tensor solver_update(const at::Tensor& x, const GuidedNoise& noise, const SolverStep& step,
                         Execution execution = Execution::kAuto);

}  // namespace daug::backend
