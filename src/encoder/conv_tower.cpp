// The residual convolutional network that trains from scratch.

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "conv_layers.h"

namespace daug::detail {
namespace {

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

  at::Tensor forward(const at::Tensor& x, const at::Tensor& paths) {
    const at::Tensor active = normed_silu(norm1_, x);
    const at::Tensor branch = conv2_(normed_silu(norm2_, conv1_(active)));
    return scaled_path(branch, paths, 0) + (skip_ ? skip_(active) : x);
  }

 private:
  torch::nn::GroupNorm norm1_, norm2_;
  torch::nn::Conv2d conv1_, conv2_, skip_{nullptr};
};
TORCH_MODULE(ResidualBlock);

class ConvTower : public MapTower {
 public:
  explicit ConvTower(const ImageEncoderOptions& options)
      : drop_path_(options.drop_path), checkpoint_(options.use_checkpoint) {
    const auto& conv = options.conv;
    std::int64_t width = conv.base_width;
    input = register_module("stem", InputConv(options, width, 3, 2, 1));
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
    pool_ = MapPool(*this, conv.pooling, width, options.image_size >> conv.stages, conv.heads);
  }

  at::Tensor forward(const at::Tensor& x, const ItemNoise* noise) override {
    return pool_(normed_silu(norm_, residual_blocks(blocks_, input(x), drop_path_, checkpoint_, noise)));
  }

 private:
  double drop_path_;
  bool checkpoint_;
  std::vector<ResidualBlock> blocks_;
  torch::nn::GroupNorm norm_{nullptr};
};

}  // namespace

std::shared_ptr<ImageTower> make_conv_tower(const ImageEncoderOptions& options) {
  return std::make_shared<ConvTower>(options);
}

}  // namespace daug::detail
