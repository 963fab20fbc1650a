#pragma once
/// @file
/// Gaussian noise that belongs to an item, not to a batch.

#include <cstdint>
#include <string_view>
#include <vector>

namespace at {
class Tensor;
}

namespace daug {

/// Standard normal float32 noise [B, channels, height, width] on the CPU; row i is a function of (seed, items[i],
/// purpose) alone, so it does not depend on batch size, order or thread count. Throws kInvalidArgument for a negative
/// size.
at::Tensor item_noise(const std::vector<std::uint64_t>& items, std::int64_t channels, std::int64_t height,
                      std::int64_t width, std::uint64_t seed, std::string_view purpose);

}  // namespace daug
