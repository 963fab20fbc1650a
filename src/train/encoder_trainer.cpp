#include "daug/train/encoder_trainer.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "daug/core/error.h"
#include "daug/train/gradient_cache.h"

namespace daug {

namespace {

class EncoderPairModule : public torch::nn::Module {
 public:
  explicit EncoderPairModule(const EncoderPair& pair) {
    register_module("image", pair.image);
    if (!pair.heatmap.is_empty()) register_module("heatmap", pair.heatmap);
    register_module("text", pair.text);
  }
};

/// Embedding of images with their maps, whatever way the maps take.
at::Tensor embed(const EncoderPair& pair, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                 const at::Tensor& maps) {
  // TORCH_MODULE holders are not const-callable; forward changes no state.
  auto& image_tower = const_cast<ImageEncoder&>(pair.image);
  const at::Tensor input = augmenter.apply(images, maps);
  if (pair.heatmap.is_empty()) return image_tower->forward(input);
  return combined_embedding(image_tower->forward(images), const_cast<ImageEncoder&>(pair.heatmap)->forward(input));
}

at::Tensor rows(const at::Tensor& tensor, const at::Tensor& index) {
  return tensor.defined() ? tensor.index_select(0, index) : tensor;
}

}  // namespace

void EncoderTrainerOptions::validate() const {
  constexpr const char* kName = "daug::EncoderTrainerOptions";
  image.validate();
  text.validate();
  loss.validate();
  augment.validate();
  require_range(epochs, 1, 1 << 24, kName, "epochs");
  require_range(batch_size, 1, 1 << 20, kName, "batch_size");
  require_range(chunk_size, 0, 1 << 20, kName, "chunk_size");
  require(image.embed_dim == text.embed_dim, kName, "text.embed_dim", image.embed_dim, text.embed_dim);
}

std::shared_ptr<torch::nn::Module> EncoderPair::as_module() const { return std::make_shared<EncoderPairModule>(*this); }

EncoderPair make_encoders(const EncoderTrainerOptions& options, std::int64_t map_channels) {
  ImageEncoderOptions image = options.image;
  image.extra_channels =
      HeatmapChannelAugmenter(options.augment).channels(image.in_channels, map_channels) - image.in_channels;
  EncoderPair pair;
  pair.image = ImageEncoder(image, options.seed);
  if (options.augment.mode == ChannelMode::kAdd) pair.heatmap = ImageEncoder(image, options.seed + 1);
  pair.text = TextEncoder(options.text, options.seed);
  return pair;
}

EncoderPair train_encoders(const EncoderDataset& dataset, const EncoderTrainerOptions& options,
                           const RunControl& control, TrainingHistory* history) {
  constexpr const char* kFunction = "daug::train_encoders";
  options.validate();
  require(dataset.images.defined() && dataset.images.dim() == 4 && dataset.images.size(0) >= 1, kFunction, "images",
          "shape [N, C, H, W] with N >= 1", dataset.images.defined() ? dataset.images.sizes() : at::IntArrayRef{});
  const std::int64_t count = dataset.images.size(0);
  const std::int64_t batch_size = std::min(options.batch_size, count);
  const EncoderPair pair = make_encoders(options, dataset.maps.defined() ? dataset.maps.size(1) : 0);
  const HeatmapChannelAugmenter augmenter(options.augment);
  TrainerOptions optimizer = options.optimizer;
  optimizer.steps = std::max<std::int64_t>(1, options.epochs * count / batch_size);
  SampleOrder order(static_cast<std::size_t>(count), options.seed);
  const auto module = pair.as_module();
  const std::vector<at::Tensor> parameters = module->parameters();

  const auto loss = [&](std::size_t, std::int64_t step) {
    std::vector<std::uint64_t> positions;
    at::Tensor index = at::empty({batch_size}, at::kLong);
    for (std::int64_t i = 0; i < batch_size; ++i) {
      positions.push_back(static_cast<std::uint64_t>(step * batch_size + i));
      index.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(order.at(positions.back()));
    }
    at::Tensor images = rows(dataset.images, index);
    at::Tensor maps = rows(dataset.maps, index);
    augmenter.augment(images, maps, positions, options.seed);
    auto& text_tower = const_cast<TextEncoder&>(pair.text);
    const auto in_chunks = [&](const EmbedChunk& chunk) {
      return embed_in_chunks(batch_size, options.chunk_size, chunk, parameters);
    };
    const at::Tensor image = in_chunks([&pair, &augmenter, images, maps](std::int64_t begin, std::int64_t size) {
      return embed(pair, augmenter, images.narrow(0, begin, size), maps.defined() ? maps.narrow(0, begin, size) : maps);
    });
    at::Tensor text, prompts;
    if (options.loss.clip_weight > 0)
      text = in_chunks([&text_tower, ids = rows(dataset.text.ids, index), end = rows(dataset.text.end, index)](
                           std::int64_t begin, std::int64_t size) {
        return text_tower->forward(ids.narrow(0, begin, size), end.narrow(0, begin, size));
      });
    if (options.loss.clip_weight < 1) prompts = text_tower->forward(dataset.prompts.ids, dataset.prompts.end);
    return hybrid_contrastive_loss(image, text, prompts, rows(dataset.labels, index), rows(dataset.label_mask, index),
                                   rows(dataset.text_mask, index), options.loss)
        .total;
  };
  Trainer trainer({module}, optimizer);
  const TrainingHistory result = trainer.run(loss, control);
  trainer.use_averaged_weights();
  if (history) *history = result;
  return pair;
}

at::Tensor embed_images(const EncoderPair& encoders, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                        const at::Tensor& maps, std::int64_t batch_size) {
  c10::InferenceMode inference;
  std::vector<at::Tensor> parts;
  for (std::int64_t i = 0; i < images.size(0); i += batch_size) {
    const std::int64_t count = std::min(batch_size, images.size(0) - i);
    parts.push_back(
        embed(encoders, augmenter, images.narrow(0, i, count), maps.defined() ? maps.narrow(0, i, count) : maps));
  }
  if (parts.empty()) return at::zeros({0, encoders.image->options().embed_dim});
  return at::cat(parts);
}

at::Tensor embed_texts(const EncoderPair& encoders, const TextBatch& text, std::int64_t batch_size) {
  c10::InferenceMode inference;
  std::vector<at::Tensor> parts;
  auto& tower = const_cast<TextEncoder&>(encoders.text);
  for (std::int64_t i = 0; i < text.ids.size(0); i += batch_size) {
    const std::int64_t count = std::min(batch_size, text.ids.size(0) - i);
    parts.push_back(tower->forward(text.ids.narrow(0, i, count), text.end.narrow(0, i, count)));
  }
  if (parts.empty()) return at::zeros({0, tower->options().embed_dim});
  return at::cat(parts);
}

}  // namespace daug
