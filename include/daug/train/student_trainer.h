#pragma once
/// @file
/// Training of the network that answers with maps in one call.

#include <c10/core/Device.h>

#include <cstdint>

#include "daug/core/execution.h"
#include "daug/heatmap/map_student.h"
#include "daug/train/trainer.h"
#include "daug/train/training_precision.h"

namespace daug {

/// Settings of train_map_student.
struct StudentTrainerOptions {
  DenoiserUNetOptions network;   ///< architecture; in_channels, out_channels and no condition are set from the data
  std::int64_t batch_size = 16;  ///< images a step over all workers, a multiple of workers
  std::int64_t workers = 2;      ///< data-parallel threads, in [1, 256]; 1 on another device than the CPU
  c10::Device device = c10::DeviceType::CPU;                  ///< where the network is trained, see device_called
  TrainingPrecision precision = TrainingPrecision::kFloat32;  ///< of its passes; what is kept of it is float32
  std::uint64_t seed = 0;                                     ///< fixes initial weights and order
  /// Whether batches go to the loss and back in CUDA graphs, as DenoiserTrainerOptions::graphs; kFused is refused for a
  /// network with dropout.
  Execution graphs = Execution::kAuto;
  TrainerOptions optimizer;  ///< see TrainerOptions

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// What MapStudent is made of, but for its gate.
struct TrainedStudent {
  DenoiserUNet network = nullptr;  ///< out_channels is K
  MapScaler scaler;                ///< fitted on the maps
};

/// Trains a student on images [N, C, H, W] (require_images) and the full method's maps [N, K, H, W] of them: mean
/// squared error of the maps, each target's standardised by its mean and deviation. Result, history, graphs, errors,
/// and what becomes of a batch that does not fit into memory, are as with train_denoiser.
TrainedStudent train_map_student(const at::Tensor& images, const at::Tensor& maps, const StudentTrainerOptions& options,
                                 const RunControl& control = {}, TrainingHistory* history = nullptr);

}  // namespace daug
