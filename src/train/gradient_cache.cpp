#include "daug/train/gradient_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "backend/recomputed.h"
#include "daug/core/error.h"

namespace daug {

at::Tensor embed_in_chunks(std::int64_t items, std::int64_t chunk_size, const EmbedChunk& embed,
                           const std::vector<at::Tensor>& parameters) {
  constexpr const char* kFunction = "daug::embed_in_chunks";
  require(items >= 1, kFunction, "items", "at least 1", items);
  require(chunk_size >= 0, kFunction, "chunk_size", "at least 0", chunk_size);
  const auto checked = [kFunction, embed](std::int64_t begin, std::int64_t count) {
    at::Tensor rows = embed(begin, count);
    require(rows.defined() && rows.dim() == 2 && rows.size(0) == count, kFunction, "embed",
            detail::concat("shape [", count, ", D]"), rows.defined() ? rows.sizes() : at::IntArrayRef{});
    return rows;
  };
  if (chunk_size == 0 || chunk_size >= items) return checked(0, items);
  std::vector<at::Tensor> chunks;
  const at::Tensor nothing = at::empty({0});  // what the chunk is made from stays with embed
  for (std::int64_t begin = 0; begin < items; begin += chunk_size) {
    const std::int64_t count = std::min(chunk_size, items - begin);
    chunks.push_back(backend::recomputed(
        [checked, begin, count](const at::Tensor&, const at::Tensor&) { return checked(begin, count); }, nothing,
        nothing, parameters));
  }
  return at::cat(chunks);
}

}  // namespace daug
