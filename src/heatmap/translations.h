#pragma once
// The check shared by what takes an image and its translations.

#include <ATen/core/Tensor.h>

#include "daug/core/error.h"

namespace daug {

/// Throws kInvalidArgument unless x is [B, C, H, W] and images [B, K, C, H, W] on its device.
inline void require_translations(const at::Tensor& x, const at::Tensor& images, const char* function) {
  require(x.dim() == 4, function, "x", "shape [B, C, H, W]", x.sizes());
  require(images.dim() == 5 && images.size(0) == x.size(0) && images.sizes().slice(2) == x.sizes().slice(1), function,
          "images", detail::concat("shape [B, K, C, H, W] matching x ", x.sizes()), images.sizes());
  require(images.device() == x.device(), function, "images", detail::concat("x's device, ", x.device()),
          images.device());
}

}  // namespace daug
