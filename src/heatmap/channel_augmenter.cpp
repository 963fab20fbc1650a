#include "daug/heatmap/channel_augmenter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "backend/device_kernels.h"
#include "backend/fitting_rows.h"
#include "backend/fused_ops.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/core/random.h"
#include "kernels/cuda/launch_plan.h"

namespace daug {

namespace {

/// Throws unless there are maps for every image, of its size and on its device.
void require_fitting_maps(const at::Tensor& image, const at::Tensor& maps, const char* function) {
  require(maps.defined() && maps.dim() == 4 && maps.size(0) == image.size(0) &&
              maps.sizes().slice(2) == image.sizes().slice(2),
          function, "maps", detail::concat("shape [", image.size(0), ", K, H, W] of the image's size"),
          maps.defined() ? maps.sizes() : at::IntArrayRef{});
  require(maps.device() == image.device(), function, "maps", detail::concat("the image's device, ", image.device()),
          maps.device());
}

/// What random numbers make of each item of a batch, on the CPU.
struct DrawnChanges {
  at::Tensor affine;        ///< [B, 2, 3], as affine_grid takes it
  at::Tensor gain, offset;  ///< of the image, [B, 1, 1, 1]
};

DrawnChanges drawn_changes(const ChannelAugmenterOptions& options, std::int64_t rows, std::int64_t columns,
                           const std::vector<std::uint64_t>& items, std::uint64_t seed) {
  const auto batch = static_cast<std::int64_t>(items.size());
  const double height = static_cast<double>(rows), width = static_cast<double>(columns);
  DrawnChanges drawn{at::empty({batch, 2, 3}, at::kFloat), at::empty({batch, 1, 1, 1}, at::kFloat),
                     at::empty({batch, 1, 1, 1}, at::kFloat)};
  auto affine = drawn.affine.accessor<float, 3>();
  float *gains = drawn.gain.mutable_data_ptr<float>(), *offsets = drawn.offset.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < batch; ++i) {
    RandomStream stream(seed, items[static_cast<std::size_t>(i)], "augment");
    const double angle = stream.uniform(-1, 1) * options.max_rotation * 3.14159265358979323846 / 180;
    const double zoom = 1 / (1 + stream.uniform(-1, 1) * options.max_scale);
    const double mirror = options.flip && stream.uniform() < 0.5 ? -1 : 1;
    const double shift_x = 2 * stream.uniform(-1, 1) * options.max_shift;
    const double shift_y = 2 * stream.uniform(-1, 1) * options.max_shift;
    gains[i] = static_cast<float>(1 + stream.uniform(-1, 1) * options.max_contrast);
    offsets[i] = static_cast<float>(stream.uniform(-1, 1) * options.max_brightness);
    // Normalised coordinates: a rotation in pixels becomes a shear-free one only after undoing the aspect ratio.
    affine[i][0][0] = static_cast<float>(zoom * mirror * std::cos(angle));
    affine[i][0][1] = static_cast<float>(-zoom * mirror * std::sin(angle) * height / width);
    affine[i][0][2] = static_cast<float>(shift_x);
    affine[i][1][0] = static_cast<float>(zoom * std::sin(angle) * width / height);
    affine[i][1][1] = static_cast<float>(zoom * std::cos(angle));
    affine[i][1][2] = static_cast<float>(shift_y);
  }
  return drawn;
}

/// The same as the kernel for devices reads it, an ImageChange a row, there.
at::Tensor device_changes(const DrawnChanges& drawn, std::int64_t height, std::int64_t width,
                          const at::Device& device) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(kernels::ImageChange));
  const std::int64_t batch = drawn.affine.size(0);
  const at::Tensor changes = at::empty({batch, kBytes}, at::kByte);
  auto* to = static_cast<kernels::ImageChange*>(changes.mutable_data_ptr());
  const float* affine = drawn.affine.const_data_ptr<float>();
  const float *gains = drawn.gain.const_data_ptr<float>(), *offsets = drawn.offset.const_data_ptr<float>();
  for (std::int64_t i = 0; i < batch; ++i)
    to[i] = kernels::image_change(affine + 6 * i, height, width, gains[i], offsets[i]);
  return backend::upload(changes, device);
}

}  // namespace

ChannelMode channel_mode(const std::string& name) {
  if (name == "none") return ChannelMode::kNone;
  if (name == "channel") return ChannelMode::kChannel;
  if (name == "add") return ChannelMode::kAdd;
  if (name == "append") return ChannelMode::kAppend;
  fail(ErrorCode::kInvalidArgument, "daug::channel_mode", "name", "\"none\", \"channel\", \"add\" or \"append\"", name);
}

void ChannelAugmenterOptions::validate() const {
  constexpr const char* kName = "daug::ChannelAugmenterOptions";
  require(map_index >= 0, kName, "map_index", "at least 0", map_index);
  require(image_channel >= 0, kName, "image_channel", "at least 0", image_channel);
  require_range(max_rotation, 0.0, kLargestRotation, kName, "max_rotation");
  require_range(max_shift, 0.0, kLargestShift, kName, "max_shift");
  require_range(max_scale, 0.0, kLargestScale, kName, "max_scale");
  require_range(max_brightness, 0.0, 1.0, kName, "max_brightness");
  require_range(max_contrast, 0.0, 0.999, kName, "max_contrast");
}

bool ChannelAugmenterOptions::augments() const {
  return max_rotation > 0 || max_shift > 0 || max_scale > 0 || flip || max_brightness > 0 || max_contrast > 0;
}

HeatmapChannelAugmenter::HeatmapChannelAugmenter(ChannelAugmenterOptions options) : options_(options) {
  options_.validate();
}

at::Tensor HeatmapChannelAugmenter::apply(const at::Tensor& image, const at::Tensor& maps) const try {
  constexpr const char* kFunction = "daug::HeatmapChannelAugmenter::apply";
  require(image.dim() == 4, kFunction, "image", "shape [B, C, H, W]", image.sizes());
  if (options_.mode == ChannelMode::kNone) return image;
  require_fitting_maps(image, maps, kFunction);
  if (options_.mode == ChannelMode::kAppend) return at::cat({image, maps.to(image.scalar_type())}, 1);
  require(options_.map_index < maps.size(1), kFunction, "map_index", detail::concat("below ", maps.size(1)),
          options_.map_index);
  const at::Tensor map = maps.select(1, options_.map_index).to(image.scalar_type());
  if (options_.mode == ChannelMode::kAdd) return map.unsqueeze(1).expand_as(image).contiguous();
  require(options_.image_channel < image.size(1), kFunction, "image_channel", detail::concat("below ", image.size(1)),
          options_.image_channel);
  at::Tensor result = image.clone();
  result.select(1, options_.image_channel).copy_(map);
  return result;
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::HeatmapChannelAugmenter::apply");
}

std::int64_t HeatmapChannelAugmenter::channels(std::int64_t image_channels, std::int64_t maps) const {
  return options_.mode == ChannelMode::kAppend ? image_channels + maps : image_channels;
}

void HeatmapChannelAugmenter::augment(at::Tensor& image, at::Tensor& maps, const std::vector<std::uint64_t>& items,
                                      std::uint64_t seed, Execution execution) const try {
  constexpr const char* kFunction = "daug::HeatmapChannelAugmenter::augment";
  require(image.dim() == 4 && static_cast<std::int64_t>(items.size()) == image.size(0), kFunction, "items",
          image.size(0), items.size());
  if (maps.defined()) require_fitting_maps(image, maps, kFunction);
  if (!options_.augments() || items.empty()) return;
  const std::int64_t batch = image.size(0), height = image.size(2), width = image.size(3);
  const DrawnChanges drawn = drawn_changes(options_, height, width, items, seed);
  const bool shades = options_.max_brightness > 0 || options_.max_contrast > 0;
  const at::ScalarType type = image.scalar_type();
  const at::Tensor typed = maps.defined() ? maps.to(type) : maps;
  const auto element = backend::device_element({image, typed});
  const bool possible = element && batch <= kernels::cuda::kMostInGrid && std::min(height, width) > 0 &&
                        std::max(height, width) <= kernels::cuda::kMostSide;
  if (backend::use_fused(execution, possible, kFunction, backend::ran_on_a_device("augment_images"))) {
    kernels::AugmentImages p;
    p.batch = batch, p.image_channels = image.size(1), p.height = height, p.width = width, p.shades = shades;
    const at::Tensor images_in = image.contiguous(), images_out = at::empty(image.sizes(), image.options());
    p.images = images_in.const_data_ptr(), p.new_images = images_out.mutable_data_ptr();
    at::Tensor maps_in, maps_out;
    if (typed.defined()) {
      maps_in = typed.contiguous(), maps_out = at::empty(typed.sizes(), typed.options());
      p.map_channels = typed.size(1), p.maps = maps_in.const_data_ptr(), p.new_maps = maps_out.mutable_data_ptr();
    }
    const at::Tensor changes = device_changes(drawn, height, width, image.device());
    p.changes = static_cast<const kernels::ImageChange*>(changes.const_data_ptr());
    backend::require_launched(kernels::augment_images_device(p, *element, backend::stream_of(image)), kFunction);
    image = images_out, maps = maps_out;
    return;
  }
  // A grid in bfloat16 would be half a pixel off in a picture of 256.
  const at::ScalarType computed = type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type;
  const auto there = [&](const at::Tensor& numbers) { return backend::upload(numbers.to(computed), image.device()); };
  const at::Tensor grid = at::affine_grid_generator(there(drawn.affine), {batch, 1, height, width}, false);
  constexpr std::int64_t kBilinear = 0, kZeros = 0;
  // Sampling x + 1 with zero padding makes -1, the range's black, what lies outside.
  at::Tensor moved = at::grid_sampler(image.to(computed) + 1, grid, kBilinear, kZeros, false) - 1;
  if (maps.defined()) maps = at::grid_sampler(typed.to(computed), grid, kBilinear, kZeros, false).to(type);
  if (shades) moved = (moved * there(drawn.gain) + there(drawn.offset)).clamp(-1, 1);
  image = moved.to(type);
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::HeatmapChannelAugmenter::augment");
}

at::Tensor combined_embedding(const at::Tensor& image, const at::Tensor& heatmap) { return (image + heatmap) / 2; }

at::Tensor widened_input_weight(const at::Tensor& weight, std::int64_t extra_channels) {
  require(weight.dim() >= 2 && extra_channels >= 0, "daug::widened_input_weight", "weight",
          "shape [O, C, ...] and extra_channels >= 0", weight.sizes());
  auto shape = weight.sizes().vec();
  shape[1] = extra_channels;
  return at::cat({weight, at::zeros(shape, weight.options())}, 1);
}

}  // namespace daug
