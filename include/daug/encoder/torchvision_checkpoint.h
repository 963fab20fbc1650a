#pragma once
/// @file
/// State dicts of torchvision's ResNets and DenseNets as safetensors files, read and written.

#include <cstdint>
#include <string>
#include <vector>

#include "daug/encoder/image_encoder.h"

namespace daug {

/// What becomes of the classifier of a torchvision file (`fc.*` of a ResNet, `classifier.*` of a DenseNet).
enum class TorchvisionHead {
  kReplace,  ///< it is left out, whatever its size, or need not be there; the projection keeps its own weights
  kKeep,     ///< it becomes the projection: the embedding holds its logits
};

/// What load_torchvision did not use and did not fill.
struct TorchvisionReport {
  std::vector<std::string> left_out;  ///< keys of the file: the classifier under TorchvisionHead::kReplace
  /// Parameters and buffers of the encoder that keep their values: the projection under kReplace, those of extra
  /// channels and of attention pooling, and `num_batches_tracked` where the file has none.
  std::vector<std::string> untouched;
};

/// Settings of load_torchvision.
struct TorchvisionLoadOptions {
  std::int64_t image_size = 224;                     ///< side in pixels, in [2, 2^14]; no weight tells it
  TorchvisionHead head = TorchvisionHead::kReplace;  ///< see TorchvisionHead
  std::int64_t embed_dim = 128;                      ///< size of the embedding under kReplace, in [1, 2^16]
  std::uint64_t seed = 0;                            ///< fixes the projection under kReplace

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Reads a file into an encoder of kind kResNet or kDenseNet made before, all or nothing.
///
/// Keys and shapes are torchvision's: every one is in file and encoder alike, but for the classifier (see
/// TorchvisionHead; kKeep needs ImageEncoderOptions::projection_bias as the file has it), and for
/// `num_batches_tracked`, which files from before PyTorch 0.4.1 do not have: all or none of them may be absent.
/// `norm.1`, `conv.2` of torchvision's first DenseNet files are read as `norm1`, `conv2`. Extra channels are not part
/// of the file and keep their weights. Values are converted to the encoder's dtype.
///
/// Throws kNotFound, kIo and kFormat for the file; kUnsupported for another kind of encoder; kMismatch with the report
/// of missing, unexpected and mismatched keys, in the file's names.
TorchvisionReport load_torchvision(const std::string& path, ImageEncoder& encoder, TorchvisionHead head);

/// Makes the encoder that a file is for: blocks, widths, input channels and the size of a kept classifier are read off
/// keys and shapes; everything else is torchvision's (mean pooling, a bottleneck's stride in its 3x3 convolution).
/// Errors as above, and kMismatch for a file that is of neither family or has sizes that no network of images of this
/// size has; kInvalidArgument for `options` out of their ranges alone. `report` may be null.
ImageEncoder load_torchvision(const std::string& path, const TorchvisionLoadOptions& options = {},
                              TorchvisionReport* report = nullptr);

/// Writes a state dict atomically, which torchvision's model of the same layout loads with `strict=True`: the
/// projection is its classifier (zero biases where the projection has none), extra channels are part of its first
/// convolution. Throws kUnsupported for another kind of encoder or pooling, and kIo.
void save_torchvision(const std::string& path, const ImageEncoder& encoder);

}  // namespace daug
