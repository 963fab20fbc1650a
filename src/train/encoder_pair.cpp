#include "encoder_pair.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <memory>
#include <utility>

#include "backend/fitting_rows.h"
#include "daug/core/error.h"
#include "daug/io/weights.h"

namespace daug {

namespace {

class EncoderPairModule : public torch::nn::Module {
 public:
  explicit EncoderPairModule(const EncoderPair& pair) {
    register_module("image", pair.image);
    if (!pair.heatmap.is_empty()) register_module("heatmap", pair.heatmap);
    register_module("text", pair.text);
    for (const auto& [name, value] : {std::pair<const char*, at::Tensor>{"logit_scale", pair.logit_scale},
                                      {"class_bias", pair.class_bias},
                                      {"logit_bias", pair.logit_bias}})
      if (value.defined()) register_parameter(name, value, value.requires_grad());
  }
};

/// With `checkpoint` the copy computes activations again in the backward pass, as it does where the original does.
template <class Tower>
Tower copy_of(const Tower& tower, bool checkpoint) {
  auto options = tower->options();
  options.use_checkpoint = options.use_checkpoint || checkpoint;
  Tower copy(options, LoadedLater{});
  const at::NoGradGuard no_grad;
  const NamedTensors into = named_tensors(*copy);
  for (const auto& [name, tensor] : named_tensors(*tower)) at::Tensor(into.at(name)).copy_(tensor);
  return copy;
}

/// What the options want learnt beside the towers.
void add_learnt(EncoderPair& pair, const EncoderTrainerOptions& options, std::int64_t findings) {
  const auto parameter = [](double value, at::IntArrayRef shape) {
    return at::full(shape, value, at::kFloat).requires_grad_(true);
  };
  if (options.learn_logit_scale) pair.logit_scale = parameter(options.loss.logit_scale, {});
  if (options.learn_logit_bias) pair.logit_bias = parameter(options.loss.logit_bias, {});
  if (!options.learn_class_bias) return;
  require(findings >= 1, "daug::make_encoders", "findings", "at least 1 with learn_class_bias", findings);
  pair.class_bias = parameter(options.loss.class_bias, {findings});
}

/// Batch norm of the image towers uses its running statistics for the life of this object, and nothing is drawn at
/// random. Towers that are in this state already are not touched, so that threads can share them.
class Evaluation {
 public:
  explicit Evaluation(const EncoderPair& pair) {
    for (const ImageEncoder& tower : {pair.image, pair.heatmap})
      if (!tower.is_empty() && tower->is_training()) training_.push_back(tower.ptr());
    for (const auto& tower : training_) tower->eval();
  }
  ~Evaluation() {
    for (const auto& tower : training_) tower->train();
  }
  Evaluation(const Evaluation&) = delete;
  Evaluation& operator=(const Evaluation&) = delete;

 private:
  std::vector<std::shared_ptr<torch::nn::Module>> training_;
};

/// One pass of a tower: of training when `items` says which images these are.
at::Tensor pass(const ImageEncoder& tower, const at::Tensor& x, const std::vector<std::uint64_t>* items,
                std::uint64_t seed) {
  // TORCH_MODULE holders are not const-callable.
  auto& network = const_cast<ImageEncoder&>(tower);
  return items ? network->forward_items(x, *items, seed) : network->forward(x);
}

/// Images as the image tower takes them.
at::Tensor network_pixels(const EncoderPair& pair, const at::Tensor& images) {
  const auto channels = pair.image->options().in_channels;
  if (pair.pixels) return scaled_pixels(images, *pair.pixels, channels);
  return images.size(1) == 1 && channels > 1 ? images.expand({-1, channels, -1, -1}) : images;
}

}  // namespace

namespace detail {

void require_towers(const EncoderPair& pair, const ChannelAugmenterOptions& augment, const char* function) {
  const bool second = !pair.heatmap.is_empty();
  if (second != (augment.mode == ChannelMode::kAdd))
    fail(ErrorCode::kMismatch, function, "encoders: heatmap tower",
         second ? "none but for ChannelMode::kAdd" : "one for ChannelMode::kAdd", second ? "one" : "none");
}

at::Tensor embed(const EncoderPair& pair, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                 const at::Tensor& maps, const std::vector<std::uint64_t>* items, std::uint64_t seed) {
  const bool maps_optional = pair.image->options().extra.dropout > 0;
  const at::Tensor pixels = network_pixels(pair, images);
  const at::Tensor input = maps.defined() || !maps_optional ? augmenter.apply(pixels, maps) : pixels;
  if (pair.heatmap.is_empty()) return pass(pair.image, input, items, seed);
  return combined_embedding(pass(pair.image, pixels, items, seed), pass(pair.heatmap, input, items, seed + 1));
}

at::ScalarType type_in_loss(at::ScalarType computed, const c10::Device& device) {
  return computed == at::kBFloat16 && device.is_cuda() ? at::kBFloat16 : at::kFloat;
}

}  // namespace detail

c10::Device EncoderPair::device() const { return image->parameters().front().device(); }

std::shared_ptr<torch::nn::Module> EncoderPair::as_module() const { return std::make_shared<EncoderPairModule>(*this); }

EncoderPair make_encoders(const EncoderTrainerOptions& options, std::int64_t map_channels, std::int64_t findings) {
  ImageEncoderOptions image = options.image;
  image.extra_channels =
      HeatmapChannelAugmenter(options.augment).channels(image.in_channels, map_channels) - image.in_channels;
  EncoderPair pair;
  pair.image = ImageEncoder(image, options.seed);
  if (options.augment.mode == ChannelMode::kAdd) pair.heatmap = ImageEncoder(image, options.seed + 1);
  pair.text = TextEncoder(options.text, options.seed);
  add_learnt(pair, options, findings);
  return pair;
}

EncoderPair make_encoders(const ImageEncoder& image, const TextEncoder& text, const EncoderTrainerOptions& options,
                          std::int64_t map_channels, std::int64_t findings) {
  constexpr const char* kFunction = "daug::make_encoders";
  const ImageEncoderOptions& found = image->options();
  if (found.embed_dim != text->options().embed_dim)
    fail(ErrorCode::kMismatch, kFunction, "text: embed_dim", detail::concat(found.embed_dim, " as the image tower"),
         text->options().embed_dim);
  const std::int64_t extra =
      HeatmapChannelAugmenter(options.augment).channels(found.in_channels, map_channels) - found.in_channels;
  if (found.extra_channels != 0 && found.extra_channels != extra)
    fail(ErrorCode::kMismatch, kFunction, "image: extra_channels", extra > 0 ? detail::concat("0 or ", extra) : "0",
         found.extra_channels);
  EncoderPair pair;
  pair.image = copy_of(image, options.image.use_checkpoint);
  if (found.extra_channels < extra) pair.image->widen_input(extra, options.image.extra);
  if (options.augment.mode == ChannelMode::kAdd) pair.heatmap = copy_of(image, options.image.use_checkpoint);
  pair.text = copy_of(text, options.text.use_checkpoint);
  add_learnt(pair, options, findings);
  return pair;
}

at::Tensor embed_images(const EncoderPair& encoders, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                        const at::Tensor& maps, std::int64_t batch_size) {
  constexpr const char* kFunction = "daug::embed_images";
  require(batch_size >= 1, kFunction, "batch_size", "at least 1", batch_size);
  detail::require_towers(encoders, augmenter.options(), kFunction);
  const Evaluation evaluation(encoders);
  c10::InferenceMode inference;
  if (images.size(0) == 0) return at::zeros({0, encoders.image->options().embed_dim});
  const c10::Device device = encoders.device();
  const backend::FittingRows fitting(kFunction, "one image", batch_size);
  return fitting.join(images.size(0), [&](std::int64_t begin, std::int64_t count) {
    const auto part = [&](const at::Tensor& all) {
      return all.defined() ? all.narrow(0, begin, count).to(device) : all;
    };
    return detail::embed(encoders, augmenter, part(images), part(maps)).to(at::kCPU);
  });
}

at::Tensor embed_texts(const EncoderPair& encoders, const TextBatch& text, std::int64_t batch_size) {
  constexpr const char* kFunction = "daug::embed_texts";
  require(batch_size >= 1, kFunction, "batch_size", "at least 1", batch_size);
  c10::InferenceMode inference;
  auto& tower = const_cast<TextEncoder&>(encoders.text);
  if (text.ids.size(0) == 0) return at::zeros({0, tower->options().embed_dim});
  const backend::FittingRows fitting(kFunction, "one text", batch_size);
  return fitting.join(text.ids.size(0), [&](std::int64_t begin, std::int64_t count) {
    const auto part = [&](const at::Tensor& all) { return all.narrow(0, begin, count); };
    return tower->forward(part(text.ids), part(text.end)).to(at::kCPU);
  });
}

at::Tensor class_probabilities(const EncoderPair& encoders, const at::Tensor& image, const at::Tensor& class_prompts,
                               const HybridLossOptions& options) {
  const at::NoGradGuard no_grad;
  return class_probabilities(image, class_prompts, options, encoders.logit_scale, encoders.class_bias);
}

}  // namespace daug
