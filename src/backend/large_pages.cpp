#include "backend/large_pages.h"

#include <ATen/ATen.h>

#include <cstdint>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace daug::backend {

void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t kPage = std::uintptr_t{1} << 21;  // of x86-64 and, with small pages of 4 KiB, of AArch64
  if (bytes < kPage) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory), end = begin + bytes;
  const std::uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish
#endif
}

at::Tensor empty_in_large_pages(const at::Tensor& x, at::IntArrayRef sizes, at::MemoryFormat format) {
  at::Tensor result = at::empty(sizes, x.options().memory_format(format));
  if (result.device().is_cpu()) prefer_large_pages(result.mutable_data_ptr(), result.nbytes());
  return result;
}

}  // namespace daug::backend
