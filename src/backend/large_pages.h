#pragma once
// Memory that nobody has written to yet, in fewer and larger pages.

#include <ATen/core/Tensor.h>

#include <cstddef>

namespace daug::backend {

/// Asks the system to back what is not yet backed of these bytes with its large pages, where it has them and one fits:
/// the first write to each of 512 small pages costs several times what one to a large page does. Never fails; contents
/// stay.
void prefer_large_pages(void* memory, std::size_t bytes) noexcept;

/// An uninitialised tensor of x's type and device; on the CPU its memory was asked for so.
at::Tensor empty_in_large_pages(const at::Tensor& x, at::IntArrayRef sizes, at::MemoryFormat format);

}  // namespace daug::backend
