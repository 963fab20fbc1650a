#pragma once
// What image towers are made of: the first layer that can be widened, their interface, and one factory a family.

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <string>

#include "daug/encoder/image_encoder.h"
#include "item_noise.h"

namespace daug::detail {

/// The first convolution of a tower. Channels beyond in_channels have weights of their own and are added as a second
/// convolution, so that the arithmetic on the first ones never changes.
class InputConvImpl : public torch::nn::Module {
 public:
  /// Channels and gates are those of the options.
  InputConvImpl(const ImageEncoderOptions& options, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                std::int64_t padding, bool bias = false);

  void widen(std::int64_t extra, bool gates);
  /// Of the first channels alone or of all.
  at::Tensor forward(const at::Tensor& x) const;
  /// [out, in + extra, kernel, kernel], gates included.
  at::Tensor weight() const;

 private:
  at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const;
  at::Tensor gated_weight() const;

  std::int64_t stride_, padding_;
  at::Tensor weight_, extra_weight_, extra_gate_, bias_;
};
TORCH_MODULE(InputConv);

/// From images [B, C, H, W] to features [B, features()].
class ImageTower : public torch::nn::Module {
 public:
  /// `noise` for drop path, or null for none.
  virtual at::Tensor forward(const at::Tensor& x, const ItemNoise* noise) = 0;
  virtual std::int64_t features() const = 0;
  /// Standard deviation of the initial values of a parameter.
  virtual double deviation(const std::string& name, const at::Tensor& parameter) const = 0;

  InputConv input{nullptr};
};

// Of valid options.
std::shared_ptr<ImageTower> make_conv_tower(const ImageEncoderOptions& options);
std::shared_ptr<ImageTower> make_vit_tower(const ImageEncoderOptions& options);
std::shared_ptr<ImageTower> make_resnet_tower(const ImageEncoderOptions& options);
std::shared_ptr<ImageTower> make_densenet_tower(const ImageEncoderOptions& options);

}  // namespace daug::detail
