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

/// Whether there are fewer devices than that; says so, where there are some in words that leave other tests alone.
inline bool fewer_devices_than(int count) {
  if (no_device()) return true;
  if (cuda_state().devices >= count) return false;
  std::cout << "skipped: what needs " << count << " CUDA devices, of which there are " << cuda_state().devices << "\n";
  return true;
}

}  // namespace daug::test
