#pragma once
// torchvision's ResNets and DenseNets as plain formulas on a state dict, to compare networks with.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daug/io/weights.h"

namespace daug::test {

class TorchvisionReference {
 public:
  /// Tensors by torchvision's names. `batch_statistics` as in training. `path_factors` [blocks, B]: what drop path
  /// multiplies the residual branches of each image with, or undefined.
  explicit TorchvisionReference(NamedTensors tensors, bool batch_statistics = false, at::Tensor path_factors = {})
      : tensors_(std::move(tensors)), batch_statistics_(batch_statistics), path_factors_(std::move(path_factors)) {}

  /// Features before the classifier, [B, F].
  at::Tensor features(const at::Tensor& x) const { return tensors_.count("conv1.weight") ? resnet(x) : densenet(x); }

 private:
  at::Tensor get(const std::string& name) const { return tensors_.at(name); }
  bool has(const std::string& name) const { return tensors_.count(name + ".weight") != 0; }

  at::Tensor conv(const at::Tensor& x, const std::string& name, std::int64_t stride = 1) const {
    const at::Tensor weight = get(name + ".weight");
    return at::conv2d(x, weight, {}, stride, weight.size(2) / 2);
  }

  at::Tensor norm(const at::Tensor& x, const std::string& name) const {
    const auto per_channel = [](const at::Tensor& values) { return values.view({1, -1, 1, 1}); };
    const at::Tensor mean = batch_statistics_ ? x.mean({0, 2, 3}) : get(name + ".running_mean");
    const at::Tensor variance =
        batch_statistics_ ? (x - per_channel(mean)).square().mean({0, 2, 3}) : get(name + ".running_var");
    return (x - per_channel(mean)) / (per_channel(variance) + 1e-5).sqrt() * per_channel(get(name + ".weight")) +
           per_channel(get(name + ".bias"));
  }

  /// Largest of each 3 x 3 neighbourhood, every other one; nothing lies outside.
  static at::Tensor pooled(const at::Tensor& x) {
    const at::Tensor padded = at::constant_pad_nd(x, {1, 1, 1, 1}, -1e300);
    return padded.unfold(2, 3, 2).unfold(3, 3, 2).amax({4, 5});
  }

  at::Tensor resnet(const at::Tensor& x) const {
    at::Tensor h = pooled(norm(conv(x, "conv1", 2), "bn1").clamp_min(0));
    std::int64_t count = 0;
    for (int stage = 1; stage <= 4; ++stage)
      for (int number = 0;; ++number) {
        const std::string block = "layer" + std::to_string(stage) + "." + std::to_string(number) + ".";
        if (!has(block + "conv1")) break;
        const std::int64_t stride = stage > 1 && number == 0 ? 2 : 1;
        const bool bottleneck = has(block + "conv3");
        at::Tensor branch = norm(conv(h, block + "conv1", bottleneck ? 1 : stride), block + "bn1").clamp_min(0);
        branch = norm(conv(branch, block + "conv2", bottleneck ? stride : 1), block + "bn2");
        if (bottleneck) branch = norm(conv(branch.clamp_min(0), block + "conv3"), block + "bn3");
        if (path_factors_.defined()) branch = branch * path_factors_[count++].view({-1, 1, 1, 1});
        const at::Tensor skip =
            has(block + "downsample.0") ? norm(conv(h, block + "downsample.0", stride), block + "downsample.1") : h;
        h = (branch + skip).clamp_min(0);
      }
    return h.mean({2, 3});
  }

  at::Tensor densenet(const at::Tensor& x) const {
    at::Tensor h = pooled(norm(conv(x, "features.conv0", 2), "features.norm0").clamp_min(0));
    for (int number = 1; number <= 4; ++number) {
      for (int layer = 1;; ++layer) {
        const std::string name =
            "features.denseblock" + std::to_string(number) + ".denselayer" + std::to_string(layer) + ".";
        if (!has(name + "conv1")) break;
        const at::Tensor inner = conv(norm(h, name + "norm1").clamp_min(0), name + "conv1");
        h = at::cat({h, conv(norm(inner, name + "norm2").clamp_min(0), name + "conv2")}, 1);
      }
      if (number == 4) break;
      const std::string name = "features.transition" + std::to_string(number) + ".";
      h = conv(norm(h, name + "norm").clamp_min(0), name + "conv");
      h = h.unfold(2, 2, 2).unfold(3, 2, 2).mean(at::IntArrayRef{4, 5});
    }
    return norm(h, "features.norm5").clamp_min(0).mean(at::IntArrayRef{2, 3});
  }

  NamedTensors tensors_;
  bool batch_statistics_;
  at::Tensor path_factors_;
};

}  // namespace daug::test
