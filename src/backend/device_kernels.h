#pragma once
// From tensors on a CUDA device to the kernels for them.

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "kernels/device.h"

namespace daug::backend {

/// The element type of these when device kernels can read them together (undefined ones count as absent): on one CUDA
/// device, of one type, no gradient recorded unless the operation `has_gradient`, kernels compiled in.
std::optional<kernels::Element> device_element(std::initializer_list<at::Tensor> tensors, bool has_gradient = false);

/// Whether this kernel's tests have passed on a device (src/kernels/cuda/device_runs.csv). Others run on request alone.
bool ran_on_a_device(const char* kernel);

/// Whether a kernel is in a list ",name,name,", as the build makes it of that file.
bool is_listed(const char* kernel, const std::string& runs);

/// LibTorch's current stream on the device of a tensor.
kernels::DeviceStream stream_of(const at::Tensor& tensor);

/// Throws naming the operation where something went wrong: kUnsupported for a kernel that could not be launched, but
/// kOutOfMemory where it was for want of memory; kUnsupported where none was launched as an earlier call had left an
/// error behind, whatever error; and kDevice where a kernel failed while its device ran it: this one, if it was waited
/// for, or an earlier one.
void require_launched(const kernels::LaunchError& error, const std::string& operation);

/// Throws for an error (a cudaError_t) of a call about a captured graph, with what CUDA says of it and what was done:
/// as require_launched for a fault, put down to `blame`; else kOutOfMemory for want of memory and kUnsupported for all
/// that is refused.
[[noreturn]] void throw_graph_error(int error, const char* problem, const char* what, kernels::Blame blame);

}  // namespace daug::backend
