#pragma once
// Kernels that run on a CUDA device. Where this is not compiled for CUDA the same functions say so.
//
// Nothing here waits for the device, unless kernels are checked (cuda/launch_check.h): a launch is queued on the
// caller's stream, and errors of running work surface at a later launch or at the caller's next synchronisation.

#include <cstdint>

#include "kernels/adamw.h"
#include "kernels/augment_images.h"
#include "kernels/contrastive_tile.h"
#include "kernels/group_norm_silu.h"
#include "kernels/map_plan.h"
#include "kernels/residual_add.h"
#include "kernels/resize_images.h"
#include "kernels/search_select.h"
#include "kernels/solver_update.h"

namespace daug::kernels {

/// What one element of a tensor is. Arithmetic is float32 for all of them.
enum class Element { kFloat32, kFloat16, kBfloat16 };

/// What elements are where a few numbers stand beside many values.
struct MixedElements {
  Element values;      ///< of inputs and output, and of the gradients with respect to them
  Element parameters;  ///< of all else and its gradients: as the values, or kFloat32

  MixedElements(Element of_all) : values(of_all), parameters(of_all) {}
  MixedElements(Element of_values, Element of_parameters) : values(of_values), parameters(of_parameters) {}
};

/// Where a kernel runs.
struct DeviceStream {
  int device = 0;          ///< its number, as the CUDA runtime counts
  void* stream = nullptr;  ///< cudaStream_t of that device
};

/// What caused an error.
enum class Blame {
  kCall,     ///< this call: what was asked of it, or launching a kernel
  kEarlier,  ///< a kernel that had been launched before, as far as is known: the device had failed when this call came
  kLeftBehind,  ///< a call of this CUDA runtime before this one, whose error nobody had read; the device works
  kKernel,      ///< the kernel that is named, which was waited for
};

/// What became of the launches of a call.
struct LaunchError {
  const char* problem = nullptr;  ///< null: nothing went wrong
  Blame blame = Blame::kCall;
  const char* kernel = nullptr;  ///< null: not known
  bool of_memory = false;        ///< the device had too little memory left for what the runtime needs

  LaunchError(const char* of_call = nullptr) : problem(of_call) {}
  explicit operator bool() const { return problem != nullptr; }
};

/// Whether the kernels are compiled in.
bool device_kernels_compiled();

/// Floats of device memory that group_norm_silu_device works with.
std::int64_t group_norm_silu_workspace(const GroupNormSiluOf<void>& problem, const MixedElements& elements);

/// group_norm_silu on a device. Sums are taken about a value of the group, in float32, in an order that depends on the
/// problem alone: bit-equal whenever repeated, and a sample's result does not depend on its batch. `workspace` as
/// above, without other users until this is done. `moments` [N, G, 2], unless null: what the gradient needs of each
/// group, how far its mean is above its first value, and 1 / sqrt(variance + eps).
LaunchError group_norm_silu_device(const GroupNormSiluOf<void>& problem, const MixedElements& elements,
                                   float* workspace, const DeviceStream& where, float* moments = nullptr);

/// The same of a result that changes its size on the way, and of the input beside it, without moments. `workspace`:
/// group_norm_silu_workspace of `problem.norm`.
LaunchError group_norm_silu_resized_device(const ResizedGroupNormSilu& problem, const MixedElements& elements,
                                           float* workspace, const DeviceStream& where);

/// Floats of device memory that group_norm_silu_gradient_device works with.
std::int64_t group_norm_silu_gradient_workspace(const GroupNormSiluOf<void>& forward,
                                                const GroupNormGradientsOf<void>& gradients,
                                                const MixedElements& elements);

/// group_norm_silu_gradient on a device: of `forward`, whose output is not read, and the `moments` that it kept. Sums
/// are float32, in an order that depends on the problem alone, and weight and bias add the samples up in float64:
/// bit-equal whenever repeated, and a sample's gradients (all but those of weight and bias) do not depend on its batch.
/// Without values (no samples, channels or positions) nothing is written. `workspace` as above, without other users
/// until this is done.
LaunchError group_norm_silu_gradient_device(const GroupNormSiluOf<void>& forward,
                                            const GroupNormGradientsOf<void>& gradients, const MixedElements& elements,
                                            const float* moments, float* workspace, const DeviceStream& where);

/// solver_update on a device; `strength` lies there too. Bit-equal whenever repeated.
LaunchError solver_update_device(const SolverUpdateOf<void>& update, Element element, const DeviceStream& where);

/// A residual block's end on a device, of any size, doubled or not. Bit-equal whenever repeated; an element does not
/// depend on others.
LaunchError residual_add_device(const ResidualAdd& problem, const MixedElements& elements, const DeviceStream& where);

/// A step of AdamW (adamw.h), whose arrays and numbers lie on the device. `workspace`: kAdamwWorkspace floats, without
/// other users until this is done. Bit-equal whenever repeated.
LaunchError adamw_device(const AdamwStep& step, float* workspace, const DeviceStream& where);

/// add_softmax_sums on a device, of tiles within cuda::fits_tile. `scores` null: they are not written. `workspace`: 2 *
/// cuda::tile_blocks(rows) * columns floats. All these are float32 but for sums that say otherwise, and bit-equal
/// whenever repeated: sums have an order that depends on rows and columns alone.
LaunchError add_softmax_sums_device(const ScoreTile& tile, float* scores, const SoftmaxSums& sums, float* workspace,
                                    const DeviceStream& where);

/// softmax_gradient on a device, from the sums (row_attraction is not read). `gradient`: float32 as on the CPU, or with
/// `bfloat16` numbers of that type, rounded once, whose rows begin 2 * columns apart: each in the first half of the row
/// of products that it may be written over.
LaunchError softmax_gradient_device(const ScoreTile& tile, const SoftmaxSums& sums, float scale, void* gradient,
                                    bool bfloat16, const DeviceStream& where);

/// The losses of add_sigmoid_loss on a device: what each block of rows adds up to, cuda::tile_blocks(rows) numbers, is
/// written to `block_sums`. `bias`: one number, which lies on the device too.
LaunchError sigmoid_loss_device(const ScoreTile& tile, const float* bias, double* block_sums,
                                const DeviceStream& where);

/// sigmoid_gradient on a device; `gradient` like softmax_gradient_device's, `bias` and `block_sums` like
/// sigmoid_loss_device's.
LaunchError sigmoid_gradient_device(const ScoreTile& tile, const float* bias, float scale, void* gradient,
                                    bool bfloat16, double* block_sums, const DeviceStream& where);

/// Floats of device memory that map_postprocess_device works with, for a problem that has maps of at least one pixel.
std::int64_t map_postprocess_workspace(const MapPostprocess& problem);

/// map_postprocess on a device. `values` are those of the tables (map_tables), put there; mean and factor are read from
/// them, the problem's are not; healthy and minus_log_p lie there. The maps go to `output` in place of the problem's,
/// as `element`, kFloat32 or kFloat16 (rounded once), and output_stride counts these. Bit-equal whenever repeated, and
/// an image's maps do not depend on its batch. `workspace` as above, without other users until this is done.
LaunchError map_postprocess_device(const MapPostprocess& problem, const MapTables& tables, const float* values,
                                   float* workspace, void* output, Element element, const DeviceStream& where);

/// Planes resampled on a device. `values` are those of the tables (resize_tables of the problem), put there. Bit-equal
/// whenever repeated; a plane does not depend on the others, nor on where it begins. A pixel that is not finite reaches
/// as far as the filter does, or a pixel further.
LaunchError resize_images_device(const ResizeImages& problem, const ResizeTables& tables, const float* values,
                                 Element element, const DeviceStream& where);

/// Images and maps moved together on a device (augment_images.h). Bit-equal whenever repeated; an item does not depend
/// on the others.
LaunchError augment_images_device(const AugmentImages& problem, Element element, const DeviceStream& where);

/// Numbers of 64 bits in device memory that search_select_device works with.
std::int64_t search_select_workspace(const SearchTile& tile);

/// Puts the best rows of a tile among the best of the tiles before it (search_select.h). What it finds is the same
/// whenever repeated, for a query whatever the others and however rows are cut into tiles.
LaunchError search_select_device(const SearchTile& tile, std::uint64_t* workspace, const DeviceStream& where);

}  // namespace daug::kernels
