#pragma once
/// @file
/// Large batches in little memory: embeddings chunk by chunk, one loss over all of them.

#include <cstdint>
#include <functional>
#include <vector>

namespace at {
class Tensor;
}

namespace daug {

/// Embeddings [count, D] of the items [begin, begin + count) of a batch.
using EmbedChunk = std::function<at::Tensor(std::int64_t begin, std::int64_t count)>;

/// Embeddings [items, D] of a batch, of which only these are kept: the chunks are embedded without gradient, and each
/// is embedded once more when the backward pass of what is computed from them reaches it (GradCache, Gao et al., arXiv
/// 2101.06983). Values and gradients are those of embedding all items at once, up to rounding, and activations are
/// those of one chunk, for one forward pass more. Accumulating gradients over small batches instead would lose the
/// negatives of a contrastive loss.
///
/// - chunk_size: items a chunk, >= 1; the last one may be smaller. All in one chunk when it is 0 or items fit into one:
///   then they are embedded once, with their gradients, as without this function.
/// - embed: the same values at every call with the same arguments, so no random numbers of a shared generator; called
///   again in the backward pass, so what it refers to has to live until then. A module that uses statistics of the
///   batch does not give the same values in chunks.
/// - parameters: leaves that embed reads and that need a gradient; what is not named gets none.
///
/// Differentiable once. Throws kInvalidArgument for items < 1, chunk_size < 0 or another number of rows than asked for.
at::Tensor embed_in_chunks(std::int64_t items, std::int64_t chunk_size, const EmbedChunk& embed,
                           const std::vector<at::Tensor>& parameters);

}  // namespace daug
