#include "kernels/cuda/launch_check.h"

#include <cstdlib>

namespace daug::kernels::cuda {

std::atomic<bool>& checks_kernels() {
  static std::atomic<bool> on{switched_on(std::getenv("DAUG_CHECK_KERNELS"))};
  return on;
}

}  // namespace daug::kernels::cuda
