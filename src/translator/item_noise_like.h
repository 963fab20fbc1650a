#pragma once
// The noise of images where these are.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace daug::detail {

/// item_noise of so many items, in images of the size of x's [B, C, H, W], in their type and on their device, which
/// nothing is waited for.
at::Tensor item_noise_like(const at::Tensor& x, const std::vector<std::uint64_t>& items, std::uint64_t seed,
                           std::string_view purpose);

}  // namespace daug::detail
