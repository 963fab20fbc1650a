// Embeddings by trained encoders: the state that towers are in, and what is refused.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "daug/core/error.h"
#include "daug/train/encoder_trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "train/toy_encoders.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("embeddings are those of eval() whichever image tower is in training", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAdd);
  options.image.kind = ImageEncoderKind::kResNet;  // batch norm, whose statistics of a batch are others
  options.image.resnet.blocks = {1, 1, 1, 1};
  options.image.resnet.base_width = 8;
  EncoderPair pair = make_encoders(options, 2);
  const HeatmapChannelAugmenter augmenter(options.augment);
  const auto embedded = [&](std::int64_t batch_size) {
    return embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps, batch_size);
  };
  pair.as_module()->eval();
  const at::Tensor expected = [&] {
    const at::NoGradGuard no_grad;
    return (pair.image->forward(toy.dataset.images) + pair.heatmap->forward(toy.dataset.maps.narrow(1, 0, 1))) / 2;
  }();
  const double rounding = 1e-5 * (1 + expected.abs().max().item<double>());
  for (const bool image : {false, true})
    for (const bool heatmap : {false, true}) {
      INFO("image tower in training: " << image << ", heatmap tower: " << heatmap);
      pair.image->train(image);
      pair.heatmap->train(heatmap);
      const auto before = weights_of(pair);
      CHECK(largest_difference(embedded(64), expected) < rounding);
      CHECK(largest_difference(embedded(5), expected) < rounding);
      CHECK(pair.image->is_training() == image);
      CHECK(pair.heatmap->is_training() == heatmap);
      CHECK_FALSE(pair.text->is_training());
      for (const auto& [name, value] : weights_of(pair)) {  // running statistics are among them
        INFO(name);
        CHECK(same_bits(value, before.at(name)));
      }
    }
}

TEST_CASE("a batch of nothing is refused, not waited for", "[encoder_trainer]") {
  const ToyCohort toy;
  const auto options = small(ChannelMode::kAppend);
  const EncoderPair pair = make_encoders(options, 2);
  const HeatmapChannelAugmenter augmenter(options.augment);
  for (const std::int64_t batch_size : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
    INFO(batch_size);
    for (const Error& error :
         {caught([&] { embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps, batch_size); }),
          caught([&] { embed_texts(pair, toy.dataset.text, batch_size); })}) {
      CHECK(error.code() == ErrorCode::kInvalidArgument);
      CHECK(mentions(error, "daug::embed_", "batch_size", "at least 1", "got " + std::to_string(batch_size)));
    }
  }
  CHECK(embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps, 1).size(0) == 24);
  CHECK(embed_texts(pair, toy.dataset.text, 1).size(0) == 24);
}

TEST_CASE("a channel mode that does not go with the towers is refused", "[encoder_trainer]") {
  const ToyCohort toy;
  for (const auto& [made, asked] : {std::pair{ChannelMode::kAdd, ChannelMode::kNone},
                                    {ChannelMode::kAdd, ChannelMode::kChannel},
                                    {ChannelMode::kNone, ChannelMode::kAdd},
                                    {ChannelMode::kChannel, ChannelMode::kAdd}}) {
    INFO(static_cast<int>(made) << " as " << static_cast<int>(asked));
    const EncoderPair pair = make_encoders(small(made), 2);
    const auto options = small(asked);
    for (const Error& error : {caught([&] {
                                 embed_images(pair, HeatmapChannelAugmenter(options.augment), toy.dataset.images,
                                              toy.dataset.maps);
                               }),
                               caught([&] { train_encoders(pair, toy.dataset, options); })}) {
      CHECK(error.code() == ErrorCode::kMismatch);
      CHECK(mentions(error, "heatmap tower"));
    }
  }
}
