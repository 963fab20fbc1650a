#pragma once
/// @file
/// Training of the diffusion model and of the noise-aware classifier that can guide it.

#include <c10/core/Device.h>

#include <cstdint>

#include "daug/core/execution.h"
#include "daug/train/trainer.h"
#include "daug/train/training_precision.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/denoising_loss.h"
#include "daug/translator/noise_aware_classifier.h"

namespace daug {

/// Settings of train_denoiser.
struct DenoiserTrainerOptions {
  DenoiserUNetOptions network;     ///< architecture; num_findings and out_channels are set from data and loss
  DenoisingLossOptions loss;       ///< what the network outputs and what is minimised
  std::int64_t max_level = 400;    ///< highest noise level trained, in [1, schedule steps]
  bool loss_aware_levels = false;  ///< draw levels by their recent losses (LevelSampler), not uniformly
  std::int64_t batch_size = 16;    ///< images a step over all workers, a multiple of workers
  std::int64_t workers = 2;        ///< data-parallel threads, in [1, 256]; 1 on another device than the CPU
  c10::Device device = c10::DeviceType::CPU;                  ///< where the network is trained, see device_called
  TrainingPrecision precision = TrainingPrecision::kFloat32;  ///< of its passes; what is kept of it is float32
  double finding_dropout = 0.15;    ///< probability that a finding's state is hidden, in [0, 1]
  double condition_dropout = 0.15;  ///< probability that all states are hidden, in [0, 1]
  double labelled_share = 0;        ///< least share of a batch that has a known state, in [0, 1]
  std::uint64_t seed = 0;           ///< fixes initial weights, order, levels, noise and dropout
  /// Whether batches, a squared error of a network without dropout, go to the loss and back in CUDA graphs: with kAuto
  /// once a run of them on a device is recorded; kFused requires them, and is refused for all else.
  Execution graphs = Execution::kAuto;
  TrainerOptions optimizer;  ///< see TrainerOptions

  /// Throws kInvalidArgument naming the first option out of range.
  void validate(const NoiseSchedule& schedule) const;
};

/// Trains a denoiser on images [N, C, H, W] in [-1, 1] with states [N, F]: +1 present, -1 absent, 0 unknown.
///
/// By default the mean squared error of v at a uniformly drawn level (L_simple of arXiv 2006.11239). Returns the
/// averaged weights when the optimiser averages; on a stop request `history->finished` is false and the network is
/// only good for being thrown away (the checkpoint holds the state). history may be null. The network comes back in
/// eval() state, its parameters without gradient, on options.device. Initial weights are drawn from LibTorch's
/// generator, which is seeded for that.
///
/// Images and states are on the CPU, and must not change before it returns: a batch goes to the device with its noise,
/// which is drawn on the CPU and so the same for every device; results on two devices differ by rounding and what
/// training makes of it. Bit-reproducible on the CPU of one machine. A worker's share that does not fit into memory is
/// halved until it does, for the same gradients but for rounding (Trainer::run_in_parts), with the random numbers of
/// the whole.
///
/// Graphs (options.graphs) hold batches that are made whole, the second one and those after it, and give the gradients
/// of plain steps but for the order in which a device adds. Not yet run on a device.
///
/// Throws kInvalidArgument for options, shapes, images that require_images refuses and states that are none;
/// kUnsupported for graphs = kFused in builds without CUDA graphs, on other devices and on a stream that is not a
/// device's default; and as Trainer::run_in_parts.
DenoiserUNet train_denoiser(const at::Tensor& images, const at::Tensor& states, const NoiseSchedule& schedule,
                            const DenoiserTrainerOptions& options, const RunControl& control = {},
                            TrainingHistory* history = nullptr);

/// Weight of the positives of each finding, [F] float32, from states [N, F] as above: negatives / positives, in
/// [1 / most, most], most >= 1 (kInvalidArgument); negatives (at most `most`) for a finding without positives.
at::Tensor positive_weights(const at::Tensor& states, double most);

/// Settings of train_noise_aware_classifier.
struct ClassifierTrainerOptions {
  NoiseAwareClassifierOptions network;        ///< architecture; out_channels is set from the states
  std::int64_t max_level = 400;               ///< highest noise level trained, in [0, schedule steps]
  std::int64_t batch_size = 32;               ///< images a step over all workers, a multiple of workers
  std::int64_t workers = 2;                   ///< data-parallel threads, in [1, 256]; 1 on another device than the CPU
  c10::Device device = c10::DeviceType::CPU;  ///< where the network is trained, see device_called
  TrainingPrecision precision = TrainingPrecision::kFloat32;  ///< of its passes; what is kept of it is float32
  double max_positive_weight = 10.0;  ///< cap on the negatives/positives ratio that weighs positives, >= 1
  std::uint64_t seed = 0;             ///< fixes initial weights, order, levels and noise
  /// Whether batches go to the loss and back in CUDA graphs, as DenoiserTrainerOptions::graphs; kFused is refused for a
  /// network with dropout.
  Execution graphs = Execution::kAuto;
  TrainerOptions optimizer;  ///< see TrainerOptions

  /// Throws kInvalidArgument naming the first option out of range.
  void validate(const NoiseSchedule& schedule) const;
};

/// Trains one sigmoid a finding on noisy images: binary cross-entropy with positive weights over the known states.
/// Arguments, result, graphs and errors as train_denoiser. Images without any known state are left out.
NoiseAwareClassifier train_noise_aware_classifier(const at::Tensor& images, const at::Tensor& states,
                                                  const NoiseSchedule& schedule,
                                                  const ClassifierTrainerOptions& options,
                                                  const RunControl& control = {}, TrainingHistory* history = nullptr);

}  // namespace daug
