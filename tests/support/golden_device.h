#pragma once
// Golden sets on a CUDA device.

#include <iostream>

#include "support/device.h"
#include "support/golden.h"

namespace daug::test {

/// Whether there is no device or nothing to compare with; says why, in the latter case not in the words by which ctest
/// takes all tests of devices for skipped.
inline bool no_golden_on_device() {
  if (no_device()) return true;
  if (shared_data()) return false;
  std::cout << "golden sets on a device: skipped (DAUG_SHARED_DATA names no folder)\n";
  return true;
}

}  // namespace daug::test
