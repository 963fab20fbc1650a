#pragma once
/// @file
/// Heatmaps as extra input channels of an otherwise unchanged encoder.

#include <cstdint>
#include <string>
#include <vector>

#include "daug/core/execution.h"

namespace at {
class Tensor;
}

namespace daug {

/// How maps reach the encoder. The first three are those of the published code (drjinying/DAug, MIT).
enum class ChannelMode {
  kNone,     ///< the image alone
  kChannel,  ///< one map replaces one image channel
  kAdd,      ///< image and map go through two encoders whose embeddings are averaged
  kAppend,   ///< the maps become further channels, C + K in all
};

/// "none", "channel", "add" or "append"; throws kInvalidArgument otherwise.
ChannelMode channel_mode(const std::string& name);

/// Settings of HeatmapChannelAugmenter.
struct ChannelAugmenterOptions {
  static constexpr double kLargestRotation = 180;  ///< bound of max_rotation, degrees
  static constexpr double kLargestShift = 0.5;     ///< bound of max_shift: half the picture leaves it
  static constexpr double kLargestScale = 0.5;     ///< bound of max_scale: half the size to half as large again

  ChannelMode mode = ChannelMode::kAppend;  ///< how maps reach the encoder
  std::int64_t map_index = 0;               ///< map used by kChannel and kAdd, in [0, K)
  std::int64_t image_channel = 0;           ///< channel replaced by kChannel, in [0, C); the reference replaces 0
  double max_rotation = 0;                  ///< random rotation, degrees either way, in [0, 180]
  double max_shift = 0;                     ///< random shift as a fraction of the side either way, in [0, 0.5]
  double max_scale = 0;                     ///< random zoom by a factor in [1 - s, 1 + s], s in [0, 0.5]
  bool flip = false;                        ///< random left-right mirror; off, since anatomy is not symmetric
  double max_brightness = 0;                ///< random offset added to the image alone, in [0, 1]
  double max_contrast = 0;                  ///< image alone scaled by a factor in [1 - c, 1 + c], c in [0, 0.999]

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
  /// Whether any random change is switched on.
  bool augments() const;
};

/// Puts maps into an encoder's input, and moves image and maps together under random geometric changes.
///
/// Random numbers come from (seed, item, purpose), so a change does not depend on batch size or order. Pure functions
/// of their arguments: safe to share between threads. Tensors may be on any device, image and maps on the same one
/// (kInvalidArgument); numbers are drawn on the CPU, nothing is read back, and nothing waits for the device. What does
/// not fit into its memory is kOutOfMemory, a device that failed kDevice. Not yet run on a device.
class HeatmapChannelAugmenter {
 public:
  /// Throws what ChannelAugmenterOptions::validate throws.
  explicit HeatmapChannelAugmenter(ChannelAugmenterOptions options = {});

  /// Encoder input from image [B, C, H, W] and maps [B, K, H, W] (ignored, and may be undefined, for kNone).
  /// kNone -> the image; kChannel -> [B, C, H, W] (a copy: the caller's tensor is untouched); kAppend -> [B, C+K, H,
  /// W]; kAdd -> the map repeated over C channels, input of the second encoder. Maps take the image's dtype. Throws
  /// kInvalidArgument for shapes, and for an option beyond the channels there are.
  at::Tensor apply(const at::Tensor& image, const at::Tensor& maps) const;

  /// Channels that `apply` returns for C image channels and K maps.
  std::int64_t channels(std::int64_t image_channels, std::int64_t maps) const;

  /// Applies one random affine change an item to image and maps alike (bilinear; outside is -1 for the image, the
  /// range's black, and 0 for maps), and intensity changes, held in [-1, 1], to the image alone. maps may be undefined;
  /// they get the image's dtype. items: one id an image. Half types are computed in float32 and rounded once.
  /// Deterministic; an item does not depend on its batch.
  ///
  /// LibTorch's operators do it, differentiably. For CUDA devices there is a kernel (float32, float16 or bfloat16
  /// without gradients, at most 65535 images, sides below 2^24) that makes both in one pass, within rounding the same:
  /// kAuto takes it once a device has run its tests, kFused on a device in any case.
  ///
  /// Throws kInvalidArgument for other shapes, and kUnsupported for kFused where there is no kernel for these tensors.
  void augment(at::Tensor& image, at::Tensor& maps, const std::vector<std::uint64_t>& items, std::uint64_t seed,
               Execution execution = Execution::kAuto) const;

  /// As given to the constructor.
  const ChannelAugmenterOptions& options() const { return options_; }

 private:
  ChannelAugmenterOptions options_;
};

/// Mean of two embeddings [B, D], the combination of ChannelMode::kAdd (un-normalised, as the reference does).
at::Tensor combined_embedding(const at::Tensor& image, const at::Tensor& heatmap);

/// Weight [O, C + extra, ...] of a first convolution or patch embedding widened with zeros: on any input whose first C
/// channels are those of the narrow layer it computes the narrow layer's output at the start, and it trains. In one
/// convolution a processor may sum in another order, so this holds up to rounding; computed as the sum of two
/// convolutions (what ImageEncoder does) it holds bit for bit. Throws kInvalidArgument for a negative `extra_channels`.
at::Tensor widened_input_weight(const at::Tensor& weight, std::int64_t extra_channels);

}  // namespace daug
