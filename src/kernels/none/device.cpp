// The device kernels of a build without CUDA.

#include "kernels/device.h"

namespace daug::kernels {

namespace {
constexpr const char* kAbsent = "this build has no CUDA kernels (DAUG_CUDA)";
}

bool device_kernels_compiled() { return false; }

std::int64_t group_norm_silu_workspace(const GroupNormSiluOf<void>&, Element) { return 0; }

LaunchError group_norm_silu_device(const GroupNormSiluOf<void>&, Element, float*, const DeviceStream&) {
  return kAbsent;
}

LaunchError solver_update_device(const SolverUpdateOf<void>&, Element, const DeviceStream&) { return kAbsent; }

}  // namespace daug::kernels
