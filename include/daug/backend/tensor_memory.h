#pragma once
/// @file
/// Memory of CPU tensors that is used again instead of going back to the system.

#include <cstddef>
#include <cstdint>

namespace daug {

/// What the CPU tensors of this process asked for since `reuse_tensor_memory` was first called.
struct TensorMemory {
  std::int64_t requests = 0;  ///< blocks that tensors asked for
  std::int64_t fresh = 0;     ///< of these, blocks that came from the system
  std::size_t kept = 0;       ///< bytes of freed blocks that wait for the next tensor
};

/// Makes LibTorch keep the memory of freed CPU tensors for the next ones of about their size (at most an eighth
/// larger), up to `most_bytes` of it in all; 0 hands everything back and keeps nothing from then on.
///
/// A sampler makes the same tensors at every step. The system's allocator returns large ones to the kernel, which
/// clears their pages again at the next step; kept ones cost nothing. Results do not change.
///
/// For the whole process, so a choice of the program and not of the library: daug's own programs make it. Call it
/// before other threads make tensors, because LibTorch's allocator is exchanged without a lock; later calls only change
/// the limit, from any thread. Throws kUnsupported when an allocator of higher priority is set already.
void reuse_tensor_memory(std::size_t most_bytes = std::size_t{1} << 30);

/// The counts so far; all zero before `reuse_tensor_memory`.
TensorMemory tensor_memory();

}  // namespace daug
