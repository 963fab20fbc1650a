#pragma once
/// @file
/// Arithmetic of networks while they are trained.

#include <c10/core/Device.h>

#include <string>

namespace daug {

/// Arithmetic of a network in training. Weights, loss, gradients and optimiser are float32 in any case, though the
/// loss of encoders on a CUDA device multiplies embeddings in bfloat16, with float32 sums.
enum class TrainingPrecision {
  kFloat32,  ///< float32 throughout
  /// Products and convolutions in bfloat16 (LibTorch's autocast). A CPU that does not multiply bfloat16 is several
  /// times slower with it than with float32.
  kBfloat16,
  /// kBfloat16 where the processor multiplies bfloat16 (AVX-512 BF16, AMX) and on CUDA devices, else kFloat32.
  kAuto,
};

/// The precision called "float32", "bfloat16" or "auto". Throws kInvalidArgument for another name.
TrainingPrecision training_precision(const std::string& name);

/// Whether a training with this setting uses bfloat16 on a device of this machine.
bool trains_in_bfloat16(TrainingPrecision precision, c10::Device device = c10::DeviceType::CPU);

}  // namespace daug
