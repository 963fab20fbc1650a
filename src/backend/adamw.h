#pragma once
// A step of AdamW and of the running averages of what it trains. There is a kernel for float32 on CUDA devices;
// elsewhere these are LibTorch's operators.

#include <ATen/core/Tensor.h>

#include <vector>

#include "daug/core/execution.h"

namespace daug::backend {

/// Parameters that a step treats alike, laid end to end: tensors of one shape, floating type and device.
struct AdamwGroup {
  at::Tensor weights;
  at::Tensor gradient;  ///< is given up: LibTorch's operators multiply it by the factor
  at::Tensor first_moment, second_moment;
  at::Tensor average;  ///< of the weights; undefined: none
  at::Tensor steps;    ///< [] float32, there too: how many were made
  double rate = 0;     ///< learning rate, >= 0
  double decay = 0;    ///< decoupled weight decay, >= 0
};

/// What is the same for all groups. Numbers of the device are read there, so that nobody waits for it.
struct AdamwSettings {
  double beta1 = 0.9;        ///< in [0, 1)
  double beta2 = 0.999;      ///< in [0, 1)
  double epsilon = 1e-8;     ///< > 0
  double average_decay = 0;  ///< in [0, 1]
  at::Tensor factor = {};    ///< [] float64 on the device, of all gradients; undefined: 1
  at::Tensor applied = {};   ///< [] truth value on the device: without it nothing changes; undefined: true
};

/// Changes weights, moments, averages and counts of steps as kernels/adamw.h says, where no gradient is recorded. The
/// kernel does it in one pass over memory, bit-equal whenever repeated; kFused throws kUnsupported where it cannot be
/// taken.
void adamw(const std::vector<AdamwGroup>& groups, const AdamwSettings& settings,
           Execution execution = Execution::kAuto);

/// average <- decay average + (1 - decay) values of floating tensors, in LibTorch's operators. A `weight`, a number
/// where they lie, takes the place of 1 - decay.
void update_average(const at::Tensor& average, const at::Tensor& values, double decay, const at::Tensor& weight);

}  // namespace daug::backend
