// The device kernels of a build without CUDA.

#include "kernels/device.h"

namespace daug::kernels {

namespace {
constexpr const char* kAbsent = "this build has no CUDA kernels (DAUG_CUDA)";
}

bool device_kernels_compiled() { return false; }

std::int64_t group_norm_silu_workspace(const GroupNormSiluOf<void>&, const MixedElements&) { return 0; }

LaunchError group_norm_silu_device(const GroupNormSiluOf<void>&, const MixedElements&, float*, const DeviceStream&,
                                   float*) {
  return kAbsent;
}

LaunchError group_norm_silu_resized_device(const ResizedGroupNormSilu&, const MixedElements&, float*,
                                           const DeviceStream&) {
  return kAbsent;
}

std::int64_t group_norm_silu_gradient_workspace(const GroupNormSiluOf<void>&, const GroupNormGradientsOf<void>&,
                                                const MixedElements&) {
  return 0;
}

LaunchError group_norm_silu_gradient_device(const GroupNormSiluOf<void>&, const GroupNormGradientsOf<void>&,
                                            const MixedElements&, const float*, float*, const DeviceStream&) {
  return kAbsent;
}

LaunchError solver_update_device(const SolverUpdateOf<void>&, Element, const DeviceStream&) { return kAbsent; }

LaunchError residual_add_device(const ResidualAdd&, const MixedElements&, const DeviceStream&) { return kAbsent; }

LaunchError adamw_device(const AdamwStep&, float*, const DeviceStream&) { return kAbsent; }

LaunchError add_softmax_sums_device(const ScoreTile&, float*, const SoftmaxSums&, float*, const DeviceStream&) {
  return kAbsent;
}

LaunchError softmax_gradient_device(const ScoreTile&, const SoftmaxSums&, float, void*, bool, const DeviceStream&) {
  return kAbsent;
}

LaunchError sigmoid_loss_device(const ScoreTile&, const float*, double*, const DeviceStream&) { return kAbsent; }

LaunchError sigmoid_gradient_device(const ScoreTile&, const float*, float, void*, bool, double*, const DeviceStream&) {
  return kAbsent;
}

std::int64_t map_postprocess_workspace(const MapPostprocess&) { return 0; }

LaunchError map_postprocess_device(const MapPostprocess&, const MapTables&, const float*, float*, void*, Element,
                                   const DeviceStream&) {
  return kAbsent;
}

LaunchError resize_images_device(const ResizeImages&, const ResizeTables&, const float*, Element, const DeviceStream&) {
  return kAbsent;
}

LaunchError augment_images_device(const AugmentImages&, Element, const DeviceStream&) { return kAbsent; }

std::int64_t search_select_workspace(const SearchTile&) { return 0; }

LaunchError search_select_device(const SearchTile&, std::uint64_t*, const DeviceStream&) { return kAbsent; }

}  // namespace daug::kernels
