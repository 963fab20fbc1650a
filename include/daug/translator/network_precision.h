#pragma once
/// @file
/// The type in which a network that is used, not trained, computes.

#include <string>

namespace daug {

/// Arithmetic of a denoiser or a guide at inference. States, solvers, guidance and maps stay in the type of the images.
/// For other than kFull a copy of the network is built, which draws from LibTorch's generator as building any does.
enum class NetworkPrecision {
  kFull,      ///< the network as it is
  kBFloat16,  ///< weights and activations in bfloat16, channels last; norms and attention inside in float32
  kFloat16,   ///< the same in float16, for which LibTorch may lack operators on the CPU
};

/// "float32" (kFull, as a run's networks are float32), "bfloat16" or "float16"; throws kInvalidArgument otherwise.
NetworkPrecision network_precision(const std::string& name);

}  // namespace daug
