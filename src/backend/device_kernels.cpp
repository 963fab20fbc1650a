#include "backend/device_kernels.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "daug/core/error.h"
#include "kernels/cuda/launch_check.h"

namespace daug::backend {

std::optional<kernels::Element> device_element(std::initializer_list<at::Tensor> tensors, bool has_gradient) {
  if (!kernels::device_kernels_compiled()) return {};
  const at::Tensor* first = nullptr;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) continue;
    if (!first) first = &tensor;
    if (!tensor.is_cuda() || tensor.device() != first->device() || tensor.scalar_type() != first->scalar_type() ||
        tensor.layout() != at::kStrided || tensor.is_neg() ||
        (!has_gradient && at::GradMode::is_enabled() && tensor.requires_grad()))
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
  static const std::string runs = DAUG_DEVICE_RUNS;
  return is_listed(kernel, runs);
}

bool is_listed(const char* kernel, const std::string& runs) {
  return runs.find(detail::concat(",", kernel, ",")) != std::string::npos;
}

kernels::DeviceStream stream_of(const at::Tensor& tensor) {
  const auto* guard = c10::impl::getDeviceGuardImpl(tensor.device().type());
  return {tensor.device().index(), guard->getStreamNativeHandle(guard->getStream(tensor.device()))};
}

void require_launched(const kernels::LaunchError& error, const std::string& operation) {
  if (!error) return;
  const std::string kernel = error.kernel ? detail::concat("kernel ", error.kernel) : "the kernel";
  switch (error.blame) {
    case kernels::Blame::kCall:
      throw Error(error.of_memory ? ErrorCode::kOutOfMemory : ErrorCode::kUnsupported,
                  detail::concat(operation, ": ", kernel, " was not launched: ", error.problem));
    case kernels::Blame::kLeftBehind:  // a shortage, too, was that of the call before: smaller batches would not help
      throw Error(
          ErrorCode::kUnsupported,
          detail::concat(operation, ": no kernel was launched, as a call of this CUDA runtime before it had left an ",
                         "error behind: ", error.problem, ". That is cleared now"));
    case kernels::Blame::kKernel:
      throw Error(ErrorCode::kDevice,
                  detail::concat(operation, ": ", kernel, " failed on its device: ", error.problem));
    case kernels::Blame::kEarlier:
      throw Error(ErrorCode::kDevice,
                  detail::concat(operation, ": its device has failed: ", error.problem,
                                 ". An earlier kernel may be to blame, of any operation: with DAUG_CHECK_KERNELS=1 in "
                                 "the environment daug's are waited for, with CUDA_LAUNCH_BLOCKING=1 all, and the "
                                 "error comes from the call that caused it"));
  }
}

void throw_graph_error(int error, const char* problem, const char* what, kernels::Blame blame) {
  const std::string operation = detail::concat("daug::backend::GraphCache: ", what);
  if (kernels::cuda::is_fault(error)) {
    kernels::LaunchError fault(problem);
    fault.blame = blame;
    fault.kernel = "of the graph";  // told where the graph is to blame
    require_launched(fault, operation);
  }
  throw Error(kernels::cuda::is_shortage(error) ? ErrorCode::kOutOfMemory : ErrorCode::kUnsupported,
              detail::concat(operation, ": ", problem));
}

}  // namespace daug::backend
