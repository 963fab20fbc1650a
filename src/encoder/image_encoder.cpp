#include "daug/encoder/image_encoder.h"

#include <ATen/ATen.h>

#include <cmath>
#include <string>

#include "backend/upload.h"
#include "daug/core/error.h"
#include "image_tower.h"
#include "transformer.h"

namespace daug {
namespace detail {

InputConvImpl::InputConvImpl(const ImageEncoderOptions& options, std::int64_t out, std::int64_t kernel,
                             std::int64_t stride, std::int64_t padding, bool bias)
    : stride_(stride),
      padding_(padding),
      weight_(register_parameter("weight", at::zeros({out, options.in_channels, kernel, kernel}))) {
  if (bias) bias_ = register_parameter("bias", at::zeros({out}));
  if (options.extra_channels > 0) widen(options.extra_channels, options.extra.gates);
}

void InputConvImpl::widen(std::int64_t extra, bool gates) {
  const auto out = weight_.size(0), kernel = weight_.size(2);
  extra_weight_ =
      register_parameter("extra_weight", at::zeros({out, extra, kernel, kernel}, weight_.detach().options()));
  if (gates) extra_gate_ = register_parameter("extra_gate", at::ones({extra}, weight_.detach().options()));
}

at::Tensor InputConvImpl::forward(const at::Tensor& x) const {
  const auto in = weight_.size(1);
  const at::Tensor y = convolve(x.narrow(1, 0, in), weight_, bias_);
  const auto extra = x.size(1) - in;
  return extra > 0 ? y + convolve(x.narrow(1, in, extra), gated_weight(), {}) : y;
}

at::Tensor InputConvImpl::weight() const {
  return extra_weight_.defined() ? at::cat({weight_, gated_weight()}, 1) : weight_;
}

at::Tensor InputConvImpl::gated_weight() const {
  return extra_gate_.defined() ? extra_weight_ * extra_gate_.view({1, -1, 1, 1}) : extra_weight_;
}

at::Tensor InputConvImpl::convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const {
  // The copy gives every input the same strides: LibTorch picks the kernel, and so the rounding, by them.
  return at::conv2d(x.clone(at::MemoryFormat::ChannelsLast), weight, bias, stride_, padding_);
}

namespace {

std::shared_ptr<ImageTower> make_tower(const ImageEncoderOptions& options) {
  options.validate();
  switch (options.kind) {
    case ImageEncoderKind::kConv:
      return make_conv_tower(options);
    case ImageEncoderKind::kViT:
      return make_vit_tower(options);
    case ImageEncoderKind::kResNet:
      return make_resnet_tower(options);
    case ImageEncoderKind::kDenseNet:
      return make_densenet_tower(options);
  }
  fail(ErrorCode::kInvalidArgument, "ImageEncoder", "kind", "a value of ImageEncoderKind",
       static_cast<int>(options.kind));
}

constexpr std::int64_t kMostChannels = 1 << 16;

void require_heads(ImagePooling pooling, std::int64_t heads, std::int64_t last_width, const char* name) {
  if (pooling != ImagePooling::kAttention) return;
  require(heads >= 1 && last_width % heads == 0, name, "heads", concat("a divisor of the last width ", last_width),
          heads);
}

}  // namespace
}  // namespace detail

at::Tensor scaled_pixels(const at::Tensor& images, const PixelScaling& scaling, std::int64_t channels) {
  constexpr const char* kFunction = "daug::scaled_pixels";
  require(channels == 1 || channels == 3, kFunction, "channels", "1 or 3", channels);
  if (!images.defined() || images.dim() != 4 || (images.size(1) != 1 && images.size(1) != channels))
    fail(ErrorCode::kMismatch, kFunction, "images", detail::concat("shape [B, 1 or ", channels, ", H, W]"),
         images.defined() ? images.sizes() : at::IntArrayRef{});
  const auto by_channel = [&](const std::array<double, 3>& values) {
    const at::Tensor here = at::tensor(at::ArrayRef<double>(values), images.scalar_type());
    return backend::upload(here, images.device()).narrow(0, 0, channels).view({1, channels, 1, 1});
  };
  return ((images + 1) / 2 - by_channel(scaling.mean)) / by_channel(scaling.deviation);
}

void ConvTowerOptions::validate() const {
  constexpr const char* kName = "ConvTowerOptions";
  require_range(base_width, 1, detail::kMostChannels, kName, "base_width");
  require_range(stages, 1, 6, kName, "stages");
  require_range(blocks, 1, 64, kName, "blocks");
  require(norm_group_width >= 1 && base_width % norm_group_width == 0, kName, "norm_group_width",
          detail::concat("a divisor of base_width ", base_width), norm_group_width);
  detail::require_heads(pooling, heads, base_width << (stages - 1), kName);
}

ResNetTowerOptions ResNetTowerOptions::of_depth(std::int64_t depth) {
  ResNetTowerOptions options;
  options.bottleneck = depth >= 50;
  if (depth == 34 || depth == 50)
    options.blocks = {3, 4, 6, 3};
  else if (depth == 101)
    options.blocks = {3, 4, 23, 3};
  else
    require(depth == 18, "ResNetTowerOptions::of_depth", "depth", "18, 34, 50 or 101", depth);
  return options;
}

void ResNetTowerOptions::validate() const {
  constexpr const char* kName = "ResNetTowerOptions";
  for (const auto count : blocks) require_range(count, 1, 64, kName, "blocks");
  require_range(base_width, 1, 1 << 12, kName, "base_width");
  detail::require_heads(pooling, heads, base_width * (bottleneck ? 32 : 8), kName);
}

DenseNetTowerOptions DenseNetTowerOptions::of_depth(std::int64_t depth) {
  DenseNetTowerOptions options;
  if (depth == 169)
    options.layers = {6, 12, 32, 32};
  else
    require(depth == 121, "DenseNetTowerOptions::of_depth", "depth", "121 or 169", depth);
  return options;
}

std::int64_t DenseNetTowerOptions::last_width() const {
  std::int64_t width = base_width;
  for (std::size_t block = 0; block < layers.size(); ++block)
    width = (block > 0 ? width / 2 : width) + layers[block] * growth;
  return width;
}

void DenseNetTowerOptions::validate() const {
  constexpr const char* kName = "DenseNetTowerOptions";
  for (const auto count : layers) require_range(count, 1, 128, kName, "layers");
  require_range(base_width, 2, 1 << 12, kName, "base_width");
  require_range(growth, 1, 1 << 10, kName, "growth");
  require_range(bottleneck, 1, 64, kName, "bottleneck");
  detail::require_heads(pooling, heads, last_width(), kName);
}

void VitTowerOptions::validate() const {
  constexpr const char* kName = "VitTowerOptions";
  require_range(patch_size, 1, 1 << 10, kName, "patch_size");
  require_range(width, 1, detail::kMostChannels, kName, "width");
  require_range(depth, 1, 256, kName, "depth");
  require(heads >= 1 && width % heads == 0, kName, "heads", detail::concat("a divisor of width ", width), heads);
  require_range(mlp_width, 1, 4 * detail::kMostChannels, kName, "mlp_width");
  require(norm_epsilon > 0 && norm_epsilon <= 1, kName, "norm_epsilon", "a value in (0, 1]", norm_epsilon);
}

void ExtraChannelOptions::validate() const {
  require(dropout >= 0 && dropout < 1, "ExtraChannelOptions", "dropout", "a value in [0, 1)", dropout);
}

void ImageEncoderOptions::validate() const {
  constexpr const char* kName = "ImageEncoderOptions";
  require_range(in_channels, 1, detail::kMostChannels, kName, "in_channels");
  require_range(extra_channels, 0, detail::kMostChannels, kName, "extra_channels");
  require_range(image_size, 2, 1 << 14, kName, "image_size");
  require_range(embed_dim, 1, detail::kMostChannels, kName, "embed_dim");
  extra.validate();
  require(drop_path >= 0 && drop_path < 1, kName, "drop_path", "a value in [0, 1)", drop_path);
  switch (kind) {
    case ImageEncoderKind::kConv:
      conv.validate();
      require(image_size % (1 << conv.stages) == 0, kName, "image_size",
              detail::concat("a multiple of 2^stages = ", 1 << conv.stages), image_size);
      break;
    case ImageEncoderKind::kViT:
      vit.validate();
      require(image_size % vit.patch_size == 0, kName, "image_size",
              detail::concat("a multiple of patch_size ", vit.patch_size), image_size);
      break;
    case ImageEncoderKind::kResNet:
      resnet.validate();
      break;
    case ImageEncoderKind::kDenseNet:
      densenet.validate();
      require(drop_path == 0, kName, "drop_path", "0, for a network without residual branches", drop_path);
      require(image_size >= 29, kName, "image_size", "at least 29, for a last map of one position", image_size);
      break;
  }
}

ImageEncoderImpl::ImageEncoderImpl(const ImageEncoderOptions& options, LoadedLater)
    : options_(options),
      tower_(register_module("vision_model", detail::make_tower(options))),
      projection_(register_module(
          "visual_projection", detail::projection(tower_->features(), options.embed_dim, options.projection_bias))) {}

ImageEncoderImpl::ImageEncoderImpl(const ImageEncoderOptions& options, std::uint64_t seed)
    : ImageEncoderImpl(options, LoadedLater{}) {
  const auto features = tower_->features();
  detail::init_parameters(*this, seed, [&](const std::string& name, const at::Tensor& parameter) {
    return name == "visual_projection.weight" ? 1 / std::sqrt(static_cast<double>(features))
                                              : tower_->deviation(name, parameter);
  });
}

at::Tensor ImageEncoderImpl::forward(const at::Tensor& x) {
  if (is_training() && (options_.drop_path > 0 || hides_maps()))
    fail(ErrorCode::kInvalidArgument, "ImageEncoder", "items",
         "one an image in training with drop_path or extra.dropout, or eval() before", "none");
  return embed(x, nullptr);
}

at::Tensor ImageEncoderImpl::forward_items(const at::Tensor& x, const std::vector<std::uint64_t>& items,
                                           std::uint64_t seed) {
  const auto images = x.defined() && x.dim() > 0 ? x.size(0) : 0;
  require(static_cast<std::int64_t>(items.size()) == images, "ImageEncoder", "items",
          detail::concat(images, ", one an image"), items.size());
  const detail::ItemNoise noise{items, seed};
  return embed(x, &noise);
}

at::Tensor ImageEncoderImpl::embed(const at::Tensor& x, const detail::ItemNoise* noise) {
  const auto image = options_.in_channels, maps = options_.extra_channels, size = options_.image_size;
  const auto channels = image + maps;
  const at::ScalarType type = projection_->weight.scalar_type();
  const bool fits = x.defined() && x.dim() == 4 && x.size(0) > 0 &&
                    (x.size(1) == channels || (hides_maps() && x.size(1) == image)) && x.size(2) == size &&
                    x.size(3) == size && x.scalar_type() == type;
  if (!fits)
    fail(ErrorCode::kMismatch, "ImageEncoder", "x",
         detail::concat("shape [B, ", channels, ", ", size, ", ", size, "] of ", type),
         x.defined() ? detail::concat("shape ", x.sizes(), " of ", x.scalar_type()) : "an undefined tensor");
  at::Tensor seen = x;
  if (noise && hides_maps() && x.size(1) > image) {
    const at::Tensor hidden =
        backend::upload(detail::hidden_channels(options_.extra.dropout, maps, *noise), x.device());
    seen = at::cat({x.narrow(1, 0, image), x.narrow(1, image, maps).masked_fill(hidden, 0)}, 1);
  }
  return projection_->forward(tower_->forward(seen, options_.drop_path > 0 ? noise : nullptr));
}

void ImageEncoderImpl::widen_input(std::int64_t extra_channels, const ExtraChannelOptions& extra) {
  constexpr const char* kFunction = "ImageEncoder::widen_input";
  require_range(extra_channels, 1, detail::kMostChannels, kFunction, "extra_channels");
  if (options_.extra_channels > 0)
    fail(ErrorCode::kUnsupported, kFunction, "network", "one that was not widened before",
         detail::concat(options_.extra_channels, " extra channels"));
  extra.validate();
  tower_->input->widen(extra_channels, extra.gates);
  options_.extra = extra;
  options_.extra_channels = extra_channels;
}

at::Tensor ImageEncoderImpl::first_layer_weight() const { return tower_->input->weight(); }

}  // namespace daug
