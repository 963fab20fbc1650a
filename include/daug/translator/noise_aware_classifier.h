#pragma once
/// @file
/// The classifier that guides translation: the down path of the UNet, fed noisy images and their timestep.

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <memory>
#include <string>

#include "daug/translator/denoiser_unet.h"

namespace daug {

namespace detail {
class ClassifierHead;
}

/// How feature maps become logits; upstream's `pool`.
enum class ClassifierPool {
  kAdaptive,   ///< mean over positions, then a 1x1 convolution
  kAttention,  ///< attention of the mean position over all; for images of image_size alone
  kSpatial,    ///< means of every block, a hidden layer with ReLU
  kSpatialV2,  ///< the same with a group norm and SiLU
};

/// "adaptive", "attention", "spatial" or "spatial_v2"; throws kInvalidArgument otherwise.
ClassifierPool classifier_pool(const std::string& name);

/// Settings of NoiseAwareClassifier; out_channels is the number of logits.
struct NoiseAwareClassifierOptions : UNetOptions {
  ClassifierPool pool = ClassifierPool::kAttention;  ///< attention needs num_head_channels

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// `x [B, C, H, W], timesteps [B] -> logits [B, out_channels]`; each logit is one finding (sigmoid) or class (softmax).
///
/// Names and shapes of parameters follow guided-diffusion's EncoderUNetModel (guided_diffusion/unet.py, MIT).
class NoiseAwareClassifierImpl : public torch::nn::Module {
 public:
  /// Draws initial weights from LibTorch's generator. Throws what NoiseAwareClassifierOptions::validate throws.
  explicit NoiseAwareClassifierImpl(NoiseAwareClassifierOptions options);

  /// timesteps [B] in the schedule's own counting. Throws kInvalidArgument for other shapes.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& timesteps);

  /// About the most memory held at once for each item of height x width pixels while the gradient to x is computed, in
  /// bytes; without parameters.
  std::int64_t gradient_bytes(std::int64_t height, std::int64_t width) const;

  /// As DenoiserUNetImpl::seed_dropout.
  void seed_dropout(std::uint64_t seed);

  /// The settings it was built with.
  const NoiseAwareClassifierOptions& options() const { return options_; }

 private:
  NoiseAwareClassifierOptions options_;
  std::shared_ptr<detail::UNetTrunk> trunk_;
  std::shared_ptr<detail::ClassifierHead> head_;
};
TORCH_MODULE(NoiseAwareClassifier);

}  // namespace daug
