#pragma once
/// @file
/// The activations that published CLIP towers use.

namespace daug {

/// Elementwise activation of a transformer's MLP.
enum class Activation {
  kQuickGelu,  ///< x sigmoid(1.702 x), OpenAI's weights
  kGelu,       ///< x Phi(x), exact; most open_clip weights
};

}  // namespace daug
