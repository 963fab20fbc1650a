#pragma once
// Gradient checkpointing: a part of a network whose inner activations are computed again in the backward pass.

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace daug::backend {

/// `forward(x, embedding)` of which only the result is kept; the backward pass runs it once more to differentiate it.
/// Same values and gradients as calling it, for memory of one part at a time; LibTorch's autocast for x's device is
/// then what it was in the call. `forward` must be repeatable and may be called after this returns; `parameters` are
/// the leaves it reads.
at::Tensor recomputed(std::function<at::Tensor(at::Tensor, const at::Tensor&)> forward, const at::Tensor& x,
                      const at::Tensor& embedding, const std::vector<at::Tensor>& parameters);

/// Whether this thread is inside such a repetition: what counts passes leaves it out.
bool is_repetition() noexcept;

}  // namespace daug::backend
