#pragma once
/// @file
/// Training of an image tower and a text tower with the hybrid contrastive loss.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "daug/train/trainer.h"
#include "daug/train/training_precision.h"

namespace c10d {
class ProcessGroup;
}

namespace daug {

/// Token ids and where each row's end-of-text token stands.
struct TextBatch {
  at::Tensor ids;  ///< [N, L] int64
  at::Tensor end;  ///< [N] int64
};

/// What the encoders learn from. N items, K findings.
struct EncoderDataset {
  at::Tensor images;            ///< [N, C, H, W] in [-1, 1]; one channel is repeated for a tower that takes more
  at::Tensor maps;              ///< [N, M, H, W], or undefined without maps
  TextBatch text;               ///< one report an item
  at::Tensor text_mask;         ///< [N], 0 where there is no report
  at::Tensor labels;            ///< [N, K] targets in [0, 1] (-1: see HybridLossInputs; unknown to a validation)
  at::Tensor label_mask;        ///< [N, K], 0 where the label is unknown, or undefined: all are known
  TextBatch prompts;            ///< K rows (ClassForm::kBce) or 2K, negative and positive alternating (kPaired)
  at::Tensor study;             ///< [N] integers, or undefined: items of one study attract each other
  at::Tensor positive_weights;  ///< [K], or undefined: see HybridLossInputs
};

/// Settings of train_encoders.
struct EncoderTrainerOptions {
  /// in_channels is the image's; map channels start at zero; extra is left at its default with ChannelMode::kChannel
  /// and kAdd, which add no channels
  ImageEncoderOptions image;
  TextEncoderOptions text;  ///< embed_dim must be the image's
  HybridLossOptions loss;   ///< see HybridLossOptions; where the learnt numbers below start
  /// ln tau is a parameter of the training, `logit_scale`, held in [loss.min_logit_scale, loss.max_logit_scale] after
  /// every step.
  bool learn_logit_scale = false;
  bool learn_class_bias = false;    ///< so is a bias of each finding, `class_bias` [K]; for ClassForm::kBce
  bool learn_logit_bias = false;    ///< and SigLIP's b, `logit_bias`; for ContrastiveForm::kSigmoid
  ChannelAugmenterOptions augment;  ///< channel mode and random changes
  std::int64_t epochs = 30;         ///< passes over the N items, >= 1
  /// Items a step, >= 1; more than N means N. Every batch is full and has no item twice, across epochs too
  /// (SampleOrder). There are floor(epochs * N / batch_size) steps, after which each item was seen `epochs` times, but
  /// epochs * N mod batch_size of them once less.
  std::int64_t batch_size = 32;
  /// Items that are embedded at a time, >= 0, with the loss over the whole batch (see embed_in_chunks); 0: all at once.
  /// Halved, for the rest of the training, where so many do not fit into memory (Trainer::run_in_parts), but not with
  /// batch norm that is trained: its statistics would become those of fewer items.
  std::int64_t chunk_size = 0;
  TrainingPrecision precision = TrainingPrecision::kFloat32;  ///< see TrainingPrecision
  /// Where the towers are trained, see device_called. The data set stays on the CPU, must not change while they are
  /// trained, and goes there batch by batch; what is drawn at random is drawn on the CPU, so that it is the same on
  /// every device.
  c10::Device device = c10::DeviceType::CPU;
  std::uint64_t seed = 0;  ///< fixes initial weights, order and random changes
  /// steps is set from epochs; with a validation set, a validate_every of 0 means once an epoch. Names to freeze are
  /// those of EncoderPair::as_module.
  TrainerOptions optimizer;
  /// Processes that train together (see Trainer), or null: this one alone. Each is given the same data set, encoders
  /// and options, and embeds its share of every batch: of B items rank r of R those from B r / R to B (r + 1) / R,
  /// rounded down. The loss is that of the whole batch (distributed_contrastive_loss). On the CPU alone.
  c10d::ProcessGroup* group = nullptr;

  /// Throws kInvalidArgument naming the first option out of range, kUnsupported for a group on another device.
  void validate() const;
};

/// The towers, and what is learnt with them.
struct EncoderPair {
  ImageEncoder image{nullptr};         ///< image tower
  ImageEncoder heatmap{nullptr};       ///< second image tower, for ChannelMode::kAdd alone; else null
  TextEncoder text{nullptr};           ///< text tower
  std::optional<PixelScaling> pixels;  ///< how the image tower takes pixels; none: as they are, in [-1, 1]
  at::Tensor logit_scale;              ///< learnt ln tau, one number; undefined: the loss's option
  at::Tensor class_bias;               ///< learnt biases, [K]; undefined: the loss's option
  at::Tensor logit_bias;               ///< learnt b of the sigmoid form, one number; undefined: the loss's option

  /// Where the weights are. Inputs and embeddings of the functions below are on the CPU wherever that is.
  c10::Device device() const;

  /// All under one module, as `image`, `heatmap`, `text`, `logit_scale`, `class_bias` and `logit_bias`, for saving and
  /// training.
  std::shared_ptr<torch::nn::Module> as_module() const;
};

/// Encoders with initial weights; the same for the same options and seed, with or without map channels except for the
/// map channels' own (zero) weights. With ChannelMode::kAdd the heatmap tower starts from other weights. `findings` is
/// K, needed with learn_class_bias.
EncoderPair make_encoders(const EncoderTrainerOptions& options, std::int64_t map_channels, std::int64_t findings = 0);

/// The same around towers that exist, such as a checkpoint's. They are copied, and the image tower's copy is widened as
/// the channel mode and options.image.extra ask, so that at the start images with their maps have the bits of the
/// checkpoint's embedding. A copy has use_checkpoint where its original or its options have it; nothing else is read of
/// options.image and options.text. With ChannelMode::kAdd the heatmap tower is another copy. Throws kMismatch for
/// towers of different embed_dim, and for an image tower with some other number of extra channels than are needed.
EncoderPair make_encoders(const ImageEncoder& image, const TextEncoder& text, const EncoderTrainerOptions& options,
                          std::int64_t map_channels, std::int64_t findings = 0);

/// Called with the encoders as the last step left them (averaged, with ema_decay), in eval() state.
using LastEncoders = std::function<void(const EncoderPair&)>;

/// Trains encoders of make_encoders(options, ...) on one thread (run several trainings side by side to use several).
/// Stops and resumes like Trainer::run. What the towers draw at random (drop_path, extra.dropout) depends on the seed
/// and the item's position in the training alone. The encoders come back in eval() state on options.device: batch norm
/// uses its running statistics, which are averaged and chosen with the weights. With chunk_size, batch norm's
/// statistics in training are those of a chunk.
///
/// A batch one of whose embeddings is not finite is a step with a loss that is not, which is left out. Where losses are
/// not read at every step (Trainer), an error of the loss (an embedding of zeros, say) is thrown when they are, with
/// the number of its step, which has changed nothing; labels are refused at once.
///
/// With options.group all ranks return the same bits, and but for rounding those of one process with the same batches;
/// batch norm's statistics in training are those of a rank's share. chunk_size, which may differ, bounds the items of
/// a rank that are embedded at a time. `last` and control.progress are called on every rank, and a stop that one rank
/// is asked for stops all.
///
/// With `validation` (null: none; its text is not read) the value of a validation is the macro AUROC over findings of
/// class_probabilities on these items, computed in float32, and the weights of the best one are returned; otherwise
/// those after the last step. `last` (may be empty) sees a finished training's last weights in any case.
///
/// Throws what Trainer::run_in_parts throws, with batch norm that is trained kOutOfMemory where one chunk does not fit;
/// kInvalidArgument for a part of a data set that is read and is not there, for a validation set in which no finding is
/// known to be present in one item and absent in another, and for batches of fewer items than ranks; kMismatch for a
/// part with another number of rows than images, for token ids or texts that do not fit the text tower's tables, naming
/// both sizes, for a heatmap tower without ChannelMode::kAdd or that mode without one, and for ranks with other
/// options.
EncoderPair train_encoders(const EncoderDataset& dataset, const EncoderTrainerOptions& options,
                           const RunControl& control = {}, TrainingHistory* history = nullptr,
                           const EncoderDataset* validation = nullptr, const LastEncoders& last = {});

/// The same from encoders of one's own, which are changed and returned. options.image and options.text are not read,
/// nor the learn_ options; what is learnt beside the towers is what `encoders` has. A resumed training has to be given
/// the same encoders.
EncoderPair train_encoders(const EncoderPair& encoders, const EncoderDataset& dataset,
                           const EncoderTrainerOptions& options, const RunControl& control = {},
                           TrainingHistory* history = nullptr, const EncoderDataset* validation = nullptr,
                           const LastEncoders& last = {});

/// Image embeddings [N, D], not normalised, computed in batches of batch_size >= 1, without gradients and with both
/// image towers as after eval(), whatever state each is in and stays in: an embedding does not depend on its batch. A
/// batch that does not fit into the memory of a device is halved until it does; LibTorch's warning handler is told
/// once. Encoders with extra.dropout also take images without maps (undefined). Encoders whose image towers are in
/// eval() state can be shared by threads. Throws kInvalidArgument for batch_size < 1, kMismatch for a heatmap tower
/// without ChannelMode::kAdd or that mode without one, kOutOfMemory where not even one image fits, kDevice where
/// a device failed; other errors as HeatmapChannelAugmenter::apply and ImageEncoder.
at::Tensor embed_images(const EncoderPair& encoders, const HeatmapChannelAugmenter& augmenter, const at::Tensor& images,
                        const at::Tensor& maps, std::int64_t batch_size = 64);
/// Text embeddings [N, D], not normalised, computed in batches of batch_size >= 1, halved likewise, without gradients.
/// Throws kInvalidArgument for batch_size < 1, kOutOfMemory where not even one text fits, kDevice where a device
/// failed; other errors as TextEncoder.
at::Tensor embed_texts(const EncoderPair& encoders, const TextBatch& text, std::int64_t batch_size = 64);

/// class_probabilities of the loss with the scale and the biases that the encoders learnt, where they did, without
/// gradients: image [N, D], class_prompts [K, D] (paired [2K, D]) to [N, K] in [0, 1]. Errors as there.
at::Tensor class_probabilities(const EncoderPair& encoders, const at::Tensor& image, const at::Tensor& class_prompts,
                               const HybridLossOptions& options);

}  // namespace daug
