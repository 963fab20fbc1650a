// What towers hold in attention, and what gradient checkpointing keeps of them, counted.

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <array>
#include <cstdint>

#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "support/catch.h"
#include "support/memory_count.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Bytes of a training step: those that its forward pass leaves to the backward pass, and the most at any time.
struct Held {
  double kept, most;
};

template <class Pass>
Held held_by(const Pass& pass) {
  pass().square().sum().backward();  // makes the gradients, and what LibTorch makes once
  MemoryCount count;
  const at::Tensor loss = pass().square().sum();
  const auto kept = count.now();
  loss.backward();
  return {static_cast<double>(kept), static_cast<double>(count.peak())};
}

Held held_by_images(const ImageEncoderOptions& options, std::int64_t batch) {
  ImageEncoder encoder(options, 3);
  const at::Tensor x = float_tensor({batch, 1, options.image_size, options.image_size}, 1);
  return held_by([&] { return encoder(x); });
}

/// What each of eight further layers costs beside a first one, in units of `bytes`.
template <class OfDepth>
Held held_by_each(double bytes, const OfDepth& of_depth) {
  const Held few = of_depth(1), many = of_depth(9);
  return {(many.kept - few.kept) / 8 / bytes, (many.most - few.most) / 8 / bytes};
}

/// Checks what each further layer or residual block costs, in its inputs of `numbers` of float32: at least `least` of
/// them where its inner activations are kept, else that input alone, up to the end of the backward pass.
template <class OfDepth>
void check_inputs_alone(const char* name, std::int64_t numbers, double least, const OfDepth& of_depth) {
  const auto each = [&](bool again) {
    return held_by_each(4.0 * static_cast<double>(numbers), [&](std::int64_t depth) { return of_depth(depth, again); });
  };
  const Held plain = each(false), again = each(true);
  INFO(name << ": " << plain.kept << " of its inputs, computed again " << again.kept << ", at most " << again.most);
  CHECK(plain.kept >= least);
  CHECK(again.kept >= 0.9);
  CHECK(again.kept <= 1.1);
  CHECK(again.most <= 1.5);
}

}  // namespace

TEST_CASE("layers and residual blocks that are computed again keep their inputs alone", "[encoder]") {
  // Of a transformer's layer: q, k, v, and the inputs of its products and norms, one of them 1.5 times as wide.
  constexpr double kLayer = 9;
  constexpr std::int64_t kWidth = 16, kHidden = 24;
  ImageEncoderOptions vit;
  vit.kind = ImageEncoderKind::kViT;
  vit.image_size = 16;
  vit.embed_dim = 6;
  vit.vit.patch_size = 4;
  vit.vit.width = kWidth;
  vit.vit.mlp_width = kHidden;
  vit.vit.heads = 2;
  check_inputs_alone("ViT", 256 * 17 * kWidth, kLayer, [&](std::int64_t depth, bool again) {
    vit.vit.depth = depth;
    vit.use_checkpoint = again;
    return held_by_images(vit, 256);
  });

  TextEncoderOptions text;
  text.vocab_size = 4;
  text.end_of_text_id = 3;
  text.context_length = 16;
  text.width = kWidth;
  text.mlp_width = kHidden;
  text.heads = 2;
  text.embed_dim = 6;
  const at::Tensor ids = at::zeros({256, 16}, at::kLong);
  ids.select(1, 15).fill_(3);
  check_inputs_alone("text", 256 * 16 * kWidth, kLayer, [&](std::int64_t depth, bool again) {
    text.depth = depth;
    text.use_checkpoint = again;
    TextEncoder encoder(text, 3);
    return held_by([&] { return encoder(ids); });
  });

  // Of a block of two convolutions, each behind a norm and SiLU: the inputs of all six.
  ImageEncoderOptions conv;
  conv.image_size = 16;
  conv.embed_dim = 6;
  conv.conv.base_width = conv.conv.norm_group_width = 8;
  conv.conv.stages = 1;
  conv.conv.pooling = ImagePooling::kMean;
  check_inputs_alone("convolutions", 64 * 8 * 8 * 8, 5.9, [&](std::int64_t depth, bool again) {
    conv.conv.blocks = depth;
    conv.use_checkpoint = again;
    return held_by_images(conv, 64);
  });

  // Of a block of two convolutions, a norm and a ReLU in place behind each: the inputs of convolutions and norms.
  ImageEncoderOptions resnet;
  resnet.kind = ImageEncoderKind::kResNet;
  resnet.image_size = 32;
  resnet.embed_dim = 6;
  resnet.resnet.base_width = 8;
  check_inputs_alone("ResNet", 64 * 8 * 8 * 8, 3.9, [&](std::int64_t depth, bool again) {
    resnet.resnet.blocks = {depth, 1, 1, 1};
    resnet.use_checkpoint = again;
    return held_by_images(resnet, 64);
  });
}

TEST_CASE("dense blocks that are computed again keep their results alone, and are computed one by one", "[encoder]") {
  constexpr std::int64_t kBatch = 16, kGrowth = 8;
  const auto each = [&](std::int64_t positions, bool again, const auto& layers) {
    return held_by_each(4.0 * kBatch * kGrowth * static_cast<double>(positions), [&](std::int64_t depth) {
      ImageEncoderOptions options;
      options.kind = ImageEncoderKind::kDenseNet;
      options.image_size = 32;
      options.embed_dim = 6;
      options.use_checkpoint = again;
      options.densenet.base_width = options.densenet.growth = kGrowth;
      options.densenet.layers = layers(depth);
      return held_by_images(options, kBatch);
    });
  };
  // In units of what a layer adds. Layer i of the first block keeps what it reads, 1 + i, joined and normed, and two
  // maps of its inner width, 4: 19 on average over i = 1 to 8. The block's result, wider by 1, is kept in any case,
  // normed and halved in width as well: 2.5. With the narrower and smaller maps behind it: 3.
  const auto first = [](std::int64_t depth) { return std::array<std::int64_t, 4>{depth, 1, 1, 1}; };
  const Held plain = each(8 * 8, false, first), again = each(8 * 8, true, first);
  INFO("first block: " << plain.kept << ", computed again " << again.kept);
  CHECK(plain.kept >= 19);
  CHECK(again.kept >= 1);
  CHECK(again.kept <= 3.5);
  // The second block reads a width of 4.5 from a first one of 8 layers, so its layers keep 26 on average. The step
  // holds most while the larger first block is computed again, and by then what the second one kept is gone.
  const auto second = [](std::int64_t depth) { return std::array<std::int64_t, 4>{8, depth, 1, 1}; };
  const Held plain_behind = each(4 * 4, false, second), again_behind = each(4 * 4, true, second);
  INFO("second block: " << plain_behind.kept << ", computed again at most " << again_behind.most);
  CHECK(plain_behind.kept >= 26);
  CHECK(again_behind.most <= 1);
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
