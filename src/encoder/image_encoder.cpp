#include "daug/encoder/image_encoder.h"

#include <ATen/ATen.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "transformer.h"

namespace daug {
namespace detail {

/// The first convolution of a tower, without bias. Channels beyond `in_channels` have weights of their own and are
/// added as a second convolution, so that the arithmetic on the first ones never changes.
class InputConvImpl : public torch::nn::Module {
 public:
  InputConvImpl(std::int64_t in, std::int64_t extra, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                std::int64_t padding)
      : stride_(stride),
        padding_(padding),
        weight_(register_parameter("weight", at::zeros({out, in, kernel, kernel}))) {
    if (extra > 0) widen(extra);
  }

  void widen(std::int64_t extra) {
    const auto out = weight_.size(0), kernel = weight_.size(2);
    extra_weight_ =
        register_parameter("extra_weight", at::zeros({out, extra, kernel, kernel}, weight_.detach().options()));
  }

  at::Tensor forward(const at::Tensor& x) const {
    const auto in = weight_.size(1);
    const at::Tensor y = convolve(x.narrow(1, 0, in), weight_);
    return extra_weight_.defined() ? y + convolve(x.narrow(1, in, x.size(1) - in), extra_weight_) : y;
  }

  at::Tensor weight() const { return extra_weight_.defined() ? at::cat({weight_, extra_weight_}, 1) : weight_; }

 private:
  // The copy gives every input the same strides: LibTorch picks the kernel, and so the rounding, by them.
  at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight) const {
    return at::conv2d(x.clone(at::MemoryFormat::ChannelsLast), weight, {}, stride_, padding_);
  }

  std::int64_t stride_, padding_;
  at::Tensor weight_, extra_weight_;
};
TORCH_MODULE(InputConv);

/// From images [B, C, H, W] to features [B, features()].
class ImageTower : public torch::nn::Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x) = 0;
  virtual std::int64_t features() const = 0;
  /// Standard deviation of the initial values of a parameter.
  virtual double deviation(const std::string& name, const at::Tensor& parameter) const = 0;

  InputConv input{nullptr};
};

namespace {

torch::nn::Conv2d conv(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride) {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

/// skip(x) + conv(act(norm(conv(act(norm(x)))))), halving the resolution when stride is 2.
class ResidualBlockImpl : public torch::nn::Module {
 public:
  ResidualBlockImpl(std::int64_t in, std::int64_t out, std::int64_t stride, std::int64_t group_width)
      : norm1_(register_module("norm1", torch::nn::GroupNorm(in / group_width, in))),
        norm2_(register_module("norm2", torch::nn::GroupNorm(out / group_width, out))),
        conv1_(register_module("conv1", conv(in, out, 3, stride))),
        conv2_(register_module("conv2", conv(out, out, 3, 1))) {
    if (in != out || stride != 1) skip_ = register_module("skip", conv(in, out, 1, stride));
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor active = at::silu(norm1_(x));
    const at::Tensor branch = conv2_(at::silu(norm2_(conv1_(active))));
    return branch + (skip_ ? skip_(active) : x);
  }

 private:
  torch::nn::GroupNorm norm1_, norm2_;
  torch::nn::Conv2d conv1_, conv2_, skip_{nullptr};
};
TORCH_MODULE(ResidualBlock);

/// CLIP's attention pooling: the mean token asks all tokens, each with its position.
class AttentionPoolImpl : public torch::nn::Module {
 public:
  AttentionPoolImpl(std::int64_t width, std::int64_t positions, std::int64_t heads)
      : positions_(register_module("position_embedding", torch::nn::Embedding(positions + 1, width))),
        attention_(register_module("attention", Attention(width, heads, /*causal=*/false))) {}

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor tokens = x.flatten(2).transpose(1, 2);
    const at::Tensor all = at::cat({tokens.mean(1, /*keepdim=*/true), tokens}, 1) + positions_->weight;
    return attention_(all.narrow(1, 0, 1), all).squeeze(1);
  }

 private:
  torch::nn::Embedding positions_;
  Attention attention_;
};
TORCH_MODULE(AttentionPool);

class ConvTower : public ImageTower {
 public:
  explicit ConvTower(const ImageEncoderOptions& options) : pooling_(options.conv.pooling) {
    const auto& conv = options.conv;
    std::int64_t width = conv.base_width;
    input = register_module("stem", InputConv(options.in_channels, options.extra_channels, width, 3, 2, 1));
    const auto stages = register_module("blocks", Group());
    for (std::int64_t stage = 0; stage < conv.stages; ++stage)
      for (std::int64_t block = 0; block < conv.blocks; ++block) {
        const bool down = stage > 0 && block == 0;
        const auto in = width;
        if (down) width *= 2;
        blocks_.push_back(
            stages->add(std::to_string(blocks_.size()), ResidualBlock(in, width, down ? 2 : 1, conv.norm_group_width)));
      }
    norm_ = register_module("norm", torch::nn::GroupNorm(width / conv.norm_group_width, width));
    const auto side = options.image_size >> conv.stages, positions = side * side;
    if (pooling_ == ImagePooling::kAttention)
      pool_ = register_module("pool", AttentionPool(width, positions, conv.heads));
    features_ = pooling_ == ImagePooling::kFlatten ? width * positions : width;
  }

  at::Tensor forward(const at::Tensor& x) override {
    at::Tensor h = input(x);
    for (auto& block : blocks_) h = block(h);
    h = at::silu(norm_(h));
    if (pool_) return pool_(h);
    // contiguous: features are ordered channel, row, column whatever the memory layout.
    return pooling_ == ImagePooling::kFlatten ? h.contiguous().flatten(1) : h.mean({2, 3});
  }

  std::int64_t features() const override { return features_; }

  double deviation(const std::string& name, const at::Tensor& parameter) const override {
    if (name.find(".pool.") != std::string::npos) return 1 / std::sqrt(static_cast<double>(parameter.size(1)));
    const double fan_in = static_cast<double>(parameter.numel() / parameter.size(0));
    return std::sqrt(2 / fan_in);  // He et al., arXiv 1502.01852
  }

 private:
  ImagePooling pooling_;
  std::vector<ResidualBlock> blocks_;
  torch::nn::GroupNorm norm_{nullptr};
  AttentionPool pool_{nullptr};
  std::int64_t features_ = 0;
};

class VitTower : public ImageTower {
 public:
  explicit VitTower(const ImageEncoderOptions& options) : width_(options.vit.width), depth_(options.vit.depth) {
    const auto& vit = options.vit;
    const auto side = options.image_size / vit.patch_size;
    const auto embeddings = register_module("embeddings", Group());
    input = embeddings->add("patch_embedding", InputConv(options.in_channels, options.extra_channels, width_,
                                                         vit.patch_size, vit.patch_size, 0));
    class_embedding_ = embeddings->register_parameter("class_embedding", at::zeros({width_}));
    positions_ = embeddings->add("position_embedding", torch::nn::Embedding(side * side + 1, width_));
    const auto norm = torch::nn::LayerNormOptions({width_});
    before_ = register_module("pre_layrnorm", torch::nn::LayerNorm(norm));  // spelt so in published weights
    transformer_ = register_module(
        "encoder", Transformer(TransformerOptions{width_, depth_, vit.heads, vit.mlp_width, vit.activation, false}));
    after_ = register_module("post_layernorm", torch::nn::LayerNorm(norm));
  }

  at::Tensor forward(const at::Tensor& x) override {
    const at::Tensor patches = input(x).flatten(2).transpose(1, 2);
    const at::Tensor first = class_embedding_.expand({x.size(0), 1, width_});
    const at::Tensor tokens = at::cat({first, patches}, 1) + positions_->weight;
    return after_(transformer_(before_(tokens)).select(1, 0));
  }

  std::int64_t features() const override { return width_; }

  double deviation(const std::string& name, const at::Tensor& parameter) const override {
    const double known = transformer_deviation(name, width_, depth_);
    if (known >= 0) return known;
    const bool patch = name.ends_with("patch_embedding.weight");
    return 1 / std::sqrt(static_cast<double>(patch ? parameter[0].numel() : width_));
  }

 private:
  std::int64_t width_, depth_;
  at::Tensor class_embedding_;
  torch::nn::Embedding positions_{nullptr};
  torch::nn::LayerNorm before_{nullptr}, after_{nullptr};
  Transformer transformer_{nullptr};
};

std::shared_ptr<ImageTower> make_tower(const ImageEncoderOptions& options) {
  options.validate();
  if (options.kind == ImageEncoderKind::kViT) return std::make_shared<VitTower>(options);
  return std::make_shared<ConvTower>(options);
}

constexpr std::int64_t kMostChannels = 1 << 16;

}  // namespace
}  // namespace detail

void ConvTowerOptions::validate() const {
  constexpr const char* kName = "ConvTowerOptions";
  require_range(base_width, 1, detail::kMostChannels, kName, "base_width");
  require_range(stages, 1, 6, kName, "stages");
  require_range(blocks, 1, 64, kName, "blocks");
  require(norm_group_width >= 1 && base_width % norm_group_width == 0, kName, "norm_group_width",
          detail::concat("a divisor of base_width ", base_width), norm_group_width);
  if (pooling != ImagePooling::kAttention) return;
  const auto last = base_width << (stages - 1);
  require(heads >= 1 && last % heads == 0, kName, "heads", detail::concat("a divisor of the last width ", last), heads);
}

void VitTowerOptions::validate() const {
  constexpr const char* kName = "VitTowerOptions";
  require_range(patch_size, 1, 1 << 10, kName, "patch_size");
  require_range(width, 1, detail::kMostChannels, kName, "width");
  require_range(depth, 1, 256, kName, "depth");
  require(heads >= 1 && width % heads == 0, kName, "heads", detail::concat("a divisor of width ", width), heads);
  require_range(mlp_width, 1, 4 * detail::kMostChannels, kName, "mlp_width");
}

void ImageEncoderOptions::validate() const {
  constexpr const char* kName = "ImageEncoderOptions";
  require_range(in_channels, 1, detail::kMostChannels, kName, "in_channels");
  require_range(extra_channels, 0, detail::kMostChannels, kName, "extra_channels");
  require_range(image_size, 2, 1 << 14, kName, "image_size");
  require_range(embed_dim, 1, detail::kMostChannels, kName, "embed_dim");
  if (kind == ImageEncoderKind::kConv) {
    conv.validate();
    require(image_size % (1 << conv.stages) == 0, kName, "image_size",
            detail::concat("a multiple of 2^stages = ", 1 << conv.stages), image_size);
  } else {
    vit.validate();
    require(image_size % vit.patch_size == 0, kName, "image_size",
            detail::concat("a multiple of patch_size ", vit.patch_size), image_size);
  }
}

ImageEncoderImpl::ImageEncoderImpl(const ImageEncoderOptions& options, std::uint64_t seed)
    : options_(options), tower_(register_module("vision_model", detail::make_tower(options))) {
  const auto features = tower_->features();
  projection_ = register_module("visual_projection", detail::projection(features, options_.embed_dim));
  detail::init_parameters(*this, seed, [&](const std::string& name, const at::Tensor& parameter) {
    return name == "visual_projection.weight" ? 1 / std::sqrt(static_cast<double>(features))
                                              : tower_->deviation(name, parameter);
  });
}

at::Tensor ImageEncoderImpl::forward(const at::Tensor& x) {
  const auto channels = options_.in_channels + options_.extra_channels, size = options_.image_size;
  const at::ScalarType type = projection_->weight.scalar_type();
  const bool fits = x.defined() && x.dim() == 4 && x.size(0) > 0 && x.size(1) == channels && x.size(2) == size &&
                    x.size(3) == size && x.scalar_type() == type;
  if (!fits)
    fail(ErrorCode::kMismatch, "ImageEncoder", "x",
         detail::concat("shape [B, ", channels, ", ", size, ", ", size, "] of ", type),
         x.defined() ? detail::concat("shape ", x.sizes(), " of ", x.scalar_type()) : "an undefined tensor");
  return projection_->forward(tower_->forward(x));
}

void ImageEncoderImpl::widen_input(std::int64_t extra_channels) {
  constexpr const char* kFunction = "ImageEncoder::widen_input";
  require_range(extra_channels, 1, detail::kMostChannels, kFunction, "extra_channels");
  if (options_.extra_channels > 0)
    fail(ErrorCode::kUnsupported, kFunction, "network", "one that was not widened before",
         detail::concat(options_.extra_channels, " extra channels"));
  tower_->input->widen(extra_channels);
  options_.extra_channels = extra_channels;
}

at::Tensor ImageEncoderImpl::first_layer_weight() const { return tower_->input->weight(); }

}  // namespace daug
