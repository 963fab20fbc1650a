#pragma once
// Whether devices that are there can be used.

#include "daug/backend/cuda.h"

namespace daug::backend {

/// `devices`, 1 or more, that LibTorch's CUDA part counts. None of them is of use unless LibTorch's CPU part, on which
/// all operators begin, is `attached` to it (at::hasCUDA): it looks for the CUDA part once, when it is first asked for
/// anything of it, and remembers that there was none. Any backward pass on the CPU asks.
inline CudaState attached_devices(int devices, bool attached) {
  if (attached) return {devices, {}};
  return {0,
          "LibTorch was asked about CUDA before its CUDA part was loaded, and takes it to be absent from then on; call "
          "daug::cuda_state() before anything else of LibTorch (a backward pass, say), or link libtorch_cuda"};
}

}  // namespace daug::backend
