// What towers hold in attention, and what gradient checkpointing keeps of an image tower, counted.

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <cstdint>

#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "support/catch.h"
#include "support/memory_count.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("layers that are computed again keep their inputs alone", "[encoder]") {
  constexpr std::int64_t kImages = 256, kTokens = 17, kWidth = 16;
  const auto held = [&](std::int64_t depth, bool again) {
    ImageEncoderOptions options;
    options.kind = ImageEncoderKind::kViT;
    options.image_size = 16;
    options.embed_dim = 6;
    options.use_checkpoint = again;
    options.vit.patch_size = 4;
    options.vit.width = kWidth;
    options.vit.mlp_width = 24;
    options.vit.heads = 2;
    options.vit.depth = depth;
    ImageEncoder encoder(options, 3);
    const at::Tensor x = random_tensor({kImages, 1, 16, 16}, 1).to(at::kFloat);
    const auto step = [&] { encoder(x).square().sum().backward(); };
    step();  // makes the gradients, and what LibTorch makes once
    MemoryCount count;
    step();
    return static_cast<double>(count.peak());
  };
  // Bytes that each further layer costs, in inputs of a layer.
  const auto each = [&](bool again) {
    return (held(9, again) - held(1, again)) / 8 / static_cast<double>(4 * kImages * kTokens * kWidth);
  };
  const double kept = each(false), again = each(true);
  INFO("a layer holds " << kept << " of its inputs, computed again " << again);
  CHECK(kept >= 6);  // q, k, v and inputs of every product and norm
  CHECK(again >= 0.9);
  CHECK(again <= 1.5);
}

TEST_CASE("attention of long sequences forms no matrix of all pairs", "[encoder]") {
  constexpr std::int64_t kTokens = 48 * 48 + 1, kHeads = 4;
  constexpr double kScores = 4.0 * kHeads * kTokens * kTokens;  // bytes of a layer's, 85 MB
  const auto check = [&](const auto& pass) {
    pass();  // makes the gradients, and what LibTorch makes once
    MemoryCount count;
    pass();
    CHECK(static_cast<double>(count.peak()) < kScores / 10);
  };
  ImageEncoderOptions options;
  options.kind = ImageEncoderKind::kViT;
  options.image_size = 96;
  options.embed_dim = 4;
  options.vit.patch_size = 2;
  options.vit.width = options.vit.mlp_width = 16;
  options.vit.heads = kHeads;
  options.vit.depth = 1;
  ImageEncoder image(options, 3);
  const at::Tensor x = random_tensor({1, 1, 96, 96}, 2).to(at::kFloat);
  check([&] { image(x).square().sum().backward(); });

  TextEncoderOptions words;
  words.vocab_size = 4;
  words.end_of_text_id = 3;
  words.context_length = kTokens;
  words.width = words.mlp_width = 16;
  words.heads = kHeads;
  words.depth = 1;
  words.embed_dim = 4;
  TextEncoder text(words, 3);
  const at::Tensor ids = at::zeros({1, kTokens}, at::kLong);
  ids.select(1, kTokens - 1).fill_(3);
  const torch::NoGradGuard no_grad;
  check([&] { text(ids); });
}
