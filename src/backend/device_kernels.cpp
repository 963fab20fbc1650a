#include "backend/device_kernels.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <string>

#include "daug/core/error.h"

namespace daug::backend {

std::optional<kernels::Element> device_element(std::initializer_list<at::Tensor> tensors) {
  if (!kernels::device_kernels_compiled()) return {};
  const at::Tensor* first = nullptr;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) continue;
    if (!first) first = &tensor;
    if (!tensor.is_cuda() || tensor.device() != first->device() || tensor.scalar_type() != first->scalar_type() ||
        tensor.layout() != at::kStrided || tensor.is_neg() || (at::GradMode::is_enabled() && tensor.requires_grad()))
      return {};
  }
  if (!first) return {};
  switch (first->scalar_type()) {
    case at::kFloat:
      return kernels::Element::kFloat32;
    case at::kHalf:
      return kernels::Element::kFloat16;
    case at::kBFloat16:
      return kernels::Element::kBfloat16;
    default:
      return {};
  }
}

bool ran_on_a_device(const char* kernel) {
  static const std::string runs = DAUG_DEVICE_RUNS;  // ",name,name,"
  return runs.find(detail::concat(",", kernel, ",")) != std::string::npos;
}

kernels::DeviceStream stream_of(const at::Tensor& tensor) {
  const auto* guard = c10::impl::getDeviceGuardImpl(tensor.device().type());
  return {tensor.device().index(), guard->getStreamNativeHandle(guard->getStream(tensor.device()))};
}

void require_launched(kernels::LaunchError error, const char* operation) {
  if (error) throw Error(ErrorCode::kUnsupported, detail::concat(operation, ": the kernel was not launched: ", error));
}

}  // namespace daug::backend
