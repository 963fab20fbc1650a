#pragma once
/// @file
/// Image towers behind one module: a small residual convolutional network, CLIP's vision transformer, and the ResNets
/// and DenseNets of torchvision.

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "daug/encoder/image_encoder_options.h"
#include "daug/encoder/initial_weights.h"

namespace torch::nn {
class LinearImpl;
}

namespace daug {

/// How a pretrained tower of three channels takes pixels p in [0, 1]: (p - mean) / deviation, channel by channel. A
/// tower of one channel takes them by the first of each.
struct PixelScaling {
  std::array<double, 3> mean,  ///< of each channel, in [0, 1]
      deviation;               ///< of each channel, > 0
};
/// Of CLIP's training images, OpenAI's and open_clip's weights alike.
inline constexpr PixelScaling kClipPixels = {{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}};
/// Of ImageNet, for torchvision's weights.
inline constexpr PixelScaling kImageNetPixels = {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};
/// To [-1024, 1024], for chest-radiograph weights of torchxrayvision.
inline constexpr PixelScaling kRadiographPixels = {{0.5, 0.5, 0.5}, {1.0 / 2048, 1.0 / 2048, 1.0 / 2048}};

/// Images [B, 1 or C, H, W] in [-1, 1] as such a tower takes them, [B, C, H, W] with C = `channels` (1 or 3:
/// kInvalidArgument); a single channel is repeated. Throws kMismatch for other shapes.
at::Tensor scaled_pixels(const at::Tensor& images, const PixelScaling& scaling, std::int64_t channels = 3);

namespace detail {
class ImageTower;
struct ItemNoise;
}  // namespace detail

/// Maps images to embeddings, x [B, C, H, W] -> [B, D], not normalised.
///
/// C = in_channels + extra_channels (with extra.dropout also in_channels alone, which is as if the extra ones were 0),
/// H = W = image_size; x has the parameters' dtype and device and is finite. Weights
/// depend on (options, seed) only, not on LibTorch's global generator.
///
/// kConv and kViT have no batch statistics: an item's embedding does not depend on the rest of the batch (beyond
/// rounding), and train() and eval() are the same. kResNet and kDenseNet have batch norm: after train(), the state a
/// module is made in, it uses the batch's statistics and counts them into the running ones (momentum 0.1, unbiased
/// variance), which are buffers; after eval() it uses the running ones, and what is said above holds. A batch norm
/// neither of whose parameters takes a gradient (freeze_parameters) uses the running ones in either state and keeps
/// them.
///
/// Parameters of kViT are named and shaped as in Hugging Face's CLIP (`vision_model.*`, `visual_projection.weight`),
/// those of kResNet and kDenseNet as in torchvision, under `vision_model.`, with `visual_projection` for the
/// classifier.
class ImageEncoderImpl : public torch::nn::Module {
 public:
  /// Draws weights from `seed`, float32 on the CPU. Throws what ImageEncoderOptions::validate throws.
  explicit ImageEncoderImpl(const ImageEncoderOptions& options, std::uint64_t seed = 0);
  /// The same without drawing them.
  ImageEncoderImpl(const ImageEncoderOptions& options, LoadedLater);

  /// Throws kMismatch naming the expected and the actual shape or dtype, and kInvalidArgument for batch statistics of
  /// one value a channel.
  ///
  /// Nothing is drawn at random here. So that drop_path and extra.dropout are not left out of training unnoticed,
  /// an encoder that has one of them refuses this call (kInvalidArgument) until eval() is called.
  at::Tensor forward(const at::Tensor& x);

  /// A training pass: what drop_path leaves out and extra.dropout hides is drawn for each image from (seed, items[i]),
  /// whatever its batch. items has one number an image, else kInvalidArgument. The same call gives the same result:
  /// embed_in_chunks may repeat it.
  at::Tensor forward_items(const at::Tensor& x, const std::vector<std::uint64_t>& items, std::uint64_t seed);

  /// Adds `extra_channels` >= 1 input channels, after the existing ones, with zero first-layer weights (a new parameter
  /// `*.extra_weight` of the first layer, and `*.extra_gate` with gates).
  ///
  /// Until it is trained, the widened network maps [x, anything finite] to exactly the bits that the narrow one maps x
  /// to: the first layer adds a second convolution, whose output is zero, to the unchanged first one. (That addition
  /// makes 0 of a first-layer value of -0, which an embedding of zeros alone could show.) Finite is meant in the type
  /// that convolutions compute in: under autocast to float16 a map of 1e5 is not. Call it before making the optimiser.
  /// Throws kUnsupported when the network has extra channels already.
  void widen_input(std::int64_t extra_channels, const ExtraChannelOptions& extra);
  /// The same as options().extra says.
  void widen_input(std::int64_t extra_channels) { widen_input(extra_channels, options_.extra); }

  /// Weight of the first convolution or patch embedding over all input channels, gates included, [O, C, k, k].
  at::Tensor first_layer_weight() const;

  /// The settings it was built with, as widen_input changed them.
  const ImageEncoderOptions& options() const noexcept { return options_; }

 private:
  bool hides_maps() const { return options_.extra_channels > 0 && options_.extra.dropout > 0; }
  at::Tensor embed(const at::Tensor& x, const detail::ItemNoise* noise);

  ImageEncoderOptions options_;
  std::shared_ptr<detail::ImageTower> tower_;
  std::shared_ptr<torch::nn::LinearImpl> projection_;
};
TORCH_MODULE(ImageEncoder);

}  // namespace daug
