#pragma once
/// @file
/// The hybrid loss of a batch whose items lie on several processes, without gathering embeddings or scores.

#include "daug/loss/hybrid_contrastive_loss.h"

namespace c10d {
class ProcessGroup;
}

namespace daug {

/// What the caller does with the gradients of parameters that every rank has a copy of.
enum class GradientReduction {
  kMean,  ///< averages them over the ranks, as DistributedDataParallel does
  kSum,   ///< adds them up
};

/// hybrid_contrastive_loss of the items of all ranks together. Every rank calls it with its own items (as many as it
/// likes, none with a text included), the same options and copies of class_prompts and of the scalars, and later calls
/// backward with the same gradient of the output; every rank gets the loss of the whole batch.
///
/// After the reduction the gradients of parameters equal those of one process with all items. For that the gradients of
/// a rank's embeddings are those of the one process (kSum) or `size` times as large (kMean). Those of logit_scale and
/// logit_bias through the contrastive term are the same on every rank.
///
/// Blocks of images travel once around the ring of ranks in the forward pass and once, with their gradients, in the
/// backward pass: a rank holds its own items, one block of another's, that block's gradient, and one tile of scores.
/// With studies or label_pairs the numbers of studies or the labels of all items are gathered, no embeddings. The sums
/// of LabelPairs::kSoft's attractions are shared: each rank makes those of its own items.
///
/// - local: as hybrid_contrastive_loss; `study` numbers have the same meaning on all ranks. What of it lies on the CPU
///   beside embeddings on a device travels from that device, as embeddings do. Embeddings of 16 bits are computed with
///   as there. bfloat16 on a device travels as it is; its gradients are added up and travel in float32, and are rounded
///   once. What else is of 16 bits is float32 before it travels.
/// - group: a process group with a backend for the embeddings' device; NCCL alone will do on CUDA devices. Gloo is
///   tested; NCCL has not been run. The first exchange, of seven numbers a rank, is on the CPU if the group has a
///   backend for that; if not, on the embeddings' device, of a rank without any there on the one that the group is
///   bound to or the current one. Ranks are processes: several groups in threads of one process need
///   TORCH_FR_BUFFER_SIZE=0 in the environment, as LibTorch's record of collectives is one unguarded map a process
///   (seen with 2.11).
///
/// Deterministic; tiles on every rank, whatever options.execution; differentiable once. Throws as
/// hybrid_contrastive_loss; kMismatch on all other ranks when those of one are refused, and on all ranks when they
/// differ in shapes, dtype or kind of device.
HybridLossOutput distributed_contrastive_loss(const HybridLossInputs& local, const HybridLossOptions& options,
                                              c10d::ProcessGroup& group,
                                              GradientReduction reduction = GradientReduction::kMean);

}  // namespace daug
