// The residual networks of torchvision.

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "conv_layers.h"

namespace daug::detail {
namespace {

/// relu(skip(x) + branch(x)): two 3x3 convolutions, or one between two 1x1 convolutions, each with batch norm.
class ResNetBlockImpl : public torch::nn::Module {
 public:
  ResNetBlockImpl(std::int64_t in, std::int64_t width, std::int64_t stride, bool bottleneck) {
    const std::int64_t out = bottleneck ? 4 * width : width;
    if (bottleneck) {
      add(in, width, 1, 1);
      add(width, width, 3, stride);
      add(width, out, 1, 1);
    } else {
      add(in, width, 3, stride);
      add(width, out, 3, 1);
    }
    if (stride == 1 && in == out) return;
    const auto skip = register_module("downsample", Group());
    skip_ = skip->add("0", conv(in, out, 1, stride));
    skip_norm_ = skip->add("1", BatchNorm(out));
  }

  at::Tensor forward(const at::Tensor& x, const at::Tensor& paths) {
    at::Tensor h = x;
    for (std::size_t i = 0; i < convs_.size(); ++i) {
      h = norms_[i](convs_[i](h));
      if (i + 1 < convs_.size()) h.relu_();
    }
    if (paths.defined()) h = scaled_path(h, paths, 0);
    return h.add_(skip_ ? skip_norm_(skip_(x)) : x).relu_();
  }

 private:
  void add(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride) {
    const std::string number = std::to_string(convs_.size() + 1);
    convs_.push_back(register_module("conv" + number, conv(in, out, kernel, stride)));
    norms_.push_back(register_module("bn" + number, BatchNorm(out)));
  }

  std::vector<torch::nn::Conv2d> convs_;
  std::vector<BatchNorm> norms_;
  torch::nn::Conv2d skip_{nullptr};
  BatchNorm skip_norm_{nullptr};
};
TORCH_MODULE(ResNetBlock);

class ResNetTower : public MapTower {
 public:
  explicit ResNetTower(const ImageEncoderOptions& options)
      : drop_path_(options.drop_path), checkpoint_(options.use_checkpoint) {
    const auto& resnet = options.resnet;
    std::int64_t channels = resnet.base_width, width = channels, side = (options.image_size + 3) / 4;
    input = register_module("conv1", InputConv(options, width, 7, 2, 3));
    norm_ = register_module("bn1", BatchNorm(width));
    for (std::size_t stage = 0; stage < resnet.blocks.size(); ++stage) {
      const auto layer = register_module("layer" + std::to_string(stage + 1), Group());
      if (stage > 0) width *= 2, side = (side + 1) / 2;
      for (std::int64_t block = 0; block < resnet.blocks[stage]; ++block) {
        const std::int64_t stride = stage > 0 && block == 0 ? 2 : 1;
        blocks_.push_back(layer->add(std::to_string(block), ResNetBlock(channels, width, stride, resnet.bottleneck)));
        channels = resnet.bottleneck ? 4 * width : width;
      }
    }
    pool_ = MapPool(*this, resnet.pooling, channels, side, resnet.heads);
  }

  at::Tensor forward(const at::Tensor& x, const ItemNoise* noise) override {
    const at::Tensor h = at::max_pool2d(norm_(input(x)).relu_(), 3, 2, 1);
    return pool_(residual_blocks(blocks_, h, drop_path_, checkpoint_, noise));
  }

 private:
  double drop_path_;
  bool checkpoint_;
  BatchNorm norm_{nullptr};
  std::vector<ResNetBlock> blocks_;
};

}  // namespace

std::shared_ptr<ImageTower> make_resnet_tower(const ImageEncoderOptions& options) {
  return std::make_shared<ResNetTower>(options);
}

}  // namespace daug::detail
