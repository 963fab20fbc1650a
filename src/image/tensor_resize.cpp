#include "daug/image/tensor_resize.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "backend/device_kernels.h"
#include "backend/fitting_rows.h"
#include "backend/fused_ops.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "kernels/cuda/launch_plan.h"

namespace daug {

at::Tensor resized(const at::Tensor& images, std::int64_t height, std::int64_t width, bool antialias,
                   Execution execution) try {
  constexpr const char* kFunction = "daug::resized";
  constexpr std::int64_t kLargestSide = 16384;  // resize's
  require(images.dim() == 4, kFunction, "images", "shape [B, C, H, W]", images.sizes());
  require(at::isFloatingType(images.scalar_type()), kFunction, "images", "floating point", images.scalar_type());
  require_range(height, 1, kLargestSide, kFunction, "height");
  require_range(width, 1, kLargestSide, kFunction, "width");
  const std::int64_t planes = images.size(0) * images.size(1), from_height = images.size(2),
                     from_width = images.size(3);
  require(planes == 0 || images.numel() > 0, kFunction, "images", "at least one pixel", images.sizes());
  if (from_height == height && from_width == width) return images;
  if (planes == 0) return at::zeros({images.size(0), images.size(1), height, width}, images.options());
  const auto element = backend::device_element({images});
  const bool ran = backend::ran_on_a_device("resize_images");
  const bool possible =
      element && planes <= kernels::cuda::kMostInGrid && std::max(from_height, from_width) <= kernels::cuda::kMostSide;
  if (backend::use_fused(execution, possible, kFunction, ran)) {
    kernels::ResizeImages p;
    p.planes = planes, p.height = from_height, p.width = from_width, p.out_height = height, p.out_width = width;
    const kernels::ResizeTables tables = kernels::resize_tables(p, antialias);
    const at::Tensor from = images.contiguous();
    const at::Tensor result = at::empty({images.size(0), images.size(1), height, width}, images.options());
    const at::Tensor values = backend::upload(at::tensor(tables.values, at::kFloat), images.device());
    p.images = from.const_data_ptr(), p.output = result.mutable_data_ptr();
    backend::require_launched(
        kernels::resize_images_device(p, tables, values.const_data_ptr<float>(), *element, backend::stream_of(images)),
        kFunction);
    return result;
  }
  const bool fits = from_height <= kLargestDeviceShrink * height && from_width <= kLargestDeviceShrink * width;
  if (antialias && !images.is_cpu() && !fits)
    fail(ErrorCode::kUnsupported, kFunction, "images",
         detail::concat("sides that shrink at most ", kLargestDeviceShrink, " times on ", images.device()),
         detail::concat(from_height, " x ", from_width, " to ", height, " x ", width));
  const at::Tensor wide = images.to(at::kDouble);
  const at::Tensor result = antialias ? at::_upsample_bilinear2d_aa(wide, {height, width}, /*align_corners=*/false)
                                      : at::upsample_bilinear2d(wide, {height, width}, /*align_corners=*/false);
  return result.to(images.scalar_type());
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::resized");
}

}  // namespace daug
