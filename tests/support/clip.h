#pragma once
// CLIP's two towers at their smallest.

#include <ATen/ATen.h>

#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/tokenizer.h"

namespace daug::test {

/// What the towers are built from.
struct ClipParts {
  ImageEncoderOptions image;
  TextEncoderOptions text;
};

/// Images of 8 x 8 pixels in patches of 4, texts of 5 tokens out of 9, embeddings of 4 numbers.
inline ClipParts small_clip_parts() {
  ClipParts parts;
  parts.image.kind = ImageEncoderKind::kViT;
  parts.image.in_channels = 3;
  parts.image.image_size = 8;
  parts.image.vit.patch_size = 4;
  parts.image.vit.depth = 2;
  parts.text.vocab_size = 9;
  parts.text.context_length = 5;
  parts.text.depth = 1;
  parts.text.end_of_text_id = 7;
  parts.image.embed_dim = parts.text.embed_dim = 4;
  parts.image.vit.width = parts.text.width = 8;
  parts.image.vit.heads = parts.text.heads = 2;
  parts.image.vit.mlp_width = parts.text.mlp_width = 12;
  parts.image.vit.activation = parts.text.activation = Activation::kQuickGelu;
  return parts;
}

/// The towers with initial weights, always the same, and ln tau = 2.5.
inline ClipModel make_clip(const ClipParts& parts) {
  ClipModel model;
  model.image = ImageEncoder(parts.image, 1);
  model.text = TextEncoder(parts.text, 2);
  model.logit_scale = at::scalar_tensor(2.5, at::kFloat);
  return model;
}

/// The same for a vocabulary in CLIP's layout: images of 16 pixels in patches of 8, texts of 20 tokens.
inline ClipModel small_clip(const BpeVocabulary& vocabulary) {
  ClipParts parts = small_clip_parts();
  parts.image.image_size = 16;
  parts.image.vit.patch_size = 8;
  parts.text.vocab_size = static_cast<std::int64_t>(vocabulary.tokens.size());
  parts.text.context_length = 20;
  parts.text.end_of_text_id = parts.text.vocab_size - 1;
  ClipModel clip = make_clip(parts);
  clip.start_of_text_id = parts.text.vocab_size - 2;
  return clip;
}

}  // namespace daug::test
