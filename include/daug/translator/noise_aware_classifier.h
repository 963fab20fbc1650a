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

  /// Throws kInvalidArgument naming the first option out of range, such as an image_size that is no multiple of
  /// 2^(levels - 1).
  void validate() const;
};

/// `x [B, C, H, W], timesteps [B] -> logits [B, out_channels]` in the input's dtype, which is that of the parameters,
/// and on its device; each logit is one finding (sigmoid) or class (softmax), without bounds.
///
/// Names and shapes of parameters follow guided-diffusion's EncoderUNetModel (guided_diffusion/unet.py, MIT). Nothing
/// is brought back to the input's size, so height and width need not be multiples of 2^(levels - 1), only at least
/// that large; with attention pooling, whose positions are learnt, images are image_size x image_size. A multiple of it
/// is required of image_size alone. Deterministic on one thread count, dropout included: its masks come from
/// `seed_dropout`, not from LibTorch's generator. Differentiable in parameters and `x`.
class NoiseAwareClassifierImpl : public torch::nn::Module {
 public:
  /// Draws initial weights from LibTorch's generator, float32 on the CPU. Throws what
  /// NoiseAwareClassifierOptions::validate throws, and kInvalidArgument for norm_groups, num_heads or num_head_channels
  /// that do not divide a width.
  explicit NoiseAwareClassifierImpl(NoiseAwareClassifierOptions options);

  /// x: [B, in_channels, H, W], data in [-1, 1] noised to the level of its timestep. timesteps [B], on any device, as
  /// DenoiserUNetImpl::forward takes them. Throws kInvalidArgument for other shapes, for images with a side below
  /// 2^(levels - 1), for x of another dtype than the parameters', and with attention pooling for an H x W of another
  /// number of positions after downsampling.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& timesteps);

  /// About the most memory held at once for each item of height x width pixels while the gradient to x is computed, in
  /// bytes of the parameters' dtype (half types count as float32, in which norms and attention are computed); without
  /// parameters, and for use_checkpoint as without it.
  std::int64_t gradient_bytes(std::int64_t height, std::int64_t width) const;

  /// As DenoiserUNetImpl::seed_dropout: from here on the dropout masks of training passes are a function of the seed
  /// and the number of passes since. With `items` > 0 a pass is the part that begins at item `first` of that many.
  void seed_dropout(std::uint64_t seed, std::int64_t first = 0, std::int64_t items = 0);

  /// The settings it was built with.
  const NoiseAwareClassifierOptions& options() const { return options_; }

 private:
  NoiseAwareClassifierOptions options_;
  std::shared_ptr<detail::UNetTrunk> trunk_;
  std::shared_ptr<detail::ClassifierHead> head_;
};
TORCH_MODULE(NoiseAwareClassifier);

}  // namespace daug
