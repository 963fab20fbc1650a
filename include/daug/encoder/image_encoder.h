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

#include "daug/encoder/activation.h"
#include "daug/encoder/initial_weights.h"

namespace torch::nn {
class LinearImpl;
}

namespace daug {

/// Which network reads the image.
enum class ImageEncoderKind {
  kConv,      ///< residual convolutions; trains from scratch on a few hundred images
  kViT,       ///< vision transformer with CLIP's layout and parameter names
  kResNet,    ///< residual network with torchvision's layout and parameter names, batch norm
  kDenseNet,  ///< densely connected network with torchvision's layout and parameter names, batch norm
};

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

/// How a convolutional network turns its last feature map into one vector.
enum class ImagePooling {
  kFlatten,    ///< every position keeps its own weights: knows where a feature is
  kAttention,  ///< attention of the mean feature over all positions, with a position table (arXiv 2103.00020)
  kMean,       ///< mean over positions: forgets where a feature is, a poor baseline for radiographs
};

/// Settings of the convolutional network: a stride-2 stem, then `stages` of `blocks` pre-activation residual blocks
/// (arXiv 1603.05027) with group norm and SiLU; width doubles and resolution halves from stage to stage.
struct ConvTowerOptions {
  std::int64_t base_width = 16;  ///< channels of the stem and the first stage, >= 1
  std::int64_t stages = 2;       ///< in [1, 6]; the image side is divisible by 2^stages
  std::int64_t blocks = 1;       ///< residual blocks a stage, >= 1
  /// Channels a group of every group norm, divides base_width; LibTorch's channels_last kernel is slow below 8.
  std::int64_t norm_group_width = 8;
  ImagePooling pooling = ImagePooling::kFlatten;  ///< see ImagePooling
  std::int64_t heads = 4;                         ///< heads of kAttention, divides the last width

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Settings of the residual network (arXiv 1512.03385) as torchvision builds it: a 7x7 convolution of stride 2, pooling
/// of stride 2, and four stages, whose width doubles and whose resolution halves; a bottleneck strides in its 3x3
/// convolution. The defaults are ResNet-18.
struct ResNetTowerOptions {
  std::array<std::int64_t, 4> blocks = {2, 2, 2, 2};  ///< residual blocks of each stage, in [1, 64]
  bool bottleneck = false;                            ///< blocks of three convolutions, four times as wide at their end
  std::int64_t base_width = 64;                       ///< channels of the first convolution, >= 1; published: 64
  ImagePooling pooling = ImagePooling::kMean;         ///< see ImagePooling; kMean is torchvision's
  std::int64_t heads = 8;                             ///< heads of kAttention, divides the last width

  /// ResNet-18, 34, 50 or 101. Throws kInvalidArgument for another depth.
  static ResNetTowerOptions of_depth(std::int64_t depth);
  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Settings of the densely connected network (arXiv 1608.06993) as torchvision builds it: a 7x7 convolution of stride
/// 2, pooling of stride 2, and four blocks with transitions between them that halve width and resolution. The defaults
/// are DenseNet-121.
struct DenseNetTowerOptions {
  std::array<std::int64_t, 4> layers = {6, 12, 24, 16};  ///< layers of each block, in [1, 128]
  std::int64_t base_width = 64;                          ///< channels of the first convolution, >= 2
  std::int64_t growth = 32;                              ///< channels that a layer adds, >= 1
  std::int64_t bottleneck = 4;                 ///< width of a layer's 1x1 convolution as a multiple of growth, >= 1
  ImagePooling pooling = ImagePooling::kMean;  ///< see ImagePooling; kMean is torchvision's
  std::int64_t heads = 8;                      ///< heads of kAttention, divides the last width

  /// DenseNet-121 or 169. Throws kInvalidArgument for another depth.
  static DenseNetTowerOptions of_depth(std::int64_t depth);
  /// Channels of the last map.
  std::int64_t last_width() const;
  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// How the vision transformer turns its last tokens into one vector. The last layer norm comes first in each.
enum class VitPooling {
  kClassToken,  ///< the class token, as CLIP
  kMean,        ///< mean of the patches without the class token (open_clip's `avg`)
  kAttention,   ///< a learnt probe attends to the patches, an MLP follows: SigLIP's head (arXiv 2303.15343)
};

/// Settings of the vision transformer.
struct VitTowerOptions {
  std::int64_t patch_size = 4;                     ///< side of a square patch in pixels, divides image_size, >= 1
  std::int64_t width = 64;                         ///< size of a token, >= 1
  std::int64_t depth = 4;                          ///< transformer layers, >= 1
  std::int64_t heads = 4;                          ///< attention heads, divides width
  std::int64_t mlp_width = 256;                    ///< hidden size of the MLPs, >= 1; CLIP has 4 width
  Activation activation = Activation::kQuickGelu;  ///< of the MLPs
  double norm_epsilon = 1e-5;                      ///< added to the variance in every layer norm, in (0, 1]
  bool patch_bias = false;                         ///< the patch embedding has a bias; CLIP's has none
  VitPooling pooling = VitPooling::kClassToken;    ///< see VitPooling

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// How an image encoder treats its extra channels, maps in most cases.
struct ExtraChannelOptions {
  bool gates = false;  ///< each has a learnable factor of its own (`*.extra_gate` of the first layer), 1 at first
  /// Probability in [0, 1) with which a training pass hides each extra channel of an image (it reads zeros), and once
  /// more that with which it hides all of them, so that the encoder also works with some or none of them.
  double dropout = 0;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Settings of ImageEncoder; only the tower that `kind` names is read.
struct ImageEncoderOptions {
  ImageEncoderKind kind = ImageEncoderKind::kConv;  ///< which network
  std::int64_t in_channels = 1;     ///< channels whose first-layer weights are drawn at random (or loaded), >= 1
  std::int64_t extra_channels = 0;  ///< further channels whose first-layer weights start at zero, >= 0
  ExtraChannelOptions extra;        ///< how they are treated
  std::int64_t image_size = 32;     ///< height and width of the input in pixels, >= 2
  std::int64_t embed_dim = 128;     ///< D, size of the embedding, >= 1
  bool projection_bias = false;     ///< the projection to the embedding has a bias; CLIP's has none
  /// Stochastic depth (arXiv 1603.09382), in [0, 1): probability with which a training pass leaves out the last
  /// residual branch for an image; that of earlier ones falls linearly. kDenseNet has no such branches: 0.
  double drop_path = 0;
  /// The backward pass computes the inner activations of every layer (kViT), residual block or dense block again, for
  /// the memory of one of them. Same values and gradients.
  bool use_checkpoint = false;
  ConvTowerOptions conv;          ///< of kConv
  VitTowerOptions vit;            ///< of kViT
  ResNetTowerOptions resnet;      ///< of kResNet
  DenseNetTowerOptions densenet;  ///< of kDenseNet, which needs image_size >= 29

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

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
  /// to: the first layer adds a second convolution, whose output is zero, to the unchanged first one. Call it before
  /// making the optimiser. Throws kUnsupported when the network has extra channels already.
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
