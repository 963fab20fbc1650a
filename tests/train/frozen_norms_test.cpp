// What freezing a tower leaves of its batch norms.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <string>

#include "daug/train/encoder_trainer.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a frozen tower keeps its running statistics and embeds by them in training", "[encoder_trainer]") {
  ToyCohort toy;
  // A DenseNet takes no smaller ones.
  toy.dataset.images = toy.dataset.images.repeat({1, 1, 2, 2});
  toy.dataset.maps = toy.dataset.maps.repeat({1, 1, 2, 2});
  for (const auto kind : {ImageEncoderKind::kResNet, ImageEncoderKind::kDenseNet}) {
    INFO("kind " << static_cast<int>(kind));
    auto options = small(ChannelMode::kNone, 1);
    options.image.kind = kind;
    options.image.image_size = 32;
    options.image.resnet.blocks = {1, 1, 1, 1};
    options.image.densenet.layers = {1, 1, 1, 1};
    options.image.densenet.growth = 8;  // few channels would all be 0 for some image
    options.image.resnet.base_width = 8;
    options.image.densenet.base_width = 32;
    const EncoderPair pair = train_encoders(toy.dataset, options);  // whose statistics are those of something
    const HeatmapChannelAugmenter augmenter(options.augment);
    const auto embedded = [&] { return embed_images(pair, augmenter, toy.dataset.images, {}); };
    const auto before = weights_of(pair);
    const at::Tensor embedding = embedded();

    options.optimizer.freeze = {"image.*"};
    options.optimizer.ema_decay = 0.5;
    train_encoders(pair, toy.dataset, options, {}, nullptr, &toy.dataset);
    int counted = 0;
    bool moved = false;
    for (const auto& [name, value] : weights_of(pair)) {
      INFO(name);
      const bool same = same_bits(value, before.at(name));
      if (name.rfind("image.", 0) == 0)
        CHECK(same);
      else
        moved = moved || !same;
      if (name.ends_with("running_mean")) counted += value.abs().max().item<double>() > 1e-4 ? 1 : 0;
    }
    CHECK(moved);
    CHECK(counted > 5);
    CHECK(same_bits(embedded(), embedding));
    // A pass of training is one of use.
    const at::NoGradGuard no_grad;
    ImageEncoder tower = pair.image;
    const at::Tensor used = tower->forward(toy.dataset.images);
    tower->train();
    CHECK(same_bits(tower->forward(toy.dataset.images), used));
  }
}

TEST_CASE("a batch norm counts on unless its weight and its bias are frozen", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kNone, 1);
  options.image.kind = ImageEncoderKind::kResNet;
  options.image.resnet.blocks = {1, 1, 1, 1};
  options.image.resnet.base_width = 8;
  options.optimizer.freeze = {"*.layer2.*", "*.bn1.weight"};
  const auto before = weights_of(make_encoders(options, 0));
  int kept = 0, changed = 0;
  for (const auto& [name, value] : weights_of(train_encoders(toy.dataset, options))) {
    if (name.find(".running_") == std::string::npos) continue;
    INFO(name);
    const bool frozen = name.find(".layer2.") != std::string::npos;
    CHECK(same_bits(value, before.at(name)) == frozen);
    ++(frozen ? kept : changed);
  }
  CHECK(kept == 6);  // two norms and that of the skip
  CHECK(changed > 10);
}
