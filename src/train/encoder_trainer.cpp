#include "daug/train/encoder_trainer.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "daug/core/error.h"
#include "daug/metrics/multilabel.h"
#include "daug/train/gradient_cache.h"
#include "kernels/instruction_set.h"

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

/// LibTorch's autocast to bfloat16 on this thread, or nothing.
class Autocast {
 public:
  explicit Autocast(bool on) : on_(on) {
    if (!on_) return;
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();  // copies of weights that will change
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool on_;
};

/// Batch norm uses its running statistics for the life of this object, and nothing is drawn at random. Encoders that
/// are in this state already are not touched, so that threads can share them.
class Evaluation {
 public:
  explicit Evaluation(const EncoderPair& pair) : was_training_(pair.image->is_training()) {
    if (!was_training_) return;
    module_ = pair.as_module();
    module_->eval();
  }
  ~Evaluation() {
    if (was_training_) module_->train();
  }
  Evaluation(const Evaluation&) = delete;
  Evaluation& operator=(const Evaluation&) = delete;

 private:
  bool was_training_;
  std::shared_ptr<torch::nn::Module> module_;
};

/// One pass of a tower: of training when `items` says which images these are.
at::Tensor pass(const ImageEncoder& tower, const at::Tensor& x, const std::vector<std::uint64_t>* items,
                std::uint64_t seed) {
  // TORCH_MODULE holders are not const-callable.
  auto& network = const_cast<ImageEncoder&>(tower);
  return items ? network->forward_items(x, *items, seed) : network->forward(x);
}

/// Embedding of images with their maps, whatever way the maps take.
at::Tensor embed(const EncoderPair& pair, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                 const at::Tensor& maps, const std::vector<std::uint64_t>* items = nullptr, std::uint64_t seed = 0) {
  const bool maps_optional = pair.image->options().extra.dropout > 0;
  const at::Tensor input = maps.defined() || !maps_optional ? augmenter.apply(images, maps) : images;
  if (pair.heatmap.is_empty()) return pass(pair.image, input, items, seed);
  return combined_embedding(pass(pair.image, images, items, seed), pass(pair.heatmap, input, items, seed + 1));
}

at::Tensor rows(const at::Tensor& tensor, const at::Tensor& index) {
  return tensor.defined() ? tensor.index_select(0, index) : tensor;
}

void require_images(const EncoderDataset& dataset, const char* function, const char* argument) {
  require(dataset.images.defined() && dataset.images.dim() == 4 && dataset.images.size(0) >= 1, function, argument,
          "shape [N, C, H, W] with N >= 1", dataset.images.defined() ? dataset.images.sizes() : at::IntArrayRef{});
}

/// Macro AUROC of the findings' probabilities.
double validation_auroc(const EncoderPair& pair, const HeatmapChannelAugmenter& augmenter,
                        const EncoderDataset& dataset, const HybridLossOptions& loss) {
  const at::Tensor probabilities = class_probabilities(embed_images(pair, augmenter, dataset.images, dataset.maps),
                                                       embed_texts(pair, dataset.prompts), loss)
                                       .to(at::kDouble)
                                       .contiguous();
  const at::Tensor present = (dataset.labels > 0.5).to(at::kByte).contiguous();
  const at::Tensor known = (dataset.label_mask > 0).to(at::kByte).contiguous();
  const auto items = static_cast<std::size_t>(probabilities.size(0));
  const auto findings = static_cast<std::size_t>(probabilities.size(1));
  const auto cells = [&](const at::Tensor& tensor) {
    return MatrixView<std::uint8_t>(
        ArrayView<std::uint8_t>(tensor.const_data_ptr<std::uint8_t>(), static_cast<std::size_t>(tensor.numel())), items,
        findings);
  };
  const MatrixView<double> scores(ArrayView<double>(probabilities.const_data_ptr<double>(), items * findings), items,
                                  findings);
  const auto macro = auroc_by_finding({scores, cells(present), cells(known)}).macro;
  require(macro.has_value(), "daug::train_encoders", "validation",
          "a finding that is known to be present in one item and absent in another", "none");
  return *macro;
}

}  // namespace

TrainingPrecision training_precision(const std::string& name) {
  if (name == "float32") return TrainingPrecision::kFloat32;
  if (name == "bfloat16") return TrainingPrecision::kBfloat16;
  if (name == "auto") return TrainingPrecision::kAuto;
  fail(ErrorCode::kInvalidArgument, "daug::training_precision", "name", "float32, bfloat16 or auto", name);
}

bool trains_in_bfloat16(TrainingPrecision precision) {
  return precision == TrainingPrecision::kBfloat16 ||
         (precision == TrainingPrecision::kAuto && kernels::multiplies_bfloat16());
}

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
                           const RunControl& control, TrainingHistory* history, const EncoderDataset* validation) {
  constexpr const char* kFunction = "daug::train_encoders";
  options.validate();
  require_images(dataset, kFunction, "images");
  if (validation) require_images(*validation, kFunction, "validation.images");
  const std::int64_t count = dataset.images.size(0);
  const std::int64_t batch_size = std::min(options.batch_size, count);
  const EncoderPair pair = make_encoders(options, dataset.maps.defined() ? dataset.maps.size(1) : 0);
  const HeatmapChannelAugmenter augmenter(options.augment);
  TrainerOptions optimizer = options.optimizer;
  optimizer.steps = std::max<std::int64_t>(1, options.epochs * count / batch_size);
  if (validation && optimizer.validate_every == 0)
    optimizer.validate_every = std::max<std::int64_t>(1, count / batch_size);
  SampleOrder order(static_cast<std::size_t>(count), options.seed);
  const auto module = pair.as_module();
  Trainer trainer({module}, optimizer);
  std::vector<at::Tensor> parameters;
  for (const auto& parameter : module->parameters())
    if (parameter.requires_grad()) parameters.push_back(parameter);
  const bool half = trains_in_bfloat16(options.precision);

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
    const at::Tensor image =
        in_chunks([&pair, &augmenter, &options, half, images, maps, positions](std::int64_t begin, std::int64_t size) {
          const Autocast autocast(half);
          const std::vector<std::uint64_t> items(positions.begin() + begin, positions.begin() + begin + size);
          return embed(pair, augmenter, images.narrow(0, begin, size),
                       maps.defined() ? maps.narrow(0, begin, size) : maps, &items, options.seed)
              .to(at::kFloat);
        });
    at::Tensor text, prompts;
    if (options.loss.clip_weight > 0)
      text = in_chunks([&text_tower, half, ids = rows(dataset.text.ids, index), end = rows(dataset.text.end, index)](
                           std::int64_t begin, std::int64_t size) {
        const Autocast autocast(half);
        return text_tower->forward(ids.narrow(0, begin, size), end.narrow(0, begin, size)).to(at::kFloat);
      });
    if (options.loss.clip_weight < 1) {
      const Autocast autocast(half);
      prompts = text_tower->forward(dataset.prompts.ids, dataset.prompts.end).to(at::kFloat);
    }
    return hybrid_contrastive_loss(image, text, prompts, rows(dataset.labels, index), rows(dataset.label_mask, index),
                                   rows(dataset.text_mask, index), options.loss)
        .total;
  };
  const TrainingHistory result =
      validation
          ? trainer.run(loss, control, [&] { return validation_auroc(pair, augmenter, *validation, options.loss); })
          : trainer.run(loss, control);
  trainer.use_best_weights();
  module->eval();
  if (history) *history = result;
  return pair;
}

at::Tensor embed_images(const EncoderPair& encoders, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                        const at::Tensor& maps, std::int64_t batch_size) {
  const Evaluation evaluation(encoders);
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
