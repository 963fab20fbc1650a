#include "daug/train/encoder_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <utility>

#include "autocast.h"
#include "backend/fitting_rows.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/io/fingerprint.h"
#include "daug/io/weights.h"
#include "daug/loss/deferred_checks.h"
#include "daug/loss/distributed_loss.h"
#include "daug/metrics/multilabel.h"
#include "daug/train/gradient_cache.h"
#include "daug/train/sample_order.h"
#include "encoder/conv_layers.h"
#include "ranks.h"

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

/// Holds a learnt temperature in its range.
class HeldTemperature : public TrainingState {
 public:
  HeldTemperature(at::Tensor scale, const HybridLossOptions& loss) : scale_(std::move(scale)), loss_(loss) {}
  void step_done() override { clamp_logit_scale(scale_, loss_); }
  bool counts_steps() const override { return false; }          // what a step left alone is in its range already
  at::Tensor saved() const override { return at::empty({0}); }  // it is saved with the weights
  void restore(const at::Tensor&) override {}

 private:
  at::Tensor scale_;
  HybridLossOptions loss_;
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

/// Embedding of images with their maps, whatever way the maps take.
at::Tensor embed(const EncoderPair& pair, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                 const at::Tensor& maps, const std::vector<std::uint64_t>* items = nullptr, std::uint64_t seed = 0) {
  const bool maps_optional = pair.image->options().extra.dropout > 0;
  const at::Tensor pixels = network_pixels(pair, images);
  const at::Tensor input = maps.defined() || !maps_optional ? augmenter.apply(pixels, maps) : pixels;
  if (pair.heatmap.is_empty()) return pass(pair.image, input, items, seed);
  return combined_embedding(pass(pair.image, pixels, items, seed), pass(pair.heatmap, input, items, seed + 1));
}

at::Tensor rows(const at::Tensor& tensor, const at::Tensor& index) {
  return tensor.defined() ? tensor.index_select(0, index) : tensor;
}

/// Throws unless there is a heatmap tower where the channel mode asks for one, and there alone: one tower would be
/// shown what the other was trained on.
void require_towers(const EncoderPair& pair, const ChannelAugmenterOptions& augment, const char* function) {
  const bool second = !pair.heatmap.is_empty();
  if (second != (augment.mode == ChannelMode::kAdd))
    fail(ErrorCode::kMismatch, function, "encoders: heatmap tower",
         second ? "none but for ChannelMode::kAdd" : "one for ChannelMode::kAdd", second ? "one" : "none");
}

void require_images(const EncoderDataset& dataset, const char* function, const char* argument) {
  require(dataset.images.defined() && dataset.images.dim() == 4 && dataset.images.size(0) >= 1, function, argument,
          "shape [N, C, H, W] with N >= 1", dataset.images.defined() ? dataset.images.sizes() : at::IntArrayRef{});
}

/// A tensor of a data set with a row for each image; `needed`: it may not be undefined.
struct DatasetPart {
  const char* name;
  const at::Tensor& tensor;
  bool needed;
};

/// Throws unless they are: an image with the labels of another would be trained on without a word.
void require_parts(std::int64_t images, std::initializer_list<DatasetPart> parts, const char* function) {
  for (const DatasetPart& part : parts) {
    require(part.tensor.defined() || !part.needed, function, part.name, "a tensor", "none");
    if (part.tensor.defined() && (part.tensor.dim() == 0 || part.tensor.size(0) != images))
      fail(ErrorCode::kMismatch, function, part.name, detail::concat(images, " rows, one an image"),
           detail::concat("shape ", part.tensor.sizes()));
  }
}

void require_given(const TextBatch& text, const char* function, const char* argument) {
  require(text.ids.defined() && text.end.defined(), function, argument, "ids and ends of texts", "none");
}

/// Throws unless the text tower's tables have a row for every id and every place of a text.
void require_text(const TextBatch& text, const EncoderPair& pair, const char* function, const char* argument) {
  if (!text.ids.defined() || text.ids.dim() != 2 || text.ids.numel() == 0) return;  // the tower refuses what is none
  require_vocabulary(pair.text, text.ids.max().item<std::int64_t>() + 1, function);
  const auto places = pair.text->options().context_length;
  if (text.ids.size(1) > places)
    fail(ErrorCode::kMismatch, function, argument, detail::concat("texts of at most ", places, " tokens"),
         text.ids.size(1));
}

/// Whether every embedding that the loss reads is finite, a truth value [] where they are.
at::Tensor embeddings_are_finite(const HybridLossInputs& inputs) {
  at::Tensor finite = at::isfinite(inputs.image.detach()).all();
  for (const at::Tensor& embeddings : {inputs.text, inputs.class_prompts})
    if (embeddings.defined()) finite = finite.logical_and(at::isfinite(embeddings.detach()).all());
  return finite;
}

/// Whether a batch norm normalises by the items that it is given together: then chunks of other sizes give other
/// embeddings.
bool uses_batch_statistics(const torch::nn::Module& network) {
  for (const auto& part : network.modules()) {
    const auto* norm = part->as<detail::BatchNorm>();
    if (norm && !norm->is_frozen()) return true;
  }
  return false;
}

/// Throws unless all ranks take the same batches of one loss. Without this check each would follow its own options.
void require_same_batches(const detail::Ranks& ranks, const EncoderTrainerOptions& options, std::int64_t count,
                          const char* function) {
  Fingerprint batches;
  batches.add("items", count).add("batch_size", options.batch_size).add("seed", options.seed);
  batches.add("epochs", options.epochs);
  const HybridLossOptions& loss = options.loss;
  batches.add("clip_weight", loss.clip_weight).add("normalise", loss.normalise);
  batches.add("class_form", static_cast<int>(loss.class_form)).add("class_bias", loss.class_bias);
  batches.add("logit_scale", loss.logit_scale);
  batches.add("min_logit_scale", loss.min_logit_scale).add("max_logit_scale", loss.max_logit_scale);
  batches.add("contrastive_form", static_cast<int>(loss.contrastive_form)).add("logit_bias", loss.logit_bias);
  batches.add("label_pairs", static_cast<int>(loss.label_pairs)).add("label_softness", loss.label_softness);
  batches.add("uncertain", static_cast<int>(loss.uncertain)).add("uncertain_target", loss.uncertain_target);
  ranks.require_same(function, "options", batches.hex());
}

/// Macro AUROC of the findings' probabilities.
double validation_auroc(const EncoderPair& pair, const HeatmapChannelAugmenter& augmenter,
                        const EncoderDataset& dataset, const HybridLossOptions& loss) {
  const at::Tensor probabilities =
      class_probabilities(pair, embed_images(pair, augmenter, dataset.images, dataset.maps),
                          embed_texts(pair, dataset.prompts), loss)
          .to(at::kDouble)
          .contiguous();
  const at::Tensor present = (dataset.labels > 0.5).to(at::kByte).contiguous();
  // -1 is uncertain, which is neither, whatever the loss makes of it.
  at::Tensor certain = dataset.labels != -1;
  if (dataset.label_mask.defined()) certain = certain & (dataset.label_mask > 0);
  const at::Tensor known = certain.to(at::kByte).contiguous();
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
  if (learn_logit_scale)
    require_range(loss.logit_scale, loss.min_logit_scale, loss.max_logit_scale, kName, "loss.logit_scale");
  require(augment.mode == ChannelMode::kNone || augment.mode == ChannelMode::kAppend ||
              (!image.extra.gates && image.extra.dropout == 0),
          kName, "image.extra", "no gates and no dropout where maps are no extra channels",
          detail::concat("gates ", image.extra.gates, ", dropout ", image.extra.dropout));
  require(!learn_class_bias || loss.class_form == ClassForm::kBce, kName, "learn_class_bias",
          "false but for ClassForm::kBce", true);
  require(!learn_logit_bias || loss.contrastive_form == ContrastiveForm::kSigmoid, kName, "learn_logit_bias",
          "false but for ContrastiveForm::kSigmoid", true);
  if (group && !device.is_cpu()) fail(ErrorCode::kUnsupported, kName, "device", "the CPU with a process group", device);
}

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

EncoderPair train_encoders(const EncoderDataset& dataset, const EncoderTrainerOptions& options,
                           const RunControl& control, TrainingHistory* history, const EncoderDataset* validation,
                           const LastEncoders& last) {
  options.validate();
  const std::int64_t maps = dataset.maps.defined() ? dataset.maps.size(1) : 0;
  const std::int64_t findings = dataset.labels.defined() && dataset.labels.dim() == 2 ? dataset.labels.size(1) : 0;
  return train_encoders(make_encoders(options, maps, findings), dataset, options, control, history, validation, last);
}

EncoderPair train_encoders(const EncoderPair& pair, const EncoderDataset& dataset, const EncoderTrainerOptions& given,
                           const RunControl& control, TrainingHistory* history, const EncoderDataset* validation,
                           const LastEncoders& last) {
  constexpr const char* kFunction = "daug::train_encoders";
  EncoderTrainerOptions options = given;
  options.image = pair.image->options();
  options.text = pair.text->options();
  const detail::Ranks ranks(options.group);
  ranks.of_all(kFunction, [&] {
    options.validate();
    require_towers(pair, options.augment, kFunction);
    require_images(dataset, kFunction, "images");
    const bool reads_text = options.loss.clip_weight > 0, reads_prompts = options.loss.clip_weight < 1;
    if (reads_text) require_given(dataset.text, kFunction, "text");
    if (reads_prompts) require_given(dataset.prompts, kFunction, "prompts");
    require_parts(dataset.images.size(0),
                  {{"maps", dataset.maps, false},
                   {"labels", dataset.labels, reads_prompts},
                   {"label_mask", dataset.label_mask, false}},
                  kFunction);
    if (reads_text)
      require_parts(dataset.images.size(0),
                    {{"text.ids", dataset.text.ids, true},
                     {"text.end", dataset.text.end, true},
                     {"text_mask", dataset.text_mask, false},
                     {"study", dataset.study, false}},
                    kFunction);
    require_text(dataset.text, pair, kFunction, "text");
    require_text(dataset.prompts, pair, kFunction, "prompts");
    if (validation) {
      require_images(*validation, kFunction, "validation.images");
      require_given(validation->prompts, kFunction, "validation.prompts");
      require_parts(validation->images.size(0),
                    {{"validation.maps", validation->maps, false},
                     {"validation.labels", validation->labels, true},
                     {"validation.label_mask", validation->label_mask, false}},
                    kFunction);
      require_text(validation->prompts, pair, kFunction, "validation.prompts");
    }
    return 0.0;
  });
  const std::int64_t count = dataset.images.size(0);
  const std::int64_t batch_size = std::min(options.batch_size, count);
  require_same_batches(ranks, options, count, kFunction);
  require(batch_size >= ranks.size(), kFunction, "batch_size",
          detail::concat("an item for each of ", ranks.size(), " ranks"), batch_size);
  // This rank's share of a batch.
  const std::int64_t first = batch_size * ranks.rank() / ranks.size();
  const std::int64_t share = batch_size * (ranks.rank() + 1) / ranks.size() - first;
  const HeatmapChannelAugmenter augmenter(options.augment);
  TrainerOptions optimizer = options.optimizer;
  optimizer.steps = std::max<std::int64_t>(1, options.epochs * count / batch_size);
  if (validation && optimizer.validate_every == 0)
    optimizer.validate_every = std::max<std::int64_t>(1, count / batch_size);
  SampleOrder order(static_cast<std::size_t>(count), options.seed, static_cast<std::size_t>(batch_size));
  const auto module = pair.as_module();
  module->to(options.device);
  module->train();
  std::shared_ptr<TrainingState> held;
  if (pair.logit_scale.defined()) held = std::make_shared<HeldTemperature>(pair.logit_scale, options.loss);
  Trainer trainer({module}, optimizer, held, options.group);
  std::vector<at::Tensor> parameters;
  for (const auto& parameter : module->parameters())
    if (parameter.requires_grad()) parameters.push_back(parameter);
  const auto there = [&](const at::Tensor& tensor) {
    return tensor.defined() ? backend::upload(tensor, options.device) : tensor;
  };
  // What the towers and the loss look at stays on the CPU, where that waits for no device.
  const TextBatch& prompt_tokens = dataset.prompts;
  const auto inputs_of = [&](std::int64_t step, std::int64_t chunk_size) {
    std::vector<std::uint64_t> positions;
    at::Tensor index = at::empty({share}, at::kLong);
    for (std::int64_t i = 0; i < share; ++i) {
      positions.push_back(static_cast<std::uint64_t>(step * batch_size + first + i));
      index.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(order.at(positions.back()));
    }
    const auto batch = [&](const at::Tensor& all) { return rows(all, index); };
    at::Tensor images = there(batch(dataset.images));
    at::Tensor maps = there(batch(dataset.maps));
    augmenter.augment(images, maps, positions, options.seed);
    auto& text_tower = const_cast<TextEncoder&>(pair.text);
    const auto in_chunks = [&](const EmbedChunk& chunk) {
      return embed_in_chunks(share, chunk_size, chunk, parameters);
    };
    const at::Tensor image =
        in_chunks([&pair, &augmenter, &options, images, maps, positions](std::int64_t begin, std::int64_t size) {
          const Autocast autocast(options.precision, options.device);
          const std::vector<std::uint64_t> items(positions.begin() + begin, positions.begin() + begin + size);
          return embed(pair, augmenter, images.narrow(0, begin, size),
                       maps.defined() ? maps.narrow(0, begin, size) : maps, &items, options.seed)
              .to(at::kFloat);
        });
    at::Tensor text, prompts;
    if (options.loss.clip_weight > 0)
      text = in_chunks([&text_tower, &options, ids = batch(dataset.text.ids), end = batch(dataset.text.end)](
                           std::int64_t begin, std::int64_t size) {
        const Autocast autocast(options.precision, options.device);
        return text_tower->forward(ids.narrow(0, begin, size), end.narrow(0, begin, size)).to(at::kFloat);
      });
    if (options.loss.clip_weight < 1) {
      const Autocast autocast(options.precision, options.device);
      prompts = text_tower->forward(prompt_tokens.ids, prompt_tokens.end).to(at::kFloat);
    }
    HybridLossInputs inputs;
    inputs.image = image;
    inputs.text = text;
    inputs.class_prompts = prompts;
    inputs.labels = batch(dataset.labels);
    inputs.label_mask = batch(dataset.label_mask);
    inputs.text_mask = batch(dataset.text_mask);
    inputs.study = batch(dataset.study);
    inputs.positive_weights = dataset.positive_weights;
    inputs.class_bias = pair.class_bias;
    inputs.logit_scale = pair.logit_scale;
    inputs.logit_bias = pair.logit_bias;
    return inputs;
  };
  DeferredChecks checks;
  const bool defers = trainer.read_every() > 1;
  const auto loss = [&](std::int64_t step, std::int64_t chunk_size) -> at::Tensor {
    HybridLossInputs inputs;
    if (defers) {
      inputs = inputs_of(step, chunk_size);
      checks.begin(step, embeddings_are_finite(inputs));
      return hybrid_contrastive_loss(inputs, options.loss, &checks).total;
    }
    const std::vector<double> finite = ranks.of_all(kFunction, [&] {
      inputs = inputs_of(step, chunk_size);
      return embeddings_are_finite(inputs).item<bool>() ? 1.0 : 0.0;
    });
    // The loss would throw. All ranks leave the step out, so none waits in an exchange.
    if (std::count(finite.begin(), finite.end(), 1.0) < ranks.size())
      return at::scalar_tensor(std::numeric_limits<double>::quiet_NaN(), at::kFloat).requires_grad_(true);
    if (ranks.size() > 1) return distributed_contrastive_loss(inputs, options.loss, *options.group).total;
    return hybrid_contrastive_loss(inputs, options.loss).total;
  };
  const auto gradients = [&](std::size_t, std::int64_t step, std::int64_t chunk_size) {
    const at::Tensor value = loss(step, chunk_size);
    value.backward();
    return value.detach();
  };
  const std::int64_t chunk = options.chunk_size > 0 ? std::min(options.chunk_size, share) : share;
  const auto whole = [&](std::size_t, std::int64_t step) { return loss(step, chunk); };
  const Validation auroc = [&] { return validation_auroc(pair, augmenter, *validation, options.loss); };
  const Validation validated = validation ? auroc : Validation();
  const StepsRead steps_read = [&] { checks.settle(); };
  const TrainingHistory result = uses_batch_statistics(*module)
                                     ? trainer.run(whole, control, validated, steps_read)
                                     : trainer.run_in_parts(gradients, chunk, control, validated, steps_read);
  module->eval();
  if (last && result.finished) {
    trainer.use_averaged_weights();
    last(pair);
  }
  trainer.use_best_weights();
  if (history) *history = result;
  return pair;
}

at::Tensor embed_images(const EncoderPair& encoders, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                        const at::Tensor& maps, std::int64_t batch_size) {
  constexpr const char* kFunction = "daug::embed_images";
  require(batch_size >= 1, kFunction, "batch_size", "at least 1", batch_size);
  require_towers(encoders, augmenter.options(), kFunction);
  const Evaluation evaluation(encoders);
  c10::InferenceMode inference;
  if (images.size(0) == 0) return at::zeros({0, encoders.image->options().embed_dim});
  const c10::Device device = encoders.device();
  const backend::FittingRows fitting(kFunction, "one image", batch_size);
  return fitting.join(images.size(0), [&](std::int64_t begin, std::int64_t count) {
    const auto part = [&](const at::Tensor& all) {
      return all.defined() ? all.narrow(0, begin, count).to(device) : all;
    };
    return embed(encoders, augmenter, part(images), part(maps)).to(at::kCPU);
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
