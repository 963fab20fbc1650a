#pragma once
// A CUDA device that others have left little of.

#include <ATen/ATen.h>

#include <cstdint>
#include <exception>
#include <vector>

#include "backend/fitting_rows.h"

namespace daug::test {

/// Holds what is free on the first device, to 16 MiB (for less than 10 LibTorch takes 20), while it lives, but for
/// `left` bytes that LibTorch has for its next tensors. Kernels and libraries, which take memory of their own when they
/// are first used, are to be used before.
class FullDevice {
 public:
  explicit FullDevice(std::int64_t left) {
    const at::Tensor kept = bytes_there(left);
    for (std::int64_t bytes = std::int64_t{1} << 36; bytes >= std::int64_t{1} << 21;) {
      try {
        held_.push_back(bytes_there(bytes));
      } catch (const std::exception& error) {
        if (!backend::out_of_memory(error)) throw;
        bytes /= 2;
      }
    }
  }

 private:
  static at::Tensor bytes_there(std::int64_t bytes) {
    return at::empty({bytes}, at::TensorOptions(at::kByte).device(at::Device(at::kCUDA, 0)));
  }

  std::vector<at::Tensor> held_;
};

}  // namespace daug::test
