#include "daug/heatmap/channel_augmenter.h"

#include <ATen/ATen.h>

#include <cmath>

#include "backend/fitting_rows.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/core/random.h"

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
                                      std::uint64_t seed) const try {
  constexpr const char* kFunction = "daug::HeatmapChannelAugmenter::augment";
  require(image.dim() == 4 && static_cast<std::int64_t>(items.size()) == image.size(0), kFunction, "items",
          image.size(0), items.size());
  if (maps.defined()) require_fitting_maps(image, maps, kFunction);
  if (!options_.augments() || items.empty()) return;
  const std::int64_t batch = image.size(0);
  const double height = static_cast<double>(image.size(2)), width = static_cast<double>(image.size(3));
  at::Tensor affine = at::empty({batch, 2, 3}, at::kFloat);
  at::Tensor gain = at::empty({batch, 1, 1, 1}, at::kFloat);
  at::Tensor offset = at::empty({batch, 1, 1, 1}, at::kFloat);
  auto rows = affine.accessor<float, 3>();
  float *gains = gain.mutable_data_ptr<float>(), *offsets = offset.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < batch; ++i) {
    RandomStream stream(seed, items[static_cast<std::size_t>(i)], "augment");
    const double angle = stream.uniform(-1, 1) * options_.max_rotation * 3.14159265358979323846 / 180;
    const double zoom = 1 / (1 + stream.uniform(-1, 1) * options_.max_scale);
    const double mirror = options_.flip && stream.uniform() < 0.5 ? -1 : 1;
    const double shift_x = 2 * stream.uniform(-1, 1) * options_.max_shift;
    const double shift_y = 2 * stream.uniform(-1, 1) * options_.max_shift;
    gains[i] = static_cast<float>(1 + stream.uniform(-1, 1) * options_.max_contrast);
    offsets[i] = static_cast<float>(stream.uniform(-1, 1) * options_.max_brightness);
    // Normalised coordinates: a rotation in pixels becomes a shear-free one only after undoing the aspect ratio.
    rows[i][0][0] = static_cast<float>(zoom * mirror * std::cos(angle));
    rows[i][0][1] = static_cast<float>(-zoom * mirror * std::sin(angle) * height / width);
    rows[i][0][2] = static_cast<float>(shift_x);
    rows[i][1][0] = static_cast<float>(zoom * std::sin(angle) * width / height);
    rows[i][1][1] = static_cast<float>(zoom * std::cos(angle));
    rows[i][1][2] = static_cast<float>(shift_y);
  }
  const auto like_image = [type = image.scalar_type(), device = image.device()](const at::Tensor& drawn) {
    return backend::upload(drawn.to(type), device);
  };
  const at::Tensor grid =
      at::affine_grid_generator(like_image(affine), {batch, 1, image.size(2), image.size(3)}, false);
  constexpr std::int64_t kBilinear = 0, kZeros = 0;
  // Sampling x + 1 with zero padding makes -1, the range's black, what lies outside.
  image = at::grid_sampler(image + 1, grid, kBilinear, kZeros, false) - 1;
  if (maps.defined()) maps = at::grid_sampler(maps.to(image.scalar_type()), grid, kBilinear, kZeros, false);
  if (options_.max_brightness > 0 || options_.max_contrast > 0)
    image = (image * like_image(gain) + like_image(offset)).clamp(-1, 1);
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
