#pragma once
// Tests that need a CUDA device.

#include <iostream>

#include "daug/backend/cuda.h"

namespace daug::test {

/// Whether there is no device; says why the rest of a test is left out, as the labels of ctest expect.
inline bool no_device() {
  if (cuda_state().devices > 0) return false;
  std::cout << "no CUDA device: " << cuda_state().problem << "\n";
  return true;
}

}  // namespace daug::test
