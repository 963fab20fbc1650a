#include "daug/encoder/torchvision_checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "checkpoint_contents.h"
#include "daug/core/error.h"
#include "daug/io/weights.h"
#include "io/fillable.h"

namespace daug {

namespace {

constexpr const char* kLoad = "daug::load_torchvision";
constexpr std::string_view kTower = "vision_model.", kPool = "vision_model.pool.", kProjection = "visual_projection.";
constexpr const char* kCounter = "num_batches_tracked";

std::string head_of(ImageEncoderKind kind) { return kind == ImageEncoderKind::kResNet ? "fc." : "classifier."; }

ImagePooling pooling_of(const ImageEncoderOptions& options) {
  return options.kind == ImageEncoderKind::kResNet ? options.resnet.pooling : options.densenet.pooling;
}

void require_family(const ImageEncoder& encoder, const char* function) {
  require(!encoder.is_empty(), function, "encoder", "an image encoder", "an empty one");
  const auto kind = encoder->options().kind;
  if (kind != ImageEncoderKind::kResNet && kind != ImageEncoderKind::kDenseNet)
    fail(ErrorCode::kUnsupported, function, "encoder: kind", "kResNet or kDenseNet", static_cast<int>(kind));
}

/// The encoder's tensors under torchvision's names and, apart, under the encoder's own what torchvision has no name
/// for.
struct Named {
  NamedTensors theirs, ours;
};

Named named(const ImageEncoder& encoder) {
  Named result;
  for (const auto& [name, tensor] : named_tensors(*encoder)) {
    if (name.starts_with(kProjection))
      result.theirs.emplace(head_of(encoder->options().kind) + name.substr(kProjection.size()), tensor);
    else if (name.find(".extra_") != std::string::npos || name.starts_with(kPool))
      result.ours.emplace(name, tensor);
    else
      result.theirs.emplace(name.substr(kTower.size()), tensor);
  }
  return result;
}

/// `features.denseblock1.denselayer1.norm.1.weight`, as the first files had it, in today's names.
SafetensorsFile with_todays_names(SafetensorsFile file) {
  SafetensorsFile result;
  result.metadata = std::move(file.metadata);
  for (auto& [key, array] : file.tensors) {
    std::string name = key;
    const auto layer = name.find(".denselayer");
    for (const char* kind : {".norm.", ".conv."}) {
      const auto found = layer == std::string::npos ? layer : name.find(kind, layer);
      if (found != std::string::npos) name.erase(found + 5, 1);
    }
    if (!result.tensors.emplace(name, std::move(array)).second)
      fail(ErrorCode::kFormat, kLoad, key, "one tensor of this name", "another as " + name);
  }
  return result;
}

TorchvisionReport fill(SafetensorsFile file, const std::string& path, ImageEncoder& encoder, TorchvisionHead head) {
  Named tensors = named(encoder);
  TorchvisionReport report;
  for (const auto& [name, tensor] : tensors.ours) report.untouched.push_back(name);
  const auto leave = [&](const std::string& name, const std::string& ours) {
    tensors.theirs.erase(name);
    report.untouched.push_back(ours);
  };
  if (head == TorchvisionHead::kReplace) {
    const std::string prefix = head_of(encoder->options().kind);
    for (const char* kind : {"weight", "bias"}) {
      if (file.tensors.erase(prefix + kind)) report.left_out.push_back(prefix + kind);
      if (tensors.theirs.count(prefix + kind)) leave(prefix + kind, std::string(kProjection) + kind);
    }
  }
  if (std::none_of(file.tensors.begin(), file.tensors.end(),
                   [](const auto& item) { return item.first.ends_with(kCounter); }))
    for (const auto& [name, tensor] : NamedTensors(tensors.theirs))
      if (name.ends_with(kCounter)) leave(name, std::string(kTower).append(name));
  load_weights(tensors.theirs, file, path);
  return report;
}

/// Size of one dimension of a convolution's weight that must be there.
std::int64_t size_of(const SafetensorsFile& file, const std::string& key, std::size_t dimension, std::size_t rank = 4) {
  const auto found = file.tensors.find(key);
  if (found == file.tensors.end())
    fail(ErrorCode::kMismatch, kLoad, "file", "weights of a ResNet or a DenseNet, with " + key, "no such tensor");
  const auto& shape = found->second.shape;
  if (shape.size() != rank || std::any_of(shape.begin(), shape.end(), [](std::int64_t size) { return size < 1; }))
    fail(ErrorCode::kMismatch, kLoad, key, detail::concat(rank, " dimensions, none empty"), at::IntArrayRef(shape));
  return shape[dimension];
}

/// Number of things numbered from `first` on; one, of which the report will tell, where there is none.
std::int64_t count_of(const SafetensorsFile& file, const std::string& prefix, std::int64_t first) {
  return std::max<std::int64_t>(1, detail::largest_number(file, prefix) + 1 - first);
}

ImageEncoderOptions options_of(const SafetensorsFile& file, const std::string& path,
                               const TorchvisionLoadOptions& wanted) {
  wanted.validate();
  ImageEncoderOptions options;
  options.image_size = wanted.image_size;
  options.embed_dim = wanted.embed_dim;
  std::string first = "conv1.weight";
  if (file.contains("features.conv0.weight")) {
    options.kind = ImageEncoderKind::kDenseNet;
    first = "features.conv0.weight";
    auto& densenet = options.densenet;
    const std::string block = "features.denseblock", layer = block + "1.denselayer1.";
    densenet.base_width = size_of(file, first, 0);
    densenet.growth = size_of(file, layer + "conv2.weight", 0);
    const std::int64_t inner = size_of(file, layer + "conv1.weight", 0);
    if (inner % densenet.growth != 0)
      fail(ErrorCode::kMismatch, kLoad, layer + "conv1.weight",
           detail::concat("a multiple of ", densenet.growth, " rows"), inner);
    densenet.bottleneck = inner / densenet.growth;
    for (std::size_t i = 0; i < densenet.layers.size(); ++i)
      densenet.layers[i] = count_of(file, detail::concat(block, i + 1, ".denselayer"), 1);
  } else {
    options.kind = ImageEncoderKind::kResNet;
    auto& resnet = options.resnet;
    resnet.base_width = size_of(file, first, 0);
    resnet.bottleneck = file.contains("layer1.0.conv3.weight");
    for (std::size_t i = 0; i < resnet.blocks.size(); ++i)
      resnet.blocks[i] = count_of(file, detail::concat("layer", i + 1, "."), 0);
  }
  options.in_channels = size_of(file, first, 1);
  if (wanted.head == TorchvisionHead::kKeep) {
    options.embed_dim = size_of(file, head_of(options.kind) + "weight", 0, 2);
    options.projection_bias = file.contains(head_of(options.kind) + "bias");
  }
  try {
    options.validate();
  } catch (const Error& error) {
    fail(ErrorCode::kMismatch, kLoad, path, "weights of a ResNet or a DenseNet for images of this size", error.what());
  }
  // A classifier that is replaced need not be in the file.
  detail::require_fillable(
      detail::values_of(options) + (wanted.head == TorchvisionHead::kKeep ? detail::projection_values(options) : 0),
      file, kLoad, path);
  return options;
}

}  // namespace

void TorchvisionLoadOptions::validate() const {
  require_range(image_size, 2, 1 << 14, kLoad, "image_size");
  require_range(embed_dim, 1, 1 << 16, kLoad, "embed_dim");
}

TorchvisionReport load_torchvision(const std::string& path, ImageEncoder& encoder, TorchvisionHead head) {
  require_family(encoder, kLoad);
  return fill(with_todays_names(read_safetensors(path)), path, encoder, head);
}

ImageEncoder load_torchvision(const std::string& path, const TorchvisionLoadOptions& options,
                              TorchvisionReport* report) {
  SafetensorsFile file = with_todays_names(read_safetensors(path));
  const ImageEncoderOptions found = options_of(file, path, options);
  // Drawing initial weights takes longer than reading them; where a part stays as drawn, all are.
  ImageEncoder encoder =
      options.head == TorchvisionHead::kKeep ? ImageEncoder(found, LoadedLater{}) : ImageEncoder(found, options.seed);
  TorchvisionReport filled = fill(std::move(file), path, encoder, options.head);
  if (report) *report = std::move(filled);
  return encoder;
}

void save_torchvision(const std::string& path, const ImageEncoder& encoder) {
  constexpr const char* kFunction = "daug::save_torchvision";
  require_family(encoder, kFunction);
  const auto& options = encoder->options();
  if (pooling_of(options) != ImagePooling::kMean)
    fail(ErrorCode::kUnsupported, kFunction, "encoder: pooling", "kMean", static_cast<int>(pooling_of(options)));
  NamedTensors tensors = named(encoder).theirs;
  const bool resnet = options.kind == ImageEncoderKind::kResNet;
  const at::Tensor first = encoder->first_layer_weight();
  tensors[resnet ? "conv1.weight" : "features.conv0.weight"] = first;
  tensors.emplace(head_of(options.kind) + "bias", at::zeros({options.embed_dim}, first.detach().options()));
  // Changing a module's dtype changes that of its counters too.
  for (auto& [name, tensor] : tensors)
    if (name.ends_with(kCounter)) tensor = tensor.to(at::kLong);
  save_weights(path, tensors, {{"format", "pt"}});
}

}  // namespace daug
