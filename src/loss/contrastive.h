#pragma once
// The contrastive term: scores of all pairs of reports and images, in one matrix or in tiles.

#include <ATen/core/Tensor.h>

#include "loss/loss_inputs.h"
#include "loss/ring.h"

namespace daug::detail {

/// L_clip of n paired unit embeddings [n, D] as hybrid_contrastive_loss defines it, with every matrix whole. Any dtype
/// and device; differentiable any number of times. The rules and b may lie on the CPU.
at::Tensor reference_contrastive(const at::Tensor& image, const at::Tensor& text, const at::Tensor& tau,
                                 const at::Tensor& bias, const PairRules& rules, ContrastiveForm form);

/// Whether tiles multiply images and reports as the numbers of bfloat16 that both came as: where those of their device
/// do. The scales of their rows have to be powers of two then. `text` may be undefined.
bool multiplies_bfloat16(const at::Tensor& image, const at::Tensor& text, Execution execution);

/// The same of the n rows named by `index` (undefined: all), in tiles: nothing of n x n exists. Differentiable once,
/// with respect to the rows of image and text, tau and bias. float32 and float64, each through what tile_math() takes
/// for them and `execution`. With a `batch` the rows are this rank's, the rules those of all items, `index` undefined,
/// and the value that of all items. `bfloat16`: the rows are numbers of that type, and multiplied as such (see
/// multiplies_bfloat16). The rules and b may lie on the CPU beside rows on a device, which then is not waited for; with
/// `deferred` the CPU goes the same way.
at::Tensor tiled_contrastive(const Embeddings& image, const Embeddings& text, const at::Tensor& index,
                             const at::Tensor& tau, const at::Tensor& bias, const PairRules& rules,
                             ContrastiveForm form, Execution execution, const GlobalBatch* batch = nullptr,
                             bool bfloat16 = false, bool deferred = false);

/// tau v.c [N, K] of unit image rows v and directions c [K, D], without a normalised copy of the rows. Differentiable
/// once.
at::Tensor tiled_products(const Embeddings& image, const at::Tensor& directions, const at::Tensor& tau);

}  // namespace daug::detail
