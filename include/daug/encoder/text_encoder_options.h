#pragma once
/// @file
/// Settings of the text tower. Needs no LibTorch, so that what reads them from a file does without.

#include <cstdint>

#include "daug/encoder/activation.h"

namespace daug {

/// Settings of TextEncoder.
struct TextEncoderOptions {
  std::int64_t vocab_size = 512;                   ///< ids are in [0, vocab_size), >= 1
  std::int64_t context_length = 64;                ///< longest sequence in tokens, >= 1
  std::int64_t width = 64;                         ///< size of a token, >= 1
  std::int64_t depth = 2;                          ///< transformer layers, >= 1
  std::int64_t heads = 4;                          ///< attention heads, divides width
  std::int64_t mlp_width = 256;                    ///< hidden size of the MLPs, >= 1; CLIP has 4 width
  Activation activation = Activation::kQuickGelu;  ///< of the MLPs
  std::int64_t embed_dim = 128;                    ///< D, size of the embedding, >= 1
  /// Id of the end-of-text token, in [0, vocab_size); -1: the largest id of each row ends it, as in the first CLIP.
  std::int64_t end_of_text_id = -1;
  double norm_epsilon = 1e-5;  ///< added to the variance in every layer norm, in (0, 1]
  /// The backward pass computes the inner activations of every layer again, for the memory of one layer.
  bool use_checkpoint = false;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

}  // namespace daug
