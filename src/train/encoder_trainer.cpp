#include "daug/train/encoder_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <utility>

#include "autocast.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/io/fingerprint.h"
#include "daug/loss/deferred_checks.h"
#include "daug/loss/distributed_loss.h"
#include "daug/metrics/multilabel.h"
#include "daug/train/gradient_cache.h"
#include "daug/train/sample_order.h"
#include "drawn_ahead.h"
#include "encoder/conv_layers.h"
#include "encoder_pair.h"
#include "ranks.h"

namespace daug {

namespace {

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

/// Throws unless the parts of a data set that a loss reads fit each other and the towers.
void require_dataset(const EncoderPair& pair, const EncoderDataset& dataset, const HybridLossOptions& loss,
                     const char* function) {
  require_images(dataset, function, "images");
  const bool reads_text = loss.clip_weight > 0, reads_prompts = loss.clip_weight < 1;
  if (reads_text) require_given(dataset.text, function, "text");
  if (reads_prompts) require_given(dataset.prompts, function, "prompts");
  const std::int64_t images = dataset.images.size(0);
  require_parts(images,
                {{"maps", dataset.maps, false},
                 {"labels", dataset.labels, reads_prompts},
                 {"label_mask", dataset.label_mask, false}},
                function);
  if (reads_text)
    require_parts(images,
                  {{"text.ids", dataset.text.ids, true},
                   {"text.end", dataset.text.end, true},
                   {"text_mask", dataset.text_mask, false},
                   {"study", dataset.study, false}},
                  function);
  require_text(dataset.text, pair, function, "text");
  require_text(dataset.prompts, pair, function, "prompts");
}

/// Throws unless the parts of a data set that a validation reads do.
void require_validation(const EncoderPair& pair, const EncoderDataset& dataset, const char* function) {
  require_images(dataset, function, "validation.images");
  require_given(dataset.prompts, function, "validation.prompts");
  require_parts(dataset.images.size(0),
                {{"validation.maps", dataset.maps, false},
                 {"validation.labels", dataset.labels, true},
                 {"validation.label_mask", dataset.label_mask, false}},
                function);
  require_text(dataset.prompts, pair, function, "validation.prompts");
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

/// This rank's share of a batch, on the CPU.
struct DrawnItems {
  std::vector<std::uint64_t> positions;  ///< in the training
  at::Tensor images, maps;
  TextBatch text;  ///< where the loss reads it
  at::Tensor labels, label_mask, text_mask, study;
};

/// What the loss of each step is computed from: this rank's share of a batch, embedded.
class EmbeddedBatches {
 public:
  EmbeddedBatches(const EncoderPair& pair, const EncoderDataset& dataset, const EncoderTrainerOptions& options,
                  std::int64_t batch_size, std::int64_t steps, const detail::Ranks& ranks)
      : pair_(pair),
        dataset_(dataset),
        options_(options),
        augmenter_(options.augment),
        batch_size_(batch_size),
        first_(batch_size * ranks.rank() / ranks.size()),
        share_(batch_size * (ranks.rank() + 1) / ranks.size() - first_),
        order_(static_cast<std::size_t>(dataset.images.size(0)), options.seed, static_cast<std::size_t>(batch_size)),
        drawn_([this](std::size_t, std::int64_t step) { return drawn(step); }, /*ahead=*/options.device.is_cuda(),
               steps) {
    for (const auto& parameter : pair.as_module()->parameters())
      if (parameter.requires_grad()) parameters_.push_back(parameter);
  }

  std::int64_t share() const { return share_; }  ///< items of this rank
  const HeatmapChannelAugmenter& augmenter() const { return augmenter_; }

  /// Of a step, embedded `chunk_size` items at a time.
  HybridLossInputs embed(std::int64_t step, std::int64_t chunk_size) {
    const DrawnItems items = drawn_.at(0, step);
    HybridLossInputs inputs;
    inputs.image = image_embeddings(items, chunk_size);
    if (options_.loss.clip_weight > 0) {
      const auto chunk = [this, text = items.text](std::int64_t begin, std::int64_t size) {
        return text_embeddings(text, begin, size);
      };
      inputs.text = embed_in_chunks(share_, chunk_size, chunk, parameters_);
    }
    if (options_.loss.clip_weight < 1)
      inputs.class_prompts = text_embeddings(dataset_.prompts, 0, dataset_.prompts.ids.size(0));
    // What the loss looks at stays on the CPU, where that waits for no device.
    inputs.labels = items.labels;
    inputs.label_mask = items.label_mask;
    inputs.text_mask = items.text_mask;
    inputs.study = items.study;
    inputs.positive_weights = dataset_.positive_weights;
    inputs.class_bias = pair_.class_bias;
    inputs.logit_scale = pair_.logit_scale;
    inputs.logit_bias = pair_.logit_bias;
    return inputs;
  }

 private:
  DrawnItems drawn(std::int64_t step) {
    DrawnItems items;
    const at::Tensor index = at::empty({share_}, at::kLong);
    for (std::int64_t i = 0; i < share_; ++i) {
      items.positions.push_back(static_cast<std::uint64_t>(step * batch_size_ + first_ + i));
      index.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(order_.at(items.positions.back()));
    }
    const auto batch = [&](const at::Tensor& all) { return all.defined() ? all.index_select(0, index) : all; };
    items.images = backend::ready_to_upload(batch(dataset_.images), options_.device);
    items.maps = backend::ready_to_upload(batch(dataset_.maps), options_.device);
    if (options_.loss.clip_weight > 0) items.text = {batch(dataset_.text.ids), batch(dataset_.text.end)};
    items.labels = batch(dataset_.labels);
    items.label_mask = batch(dataset_.label_mask);
    items.text_mask = batch(dataset_.text_mask);
    items.study = batch(dataset_.study);
    return items;
  }

  at::Tensor image_embeddings(const DrawnItems& batch, std::int64_t chunk_size) const {
    const std::vector<std::uint64_t>& positions = batch.positions;
    at::Tensor images = backend::upload(batch.images, options_.device),
               maps = backend::upload(batch.maps, options_.device);
    augmenter_.augment(images, maps, positions, options_.seed);
    // The backward pass embeds again: it must find all that this reads.
    const auto chunk = [this, images, maps, positions](std::int64_t begin, std::int64_t size) {
      const Autocast autocast(options_.precision, options_.device);
      const std::vector<std::uint64_t> items(positions.begin() + begin, positions.begin() + begin + size);
      return for_loss(detail::embed(pair_, augmenter_, images.narrow(0, begin, size),
                                    maps.defined() ? maps.narrow(0, begin, size) : maps, &items, options_.seed));
    };
    return embed_in_chunks(share_, chunk_size, chunk, parameters_);
  }

  at::Tensor text_embeddings(const TextBatch& text, std::int64_t begin, std::int64_t size) const {
    auto& tower = const_cast<TextEncoder&>(pair_.text);  // TORCH_MODULE holders are not const-callable
    const Autocast autocast(options_.precision, options_.device);
    return for_loss(tower->forward(text.ids.narrow(0, begin, size), text.end.narrow(0, begin, size)));
  }

  at::Tensor for_loss(const at::Tensor& embeddings) const {
    return embeddings.to(detail::type_in_loss(embeddings.scalar_type(), options_.device));
  }

  const EncoderPair& pair_;
  const EncoderDataset& dataset_;
  const EncoderTrainerOptions& options_;
  HeatmapChannelAugmenter augmenter_;
  std::int64_t batch_size_, first_, share_;
  SampleOrder order_;  ///< caches its epoch
  std::vector<at::Tensor> parameters_;
  DrawnAhead<DrawnItems> drawn_;
};

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
    detail::require_towers(pair, options.augment, kFunction);
    require_dataset(pair, dataset, options.loss, kFunction);
    if (validation) require_validation(pair, *validation, kFunction);
    return 0.0;
  });
  const std::int64_t count = dataset.images.size(0);
  const std::int64_t batch_size = std::min(options.batch_size, count);
  require_same_batches(ranks, options, count, kFunction);
  require(batch_size >= ranks.size(), kFunction, "batch_size",
          detail::concat("an item for each of ", ranks.size(), " ranks"), batch_size);
  TrainerOptions optimizer = options.optimizer;
  optimizer.steps = std::max<std::int64_t>(1, options.epochs * count / batch_size);
  if (validation && optimizer.validate_every == 0)
    optimizer.validate_every = std::max<std::int64_t>(1, count / batch_size);
  const auto module = pair.as_module();
  module->to(options.device);
  module->train();
  std::shared_ptr<TrainingState> held;
  if (pair.logit_scale.defined()) held = std::make_shared<HeldTemperature>(pair.logit_scale, options.loss);
  Trainer trainer({module}, optimizer, held, options.group);
  EmbeddedBatches batches(pair, dataset, options, batch_size, optimizer.steps, ranks);
  DeferredChecks checks;
  const bool defers = trainer.read_every() > 1;
  const auto loss = [&](std::int64_t step, std::int64_t chunk_size) -> at::Tensor {
    HybridLossInputs inputs;
    if (defers) {
      inputs = batches.embed(step, chunk_size);
      checks.begin(step, embeddings_are_finite(inputs));
      return hybrid_contrastive_loss(inputs, options.loss, &checks).total;
    }
    const std::vector<double> finite = ranks.of_all(kFunction, [&] {
      inputs = batches.embed(step, chunk_size);
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
  const std::int64_t chunk = options.chunk_size > 0 ? std::min(options.chunk_size, batches.share()) : batches.share();
  const auto whole = [&](std::size_t, std::int64_t step) { return loss(step, chunk); };
  const Validation auroc = [&] { return validation_auroc(pair, batches.augmenter(), *validation, options.loss); };
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

}  // namespace daug
