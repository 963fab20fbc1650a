#include "daug/heatmap/encoder_maps.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "backend/device_kernels.h"
#include "backend/fitting_rows.h"
#include "backend/fused_ops.h"
#include "backend/threads.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/map_scaler.h"
#include "daug/heatmap/maps.h"
#include "daug/image/tensor_resize.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/map_plan.h"
#include "translations.h"

namespace daug {

namespace {

constexpr const char* kFunction = "daug::encoder_maps";

/// What is fitted on other maps; null where it is not asked for.
struct Fitted {
  const MapScaler* scaler;
  const MapCalibration* calibration;
};

/// [H, W] of the result.
std::vector<std::int64_t> result_size(const EncoderMapOptions& options, const at::Tensor& images) {
  return {options.height > 0 ? options.height : images.size(-2), options.width > 0 ? options.width : images.size(-1)};
}

at::ScalarType result_type(const EncoderMapOptions& options, const at::Tensor& images) {
  return options.half ? at::kHalf : images.scalar_type();
}

/// min_max_scaled with the quantile q in the maximum's place. Sorts, because at::quantile refuses large planes.
at::Tensor quantile_scaled(const at::Tensor& maps, double q) {
  const at::Tensor low = maps.amin({-2, -1}, true);  // NaN where there is one
  const at::Tensor sorted = std::get<0>(maps.flatten(2).sort(-1));
  const double place = q * static_cast<double>(sorted.size(2) - 1);
  const auto below = static_cast<std::int64_t>(place), above = std::min(below + 1, sorted.size(2) - 1);
  const at::Tensor top = at::lerp(sorted.select(2, below), sorted.select(2, above), place - static_cast<double>(below));
  const at::Tensor range = top.unsqueeze(-1).unsqueeze(-1) - low;
  return at::where(range > 0, (maps - low) / range, at::zeros_like(maps));
}

/// What follows the difference, in LibTorch's operators.
at::Tensor finished(at::Tensor maps, const EncoderMapOptions& options, const Fitted& fitted) {
  const auto size = result_size(options, maps);
  const at::ScalarType type = result_type(options, maps);
  maps = smoothed(maps, options.sigma);
  if (maps.numel() == 0) return at::zeros({maps.size(0), maps.size(1), size[0], size[1]}, maps.options().dtype(type));
  if (options.normalization == MapNormalization::kScaler) maps = fitted.scaler->apply(maps);
  if (options.normalization == MapNormalization::kCalibrated) maps = fitted.calibration->calibrated(maps);
  const bool to_unit =
      options.normalization == MapNormalization::kMinMax || options.normalization == MapNormalization::kReference;
  if (to_unit) maps = options.upper_quantile < 1 ? quantile_scaled(maps, options.upper_quantile) : min_max_scaled(maps);
  maps = resized(maps, size[0], size[1], options.antialias, options.execution);
  return (to_unit && options.upper_quantile < 1 ? maps.clamp_max(1) : maps).to(type);
}

/// Whether a kernel makes the maps. x undefined: `images` [B, K, 1, H, W] are maps.
bool takes_kernel(const at::Tensor& x, const at::Tensor& images, const EncoderMapOptions& options) {
  const auto element = backend::device_element({x, images});
  const std::int64_t height = images.size(3), width = images.size(4);
  const bool fits =
      element == kernels::Element::kFloat32 &&
      kernels::cuda::fits_map_postprocess(height, width, kernels::blur_radius(options.sigma, height),
                                          kernels::blur_radius(options.sigma, width), result_size(options, images)[0]);
  const bool calibrated = options.normalization == MapNormalization::kCalibrated;
  const bool on_cpu = !calibrated && backend::plain_float({x, images});
  return backend::use_fused(
      options.execution, images.size(2) > 0 && (element ? fits : on_cpu), kFunction,
      !element || backend::ran_on_a_device("map_postprocess"),
      calibrated ? "kAuto or kReference for these arguments (the kernel that calibrates maps takes float32 without "
                   "gradients on a CUDA device, in builds for CUDA, within the limits of docs/architecture.md)"
                 : nullptr);
}

/// The same arguments.
at::Tensor fused(const at::Tensor& x, const at::Tensor& images, const EncoderMapOptions& options,
                 const Fitted& fitted) {
  const auto size = result_size(options, images);
  // The kernel of devices writes halves, that of the CPU float32.
  const at::ScalarType type = images.is_cuda() ? result_type(options, images) : images.scalar_type();
  const at::Tensor result = at::empty({images.size(0), images.size(1), size[0], size[1]}, images.options().dtype(type));
  if (result.numel() == 0) return result.to(result_type(options, images));
  const at::Tensor original = x.defined() ? x.contiguous() : x, translated = images.contiguous();
  kernels::MapPostprocess p;
  p.batch = images.size(0);
  p.maps = images.size(1);
  p.channels = images.size(2);
  p.height = images.size(3);
  p.width = images.size(4);
  p.out_height = size[0];
  p.out_width = size[1];
  p.x = original.defined() ? original.const_data_ptr<float>() : nullptr;
  p.images = translated.const_data_ptr<float>();
  p.output_stride = result.stride(0);
  p.scale_images = options.normalization == MapNormalization::kReference;
  p.sigma = options.sigma;
  p.antialias = options.antialias;
  std::vector<float> mean, factor;
  MapCalibration::PixelTables healthy;
  if (options.normalization == MapNormalization::kScaler) {
    const MapScaler& scaler = *fitted.scaler;
    for (std::size_t k = 0; k < scaler.mean().size(); ++k) {
      const double deviation = scaler.deviation()[k];
      mean.push_back(static_cast<float>(scaler.mean()[k]));
      factor.push_back(deviation > 0 ? static_cast<float>(1 / deviation) : 0.0F);
    }
    p.scaling = kernels::MapScaling::kStandard;
    p.mean = mean.data();
    p.factor = factor.data();
    p.limit = static_cast<float>(scaler.limit());
  } else if (options.normalization == MapNormalization::kCalibrated) {
    healthy.healthy = backend::upload(fitted.calibration->pixel_tables().healthy, images.device());
    healthy.minus_log_p = backend::upload(fitted.calibration->pixel_tables().minus_log_p, images.device());
    p.scaling = kernels::MapScaling::kCalibrated;
    p.regions = fitted.calibration->regions();
    p.healthy_values = healthy.healthy.size(2);
    p.healthy = healthy.healthy.const_data_ptr<float>();
    p.minus_log_p = healthy.minus_log_p.const_data_ptr<float>();
  } else if (options.normalization != MapNormalization::kNone) {
    p.scaling = kernels::MapScaling::kMinMax;
    p.upper_quantile = options.upper_quantile;
  }
  if (!images.is_cuda()) {
    p.output = result.mutable_data_ptr<float>();
    kernels::map_postprocess(p, backend::torch_threads());
    return result.to(result_type(options, images));
  }
  const kernels::MapTables tables = kernels::map_tables(p);
  const at::Tensor values = backend::upload(at::tensor(tables.values, at::kFloat), images.device());
  const at::Tensor workspace = at::empty({kernels::map_postprocess_workspace(p)}, images.options());
  backend::require_launched(
      kernels::map_postprocess_device(
          p, tables, values.const_data_ptr<float>(), workspace.mutable_data_ptr<float>(), result.mutable_data_ptr(),
          options.half ? kernels::Element::kFloat16 : kernels::Element::kFloat32, backend::stream_of(images)),
      kFunction);
  return result;
}

/// What both forms require of their arguments; images [B, K, C, H, W].
void require_usable(const at::Tensor& images, const EncoderMapOptions& options, const Fitted& fitted) {
  options.validate();
  const bool empty = images.size(3) == 0 || images.size(4) == 0;
  require(!empty || images.size(0) * images.size(1) == 0, kFunction, "images", "at least one pixel", images.sizes());
  const std::int64_t maps = images.size(1), height = images.size(3), width = images.size(4);
  if (options.normalization == MapNormalization::kScaler) {
    const MapScaler* scaler = fitted.scaler;
    require(scaler != nullptr, kFunction, "scaler", "a MapScaler for MapNormalization::kScaler", "null");
    require(static_cast<std::int64_t>(scaler->mean().size()) == maps, kFunction, "scaler",
            detail::concat("fitted on ", maps, " maps"), scaler->mean().size());
  }
  if (options.normalization == MapNormalization::kCalibrated) {
    const MapCalibration* c = fitted.calibration;
    require(c != nullptr, kFunction, "calibration", "a MapCalibration for MapNormalization::kCalibrated", "null");
    const auto targets = static_cast<std::int64_t>(c->targets().size());
    require(targets == maps && c->height() == height && c->width() == width, kFunction, "calibration",
            detail::concat("fitted on ", maps, " maps of ", height, " x ", width),
            detail::concat(targets, " of ", c->height(), " x ", c->width()));
  }
}

}  // namespace

void EncoderMapOptions::validate() const {
  constexpr const char* kName = "daug::EncoderMapOptions";
  require_range(sigma, 0.0, 1e4, kName, "sigma");
  require(upper_quantile > 0 && upper_quantile <= 1, kName, "upper_quantile", "a value in (0, 1]", upper_quantile);
  require_range(height, 0, 16384, kName, "height");
  require_range(width, 0, 16384, kName, "width");
}

at::Tensor encoder_maps(const at::Tensor& x, const at::Tensor& images, const EncoderMapOptions& options,
                        const MapScaler* scaler, const MapCalibration* calibration) try {
  const Fitted fitted{scaler, calibration};
  require_translations(x, images, kFunction);
  require_usable(images, options, fitted);
  if (takes_kernel(x, images, options)) return fused(x, images, options, fitted);
  if (options.normalization == MapNormalization::kReference)
    return finished(difference_map(image_scaled(x), image_scaled(images)), options, fitted);
  return finished(difference_map(x, images), options, fitted);
} catch (const std::exception& error) {
  backend::rethrow_typed(error, kFunction);
}

at::Tensor encoder_maps(const at::Tensor& maps, const EncoderMapOptions& options, const MapScaler* scaler,
                        const MapCalibration* calibration) try {
  const Fitted fitted{scaler, calibration};
  require(maps.dim() == 4, kFunction, "maps", "shape [B, K, H, W]", maps.sizes());
  require(options.normalization != MapNormalization::kReference, kFunction, "options.normalization",
          "another one than kReference, which needs the images", "kReference");
  require_usable(maps.unsqueeze(2), options, fitted);
  if (takes_kernel({}, maps.unsqueeze(2), options)) return fused({}, maps.unsqueeze(2), options, fitted);
  return finished(maps, options, fitted);
} catch (const std::exception& error) {
  backend::rethrow_typed(error, kFunction);
}

}  // namespace daug
