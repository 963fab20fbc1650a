#pragma once
// Networks of half types (float16, bfloat16), and how others become such.

#include <torch/nn/module.h>

#include <optional>

#include "daug/translator/network_precision.h"

namespace daug::detail {

/// The half type of a network's parameters; nothing for other types.
std::optional<at::ScalarType> half_type(const torch::nn::Module& network);

/// Gives `copy`, of the same options, the parameters of `network` rounded to `precision` (not kFull), on their device,
/// filters of images channels last and all without gradients.
void copy_rounded(const torch::nn::Module& network, torch::nn::Module& copy, NetworkPrecision precision);

/// The network itself for kFull, else a rounded copy: the caller's stays what it is. A copy is built as any network is,
/// with initial weights from LibTorch's generator.
template <class Network>
Network in_precision(const Network& network, NetworkPrecision precision) {
  if (precision == NetworkPrecision::kFull) return network;
  Network copy(network->options());
  copy_rounded(*network, *copy, precision);
  return copy;
}

}  // namespace daug::detail
