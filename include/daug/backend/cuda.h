#pragma once
/// @file
/// CUDA devices: loaded when a program asks for them, so that programs start fast and run where there are none.

#include <c10/core/Device.h>

#include <string>

namespace daug {

/// What this process can do with CUDA devices.
struct CudaState {
  int devices = 0;      ///< that tensors can be put on
  std::string problem;  ///< why there are none; empty otherwise
};

/// Loads LibTorch's CUDA part, which lies beside its CPU part in the wheels that have one, and counts devices. The
/// first call does the work (seconds). Call it before anything asks LibTorch of CUDA, which any backward pass does, on
/// the CPU too: LibTorch remembers that there was none, devices are of no use, and `problem` says so. A program that
/// links libtorch_cuda may call it whenever it likes. Convolutions of float32 are then computed in float32 there, not
/// with inputs rounded to 10 bits (TF32) as is LibTorch's default; a program may set that again. Safe to call from
/// several threads.
const CudaState& cuda_state();

/// Whether `name` is that of a device, "cpu", "cuda" or "cuda:N" with N below 100; not whether there is one.
bool is_device_name(const std::string& name);

/// The device called "cpu", "cuda" (the first one) or "cuda:N"; "auto" is cuda where there is one, else cpu. Throws
/// kInvalidArgument for another name and kUnsupported, with the problem, for a device that is not there.
c10::Device device_called(const std::string& name);

}  // namespace daug
