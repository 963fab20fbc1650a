#include "daug/translator/noise_aware_classifier.h"

#include <ATen/ATen.h>

#include <cmath>

#include "daug/core/error.h"
#include "unet_blocks.h"

namespace daug {

namespace detail {

/// Attention pooling (CLIP's): the mean position attends to all and becomes the output.
class AttentionPool : public UNetLayer {
 public:
  AttentionPool(std::int64_t side, std::int64_t channels, std::int64_t head_channels, std::int64_t out)
      : heads_(channels / head_channels) {
    require(channels % head_channels == 0, "daug::NoiseAwareClassifierOptions", "num_head_channels",
            concat("a divisor of the attention width ", channels), head_channels);
    const double deviation = 1 / std::sqrt(static_cast<double>(channels));
    positions_ =
        register_parameter("positional_embedding", at::empty({channels, side * side + 1}).normal_(0, deviation));
    qkv_ = register_module("qkv_proj", std::make_shared<ConvLayer>(1, channels, 3 * channels, 1));
    out_ = register_module("c_proj", std::make_shared<ConvLayer>(1, channels, out, 1));
  }

  at::Tensor forward(const at::Tensor& x, const Pass&) override {
    const at::Tensor flat = x.flatten(2);
    require(flat.size(2) + 1 == positions_.size(1), "daug::NoiseAwareClassifier::forward", "x",
            concat("an image of ", positions_.size(1) - 1, " positions after downsampling"), flat.size(2));
    const at::Tensor tokens = at::cat({flat.mean(2, true), flat}, 2) + positions_;
    return out_->forward(qkv_attention(qkv_->forward(tokens), heads_, false)).select(2, 0);
  }

 private:
  std::int64_t heads_;
  at::Tensor positions_;
  std::shared_ptr<ConvLayer> qkv_, out_;
};

/// The output head for each pooling; children carry upstream's indices within `out`.
class ClassifierHead : public torch::nn::Module {
 public:
  ClassifierHead(const NoiseAwareClassifierOptions& options, const UNetTrunk& trunk) : pool_(options.pool) {
    constexpr std::int64_t kHidden = 2048;  // upstream's width of both spatial heads
    const std::int64_t channels = trunk.last_channels();
    switch (pool_) {
      case ClassifierPool::kAdaptive:
        norm_ = register_module("0", std::make_shared<NormLayer>(channels, options));
        conv_ = register_module("3", std::make_shared<ConvLayer>(2, channels, options.out_channels, 1, 1, true));
        break;
      case ClassifierPool::kAttention:
        norm_ = register_module("0", std::make_shared<NormLayer>(channels, options));
        attention_ = register_module(
            "2", std::make_shared<AttentionPool>(options.image_size / trunk.final_downsample(), channels,
                                                 options.num_head_channels, options.out_channels));
        break;
      case ClassifierPool::kSpatial:
        hidden_ = register_module("0", std::make_shared<LinearLayer>(trunk.feature_channels(), kHidden));
        linear_ = register_module("2", std::make_shared<LinearLayer>(kHidden, options.out_channels));
        break;
      case ClassifierPool::kSpatialV2:
        hidden_ = register_module("0", std::make_shared<LinearLayer>(trunk.feature_channels(), kHidden));
        norm_ = register_module("1", std::make_shared<NormLayer>(kHidden, options));
        linear_ = register_module("3", std::make_shared<LinearLayer>(kHidden, options.out_channels));
        break;
    }
  }

  at::Tensor forward(const at::Tensor& h, std::vector<at::Tensor> features) {
    switch (pool_) {
      case ClassifierPool::kAdaptive:
        return conv_->forward(norm_->silu(h).mean({2, 3}, true)).flatten(1);
      case ClassifierPool::kAttention:
        return attention_->forward(norm_->silu(h), {});
      case ClassifierPool::kSpatial:
        return linear_->forward(at::relu(hidden_->forward(spatial_means(h, std::move(features)))));
      case ClassifierPool::kSpatialV2:
        break;
    }
    return linear_->forward(at::silu(norm_->forward(hidden_->forward(spatial_means(h, std::move(features))))));
  }

 private:
  static at::Tensor spatial_means(const at::Tensor& h, std::vector<at::Tensor> features) {
    features.push_back(h);
    for (auto& feature : features) feature = feature.mean({2, 3});
    return at::cat(features, 1);
  }

  ClassifierPool pool_;
  std::shared_ptr<NormLayer> norm_;
  std::shared_ptr<ConvLayer> conv_;
  std::shared_ptr<AttentionPool> attention_;
  std::shared_ptr<LinearLayer> hidden_, linear_;
};

}  // namespace detail

ClassifierPool classifier_pool(const std::string& name) {
  if (name == "adaptive") return ClassifierPool::kAdaptive;
  if (name == "attention") return ClassifierPool::kAttention;
  if (name == "spatial") return ClassifierPool::kSpatial;
  if (name == "spatial_v2") return ClassifierPool::kSpatialV2;
  fail(ErrorCode::kInvalidArgument, "daug::classifier_pool", "name",
       "\"adaptive\", \"attention\", \"spatial\" or \"spatial_v2\"", name);
}

void NoiseAwareClassifierOptions::validate() const {
  UNetOptions::validate();
  constexpr const char* kName = "daug::NoiseAwareClassifierOptions";
  require(pool != ClassifierPool::kAttention || num_head_channels >= 1, kName, "num_head_channels",
          "at least 1 with attention pooling", num_head_channels);
  const std::int64_t unit = std::int64_t{1} << (channel_mult.size() - 1);
  require(image_size % unit == 0, kName, "image_size", detail::concat("a multiple of ", unit), image_size);
}

NoiseAwareClassifierImpl::NoiseAwareClassifierImpl(NoiseAwareClassifierOptions options) : options_(std::move(options)) {
  options_.validate();
  trunk_ = std::make_shared<detail::UNetTrunk>(*this, options_, options_.in_channels, false);
  head_ = register_module("out", std::make_shared<detail::ClassifierHead>(options_, *trunk_));
}

void NoiseAwareClassifierImpl::seed_dropout(std::uint64_t seed, std::int64_t first, std::int64_t items) {
  trunk_->seed_dropout({seed, first, items}, "daug::NoiseAwareClassifier::seed_dropout");
}

std::int64_t NoiseAwareClassifierImpl::gradient_bytes(std::int64_t height, std::int64_t width) const {
  return detail::gradient_floats(options_, height, width) * detail::float_bytes(parameters().front());
}

at::Tensor NoiseAwareClassifierImpl::forward(const at::Tensor& x, const at::Tensor& timesteps) {
  constexpr const char* kFunction = "daug::NoiseAwareClassifier::forward";
  if (x.dim() != 4 || x.size(1) != options_.in_channels)
    fail(ErrorCode::kInvalidArgument, kFunction, "x", detail::concat("shape [B, ", options_.in_channels, ", H, W]"),
         x.sizes());
  const std::int64_t least = std::int64_t{1} << (options_.channel_mult.size() - 1);
  require(x.size(2) >= least && x.size(3) >= least, kFunction, "x",
          detail::concat("at least ", least, " pixels a side, of which the levels leave one"), x.sizes());
  trunk_->require_type(x, kFunction);
  require(timesteps.dim() == 1 && timesteps.size(0) == x.size(0), kFunction, "timesteps",
          detail::concat("shape [", x.size(0), "]"), timesteps.sizes());
  const at::Tensor embedding = trunk_->embed(timesteps.to(x.device()), x.scalar_type());
  const detail::Pass pass = trunk_->next_pass(embedding, is_training(), kFunction);
  const at::Tensor h = trunk_->laid_out(x);
  std::vector<at::Tensor> features;
  const at::Tensor last = trunk_->encode(h, pass, features);
  return head_->forward(last, std::move(features));
}

}  // namespace daug
