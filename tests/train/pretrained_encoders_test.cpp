// Encoders that start with the towers of a checkpoint.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/train/encoder_trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Towers of a tiny CLIP that were written and read.
std::pair<ImageEncoder, TextEncoder> tiny_clip(const std::string& folder) {
  auto options = small(ChannelMode::kNone);
  options.image.kind = ImageEncoderKind::kViT;
  options.image.in_channels = 3;
  options.image.vit.width = 16;
  options.image.vit.depth = 1;
  options.image.vit.heads = 2;
  options.image.vit.mlp_width = 24;
  options.text.end_of_text_id = 8;
  ClipModel model;
  model.image = ImageEncoder(options.image, 1);
  model.text = TextEncoder(options.text, 2);
  model.logit_scale = at::scalar_tensor(2.5, at::kFloat);
  model.start_of_text_id = 1;
  save_clip(folder, model);
  const ClipModel back = load_clip(folder);
  return {back.image, back.text};
}

/// A tiny ResNet of torchvision's layout that was written and read, its logits the embedding.
ImageEncoder tiny_resnet(const std::string& path) {
  ImageEncoderOptions options = small(ChannelMode::kNone).image;
  options.kind = ImageEncoderKind::kResNet;
  options.in_channels = 3;
  options.resnet.blocks = {1, 1, 1, 1};
  options.resnet.base_width = 8;
  save_torchvision(path, ImageEncoder(options, 3));
  TorchvisionLoadOptions how;
  how.image_size = 16;
  how.head = TorchvisionHead::kKeep;
  return load_torchvision(path, how);
}

}  // namespace

TEST_CASE("gray pixels are scaled as a pretrained tower takes them", "[encoder_trainer]") {
  const at::Tensor gray = at::tensor({-1.0, 0.5}).view({1, 1, 1, 2});
  const auto scaled = to_doubles(scaled_pixels(gray, kClipPixels));
  REQUIRE(scaled.size() == 6);
  CHECK(scaled[0] == Approx(-0.48145466 / 0.26862954));
  CHECK(scaled[3] == Approx((0.75 - 0.4578275) / 0.26130258));
  CHECK(scaled[5] == Approx((0.75 - 0.40821073) / 0.27577711));
  CHECK(mentions(caught([&] { scaled_pixels(at::zeros({1, 2, 4, 4}), kClipPixels); }), "images"));
  // One channel, by the first of each number.
  const auto single = to_doubles(scaled_pixels(gray, kClipPixels, 1));
  REQUIRE(single.size() == 2);
  CHECK(single[1] == Approx((0.75 - 0.48145466) / 0.26862954));
  CHECK(to_doubles(scaled_pixels(gray, kRadiographPixels, 1)) == std::vector<double>{-1024, 512});
  CHECK(mentions(caught([&] { scaled_pixels(at::zeros({1, 3, 4, 4}), kClipPixels, 1); }), "images"));
  CHECK(mentions(caught([&] { scaled_pixels(gray, kClipPixels, 2); }), "channels"));
}

TEST_CASE("pixels are scaled on a device as on the CPU", "[encoder_trainer][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{
           {at::kDouble, 1e-12}, {at::kFloat, 1e-6}, {at::kHalf, 2e-3}, {at::kBFloat16, 1.6e-2}})
    for (const PixelScaling& scaling : {kClipPixels, kImageNetPixels, kRadiographPixels})
      for (const std::int64_t channels : {1, 3}) {
        INFO(type << " mean " << scaling.mean[0] << " channels " << channels);
        const at::Tensor gray = (0.5 * random_tensor({2, 1, 7, 9}, 1)).clamp(-1, 1).to(type);
        const at::Tensor expected = scaled_pixels(gray, scaling, channels).to(at::kDouble);
        const at::Tensor found = scaled_pixels(gray.to(device), scaling, channels);
        CHECK(found.is_cuda());
        CHECK(found.scalar_type() == type);
        REQUIRE(found.sizes() == expected.sizes());
        CHECK(((found.cpu().to(at::kDouble) - expected).abs() / (1 + expected.abs())).max().item<double>() <=
              tolerance);
      }
}

TEST_CASE("a tower of one channel is shown gray pixels in its own range", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend);
  EncoderPair pair = make_encoders(options, 2);
  REQUIRE(pair.image->options().in_channels == 1);
  pair.as_module()->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor expected = pair.image->forward(at::cat({toy.dataset.images * 1024, toy.dataset.maps}, 1));
  pair.pixels = kRadiographPixels;
  const at::Tensor found =
      embed_images(pair, HeatmapChannelAugmenter(options.augment), toy.dataset.images, toy.dataset.maps);
  CHECK((found - expected).abs().max().item<double>() < 1e-4 * (1 + expected.abs().max().item<double>()));
}

TEST_CASE("a checkpoint's towers are widened, start with its embedding bit for bit, and train", "[encoder_trainer]") {
  const ToyCohort toy;
  const Scratch scratch;
  const auto clip = tiny_clip(scratch.path("clip"));
  auto options = small(ChannelMode::kAppend, 20);
  const TextEncoder words(options.text, 7);
  struct Case {
    ImageEncoder image;
    TextEncoder text;
    std::optional<PixelScaling> pixels;
  };
  for (Case& one : std::vector<Case>{{clip.first, clip.second, kClipPixels},
                                     {tiny_resnet(scratch.path("resnet.safetensors")), words, kImageNetPixels},
                                     {clip.first, words, std::nullopt}}) {
    one.image->eval();
    const at::NoGradGuard no_grad;
    const at::Tensor seen = one.pixels ? scaled_pixels(toy.dataset.images, *one.pixels)
                                       : at::cat({toy.dataset.images, toy.dataset.images, toy.dataset.images}, 1);
    const at::Tensor expected = one.image->forward(seen);
    EncoderPair pair = make_encoders(one.image, one.text, options, 2);
    pair.pixels = one.pixels;
    const HeatmapChannelAugmenter augmenter(options.augment);
    CHECK(same_bits(embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps), expected));
    CHECK(
        same_bits(embed_texts(pair, toy.dataset.text), one.text->forward(toy.dataset.text.ids, toy.dataset.text.end)));
    {
      const at::AutoGradMode with_gradients(true);
      TrainingHistory history;
      train_encoders(pair, toy.dataset, options, {}, &history);
      REQUIRE(history.finished);
      const auto epoch_mean = [](auto first) { return (first[0] + first[1] + first[2]) / 3; };
      CHECK(epoch_mean(history.loss.end() - 3) < epoch_mean(history.loss.begin()));
    }
    // The copies learnt to use the maps; the checkpoint's own towers are as they were.
    const at::Tensor maps = pair.image->first_layer_weight().narrow(1, 3, 2);
    CHECK(maps.abs().max().item<double>() > 0);
    CHECK_FALSE(pair.image->is_training());
    CHECK(one.image->options().extra_channels == 0);
    CHECK(same_bits(one.image->forward(seen), expected));
  }
  options.augment.mode = ChannelMode::kAdd;
  const EncoderPair both = make_encoders(clip.first, clip.second, options, 2);
  const auto weights = weights_of(both);
  for (const auto& [name, value] : weights)
    if (name.rfind("heatmap.", 0) == 0) CHECK(same_bits(value, weights.at("image." + name.substr(8))));
  options.augment.mode = ChannelMode::kAppend;
  CHECK(mentions(caught([&] { make_encoders(make_encoders(options, 2).image, words, options, 3); }), "extra_channels"));
  TextEncoderOptions narrow = options.text;
  narrow.embed_dim = 8;
  CHECK(mentions(caught([&] { make_encoders(clip.first, TextEncoder(narrow, 1), options, 2); }), "embed_dim"));
}
