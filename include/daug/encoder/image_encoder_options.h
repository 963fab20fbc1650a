#pragma once
/// @file
/// Settings of the image towers. Needs no LibTorch, so that what reads them from a file does without.

#include <array>
#include <cstdint>

#include "daug/encoder/activation.h"

namespace daug {

/// Which network reads the image.
enum class ImageEncoderKind {
  kConv,      ///< residual convolutions; trains from scratch on a few hundred images
  kViT,       ///< vision transformer with CLIP's layout and parameter names
  kResNet,    ///< residual network with torchvision's layout and parameter names, batch norm
  kDenseNet,  ///< densely connected network with torchvision's layout and parameter names, batch norm
};

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

}  // namespace daug
