#pragma once
// What is drawn at random in a training pass.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace daug::detail {

/// Every image has streams of its own, so that what is drawn for it depends neither on its batch nor on how often a
/// part is computed again.
struct ItemNoise {
  const std::vector<std::uint64_t>& items;  ///< one number an image
  std::uint64_t seed;
};

/// What the branches of `blocks` residual blocks are multiplied with, [blocks * branches, B] as `like`: 0 with
/// probability p, else 1 / (1 - p), where p grows from rate / blocks to rate (arXiv 1603.09382, eq. 4).
at::Tensor path_factors(double rate, std::int64_t blocks, std::int64_t branches, const ItemNoise& noise,
                        const at::Tensor& like);

/// A branch [B, ...] times the factors of row `row`; undefined factors change nothing.
at::Tensor scaled_path(const at::Tensor& branch, const at::Tensor& factors, std::int64_t row);

/// Which of K extra channels an item does not see, [B, K, 1, 1] bool: each with probability `rate`, and all of them
/// with that probability once more.
at::Tensor hidden_channels(double rate, std::int64_t channels, const ItemNoise& noise);

}  // namespace daug::detail
