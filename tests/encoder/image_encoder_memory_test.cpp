// What gradient checkpointing keeps of an image tower, counted.

#include <ATen/ATen.h>

#include <cstdint>

#include "daug/encoder/image_encoder.h"
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
