// The densely connected networks of torchvision.

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "conv_layers.h"

namespace daug::detail {
namespace {

/// `growth` new channels from all that came before: conv3(relu(norm(conv1(relu(norm(x)))))).
class DenseLayerImpl : public torch::nn::Module {
 public:
  DenseLayerImpl(std::int64_t in, std::int64_t inner, std::int64_t growth)
      : norm1_(register_module("norm1", BatchNorm(in))),
        norm2_(register_module("norm2", BatchNorm(inner))),
        conv1_(register_module("conv1", conv(in, inner, 1))),
        conv2_(register_module("conv2", conv(inner, growth, 3))) {}

  at::Tensor forward(const at::Tensor& x) { return conv2_(norm2_(conv1_(norm1_(x).relu_())).relu_()); }

 private:
  BatchNorm norm1_, norm2_;
  torch::nn::Conv2d conv1_, conv2_;
};
TORCH_MODULE(DenseLayer);

/// Layers, each of which reads the block's input and what the layers before it made.
class DenseBlockImpl : public torch::nn::Module {
 public:
  DenseBlockImpl(std::int64_t in, std::int64_t layers, const DenseNetTowerOptions& options) {
    for (std::int64_t i = 0; i < layers; ++i)
      layers_.push_back(
          register_module("denselayer" + std::to_string(i + 1),
                          DenseLayer(in + i * options.growth, options.bottleneck * options.growth, options.growth)));
  }

  at::Tensor forward(const at::Tensor& x) {
    std::vector<at::Tensor> parts = {x};
    for (auto& layer : layers_) parts.push_back(layer(at::cat(parts, 1)));
    return at::cat(parts, 1);
  }

 private:
  std::vector<DenseLayer> layers_;
};
TORCH_MODULE(DenseBlock);

/// Half the channels at half the resolution.
class TransitionImpl : public torch::nn::Module {
 public:
  explicit TransitionImpl(std::int64_t in)
      : norm_(register_module("norm", BatchNorm(in))), conv_(register_module("conv", conv(in, in / 2, 1))) {}

  at::Tensor forward(const at::Tensor& x) { return at::avg_pool2d(conv_(norm_(x).relu_()), 2); }

 private:
  BatchNorm norm_;
  torch::nn::Conv2d conv_;
};
TORCH_MODULE(Transition);

class DenseNetTower : public MapTower {
 public:
  explicit DenseNetTower(const ImageEncoderOptions& options) : checkpoint_(options.use_checkpoint) {
    const auto& densenet = options.densenet;
    std::int64_t width = densenet.base_width, side = (options.image_size + 3) / 4;
    const auto features = register_module("features", Group());
    input = features->add("conv0", InputConv(options, width, 7, 2, 3));
    first_norm_ = features->add("norm0", BatchNorm(width));
    for (std::size_t block = 0; block < densenet.layers.size(); ++block) {
      if (block > 0) {
        transitions_.push_back(features->add("transition" + std::to_string(block), Transition(width)));
        width /= 2, side /= 2;
      }
      blocks_.push_back(
          features->add("denseblock" + std::to_string(block + 1), DenseBlock(width, densenet.layers[block], densenet)));
      width += densenet.layers[block] * densenet.growth;
    }
    last_norm_ = features->add("norm5", BatchNorm(width));
    pool_ = MapPool(*this, densenet.pooling, width, side, densenet.heads);
  }

  at::Tensor forward(const at::Tensor& x, const ItemNoise*) override {
    at::Tensor h = at::max_pool2d(first_norm_(input(x)).relu_(), 3, 2, 1);
    for (std::size_t block = 0; block < blocks_.size(); ++block)
      h = kept_or_recomputed(checkpoint_, blocks_[block], block > 0 ? transitions_[block - 1](h) : h);
    return pool_(last_norm_(h).relu_());
  }

 private:
  bool checkpoint_;
  BatchNorm first_norm_{nullptr}, last_norm_{nullptr};
  std::vector<DenseBlock> blocks_;
  std::vector<Transition> transitions_;
};

}  // namespace

std::shared_ptr<ImageTower> make_densenet_tower(const ImageEncoderOptions& options) {
  return std::make_shared<DenseNetTower>(options);
}

}  // namespace daug::detail
