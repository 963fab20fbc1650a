#pragma once
// Tensors on their way to a device.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace daug::backend {

/// The tensor on `device`. One without gaps that comes from the CPU goes to a CUDA device through pinned memory, so
/// that the program waits for nothing that the device does and may change the tensor at once (but one that is pinned
/// already, which is read where it is). Otherwise as Tensor::to; an undefined one stays so.
inline at::Tensor upload(const at::Tensor& tensor, const c10::Device& device) {
  if (!tensor.defined()) return tensor;
  if (!tensor.is_cpu() || !device.is_cuda()) return tensor.to(device);
  return tensor.pin_memory().to(device, tensor.scalar_type(), /*non_blocking=*/true);
}

/// The tensor as upload() takes it to `device` without another copy: in pinned memory where it takes it through such.
inline at::Tensor ready_to_upload(const at::Tensor& tensor, const c10::Device& device) {
  return tensor.defined() && tensor.is_cpu() && device.is_cuda() ? tensor.pin_memory() : tensor;
}

}  // namespace daug::backend
