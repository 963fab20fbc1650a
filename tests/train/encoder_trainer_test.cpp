#include "daug/train/encoder_trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include "daug/core/error.h"
#include "kernels/device.h"
#include "kernels/instruction_set.h"
#include "loss/seen_tiles.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "train/encoder_pair.h"
#include "train/stop_after.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("encoders learn a toy cohort in every channel mode", "[encoder_trainer]") {
  const ToyCohort toy;
  for (const char* name : {"none", "append", "channel", "add"}) {
    INFO(name);
    auto options = small(channel_mode(name), 20);
    options.augment.map_index = 1;
    TrainingHistory history;
    const EncoderPair pair = train_encoders(toy.dataset, options, {}, &history);
    CHECK(history.finished);
    REQUIRE(history.loss.size() == 60);
    CHECK(history.loss.back() < 0.7F * history.loss.front());
    CHECK(pair.heatmap.is_empty() == (std::string(name) != "add"));

    const HeatmapChannelAugmenter augmenter(options.augment);
    const at::Tensor images = embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps);
    REQUIRE(images.sizes() == at::IntArrayRef({24, 16}));
    const at::Tensor probabilities = class_probabilities(images, embed_texts(pair, toy.dataset.prompts), options.loss);
    const at::Tensor right = (probabilities > 0.5).eq(toy.dataset.labels > 0.5).to(at::kFloat).mean(0);
    // `channel` put the map of the second finding in the image's place: nothing can be asked of it about the first.
    CHECK(right[1].item<double>() >= 0.9);
    if (std::string(name) != "channel") CHECK(right[0].item<double>() >= 0.9);
    CHECK(largest_difference(embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps, 5), images) < 1e-5);
  }
}

TEST_CASE("the heatmap tower of `add` is averaged in, and trains", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAdd, 4);
  options.augment.map_index = 1;
  const EncoderPair before = make_encoders(options, 2), after = train_encoders(toy.dataset, options);
  const auto start = weights_of(before), end = weights_of(after);
  REQUIRE(start.size() == end.size());
  int heatmap_weights = 0;
  for (const auto& [name, value] : start) {
    INFO(name);
    if (name.rfind("heatmap.", 0) != 0) continue;
    ++heatmap_weights;
    REQUIRE(start.count("image." + name.substr(8)) == 1);
    if (value.dim() > 1) CHECK_FALSE(same_bits(value, end.at(name)));
    if (value.dim() > 1) CHECK_FALSE(same_bits(value, start.at("image." + name.substr(8))));
  }
  CHECK(heatmap_weights > 5);
  const HeatmapChannelAugmenter augmenter(options.augment);
  EncoderPair pair = after;
  const at::Tensor mean =
      (pair.image->forward(toy.dataset.images) + pair.heatmap->forward(toy.dataset.maps.narrow(1, 1, 1))) / 2;
  CHECK(largest_difference(embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps), mean.detach()) < 1e-6);
}

TEST_CASE("map channels start without influence", "[encoder_trainer]") {
  const ToyCohort toy;
  const auto with = small(ChannelMode::kAppend), without = small(ChannelMode::kNone);
  const EncoderPair wide = make_encoders(with, 2), narrow = make_encoders(without, 0);
  CHECK(same_bits(embed_images(wide, HeatmapChannelAugmenter(with.augment), toy.dataset.images, toy.dataset.maps),
                  embed_images(narrow, HeatmapChannelAugmenter(without.augment), toy.dataset.images, {})));
}

TEST_CASE("networks with batch norm train, resume, and embed an image the same in any batch", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 10);
  options.image.kind = ImageEncoderKind::kResNet;
  options.image.resnet.blocks = {1, 1, 1, 1};
  options.image.resnet.base_width = 8;
  options.optimizer.ema_decay = 0.9;
  TrainingHistory history;
  const EncoderPair pair = train_encoders(toy.dataset, options, {}, &history, &toy.dataset);
  CHECK(history.loss.back() < 0.8F * history.loss.front());
  CHECK_FALSE(pair.image->is_training());
  const HeatmapChannelAugmenter augmenter(options.augment);
  const auto embedded = [&](std::int64_t batch) {
    return embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps, batch);
  };
  const at::Tensor together = embedded(24);
  CHECK(largest_difference(embedded(1), together) < 1e-4);
  // Encoders in training state are put back into it, unchanged.
  const auto before = weights_of(pair);
  pair.as_module()->train();
  CHECK(same_bits(embedded(24), together));
  CHECK(pair.image->is_training());
  for (const auto& [name, value] : weights_of(pair)) CHECK(same_bits(value, before.at(name)));
  // What the best validation saw is what comes back.
  const at::Tensor scores =
      class_probabilities(together, embed_texts(pair, toy.dataset.prompts), options.loss).to(at::kDouble);
  CHECK(*std::max_element(history.validation.begin(), history.validation.end()) ==
        Approx(macro_auroc(scores, toy.dataset.labels)).epsilon(1e-12));

  const Scratch scratch;
  const std::string path = scratch.path("checkpoint");
  options.optimizer.checkpoint = path;
  train_encoders(toy.dataset, options, StopAfter(7).control, &history, &toy.dataset);
  CHECK(history.loss.size() == 7);
  CHECK(same_weights(train_encoders(toy.dataset, options, {}, nullptr, &toy.dataset), pair));
}

TEST_CASE("encoders that lose paths and maps in training work without maps", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 30);
  options.image.drop_path = 0.2;
  options.image.extra.dropout = 0.3;
  options.image.extra.gates = true;
  TrainingHistory history;
  const EncoderPair pair = train_encoders(toy.dataset, options, {}, &history);
  CHECK(same_weights(train_encoders(toy.dataset, options), pair));
  const HeatmapChannelAugmenter augmenter(options.augment);
  const at::Tensor prompts = embed_texts(pair, toy.dataset.prompts);
  for (const bool with_maps : {true, false}) {
    const at::Tensor images =
        embed_images(pair, augmenter, toy.dataset.images, with_maps ? toy.dataset.maps : at::Tensor());
    const at::Tensor right =
        (class_probabilities(images, prompts, options.loss) > 0.5).eq(toy.dataset.labels > 0.5).to(at::kFloat);
    INFO((with_maps ? "with maps" : "without maps"));
    CHECK(right.mean(0).min().item<double>() >= 0.85);
  }
  // What is drawn belongs to the items, not to the chunks they come in.
  options.epochs = 1;
  TrainingHistory whole, chunks;
  train_encoders(toy.dataset, options, {}, &whole);
  options.chunk_size = 3;
  train_encoders(toy.dataset, options, {}, &chunks);
  REQUIRE(whole.loss.size() == chunks.loss.size());
  for (std::size_t i = 0; i < whole.loss.size(); ++i) CHECK(chunks.loss[i] == Approx(whole.loss[i]).epsilon(1e-3));
  options.image.drop_path = 0;
  options.image.extra.dropout = 0;
  train_encoders(toy.dataset, options, {}, &whole);
  CHECK(whole.loss[1] != chunks.loss[1]);
  CHECK(mentions(caught([&] {
                   const EncoderPair needs_maps = make_encoders(options, 2);
                   embed_images(needs_maps, augmenter, toy.dataset.images, {});
                 }),
                 "maps"));
}

TEST_CASE("encoders train the same in chunks of a batch", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 2);
  TrainingHistory whole, chunks;
  const auto expected = weights_of(train_encoders(toy.dataset, options, {}, &whole));
  options.chunk_size = 3;
  const auto actual = weights_of(train_encoders(toy.dataset, options, {}, &chunks));
  REQUIRE(whole.loss.size() == chunks.loss.size());
  for (std::size_t i = 0; i < whole.loss.size(); ++i) CHECK(chunks.loss[i] == Approx(whole.loss[i]).epsilon(1e-3));
  for (const auto& [name, value] : expected) {
    INFO(name);
    // Attention does not depend on the keys' bias: its gradient is rounding alone, which Adam scales up to full steps.
    if (name.find("k_proj.bias") == std::string::npos) CHECK(largest_difference(actual.at(name), value) < 2e-3);
  }
  options.chunk_size = -1;
  CHECK(mentions(caught([&] { train_encoders(toy.dataset, options); }), "chunk_size"));
}

TEST_CASE("bfloat16 trains, and auto takes it only where the processor has it", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 3);
  TrainingHistory full, half;
  const EncoderPair single = train_encoders(toy.dataset, options, {}, &full);
  options.precision = TrainingPrecision::kAuto;
  const EncoderPair automatic = train_encoders(toy.dataset, options);
  for (const std::int64_t chunk : {0, 3}) {
    options.precision = TrainingPrecision::kBfloat16;
    options.chunk_size = chunk;
    const EncoderPair reduced = train_encoders(toy.dataset, options, {}, &half);
    for (const auto& [name, value] : weights_of(reduced)) CHECK(value.scalar_type() == at::kFloat);
    CHECK_FALSE(same_weights(reduced, single));
    REQUIRE(half.loss.size() == full.loss.size());
    CHECK(half.loss[0] != full.loss[0]);
    // Eight bits of mantissa, on a loss of about 2.
    for (std::size_t i = 0; i < full.loss.size(); ++i) CHECK(half.loss[i] == Approx(full.loss[i]).margin(0.1));
    if (chunk == 0) CHECK(same_weights(automatic, kernels::multiplies_bfloat16() ? reduced : single));
  }
  CHECK(trains_in_bfloat16(TrainingPrecision::kAuto) == kernels::multiplies_bfloat16());
  CHECK(training_precision("auto") == TrainingPrecision::kAuto);
  CHECK(mentions(caught([] { training_precision("half"); }), "half"));
}

namespace {

/// What a short training in bfloat16 on a device brings into the tiles of its loss, in batches and in chunks.
void check_types_in_tiles(const at::Device& device, std::int64_t read_every, at::ScalarType expected) {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 3);
  options.loss.execution = Execution::kFused;
  options.optimizer.ema_decay = 0.5;
  options.optimizer.read_every = read_every;
  TrainingHistory full, half;
  train_encoders(toy.dataset, options, {}, &full);
  options.precision = TrainingPrecision::kBfloat16;
  options.device = device;
  const auto tiles = device.is_cuda() && kernels::device_kernels_compiled() ? daug::detail::device_tile_math(40, 64)
                                                                            : daug::detail::aten_tile_math(32, 48);
  for (const std::int64_t chunk : {0, 3}) {
    INFO("chunk " << chunk << ", read every " << read_every);
    options.chunk_size = chunk;
    SeenTiles seen(*tiles);
    const daug::detail::TileMathGuard guard(seen);
    train_encoders(toy.dataset, options, {}, &half);
    CHECK(seen.types == std::set<at::ScalarType>{expected});
    CHECK(half.skipped_steps == 0);
    REQUIRE(half.loss.size() == full.loss.size());
    for (std::size_t i = 0; i < full.loss.size(); ++i) CHECK(half.loss[i] == Approx(full.loss[i]).margin(0.1));
  }
}

}  // namespace

TEST_CASE("embeddings in bfloat16 go into the loss as such on CUDA devices alone", "[encoder_trainer]") {
  const at::Device cuda(at::kCUDA, 0);
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    CHECK(daug::detail::type_in_loss(type, at::kCPU) == at::kFloat);
    CHECK(daug::detail::type_in_loss(type, cuda) == (type == at::kBFloat16 ? type : at::kFloat));
  }
  for (const std::int64_t read_every : {1, 4}) check_types_in_tiles(at::kCPU, read_every, at::kFloat);
}

TEST_CASE("a training in bfloat16 on a device has its embeddings multiplied as bfloat16", "[encoder_trainer][gpu]") {
  if (no_device()) return;
  for (const std::int64_t read_every : {1, 4})
    check_types_in_tiles(at::Device(at::kCUDA, 0), read_every, at::kBFloat16);
}

TEST_CASE("a frozen tower keeps its weights while the other learns", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 2);
  const auto start = weights_of(make_encoders(options, 2));
  for (const char* tower : {"text.", "image."})
    for (const std::int64_t chunk : {0, 3}) {
      INFO(tower << " in chunks of " << chunk);
      options.optimizer.freeze = {std::string(tower) + "*"};
      options.optimizer.layer_decay = 0.8;
      options.chunk_size = chunk;
      bool moved = false;
      for (const auto& [name, value] : weights_of(train_encoders(toy.dataset, options))) {
        const bool same = same_bits(value, start.at(name));
        if (name.rfind(tower, 0) == 0)
          CHECK(same);
        else
          moved = moved || !same;
      }
      CHECK(moved);
    }
}

TEST_CASE("encoder options and data that do not fit are refused", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend);
  EncoderDataset broken = toy.dataset;
  broken.images = at::zeros({0, 1, 16, 16});
  CHECK(mentions(caught([&] { train_encoders(broken, options); }), "images"));
  options.text.embed_dim = 8;
  CHECK(mentions(caught([&] { train_encoders(toy.dataset, options); }), "embed_dim"));
  options = small(ChannelMode::kAdd);
  options.augment.map_index = 2;
  CHECK(mentions(caught([&] { train_encoders(toy.dataset, options); }), "map_index"));
  for (const auto mode : {ChannelMode::kAdd, ChannelMode::kChannel})
    for (const bool gates : {true, false}) {
      options = small(mode);
      options.image.extra.gates = gates;
      options.image.extra.dropout = gates ? 0 : 0.1;
      CHECK(mentions(caught([&] { train_encoders(toy.dataset, options); }), "image.extra"));
    }
  options = small(ChannelMode::kAppend);
  options.epochs = 0;
  CHECK(mentions(caught([&] { train_encoders(toy.dataset, options); }), "epochs"));
  options = small(ChannelMode::kAppend);
  options.text.vocab_size = 8;  // the prompts have an id 8
  const Error error = caught([&] { train_encoders(toy.dataset, options); });
  CHECK(error.code() == ErrorCode::kMismatch);
  CHECK(mentions(error, "at most 8 tokens"));
  CHECK(mentions(error, "got 9"));
  options = small(ChannelMode::kAppend);
  options.text.context_length = 2;
  CHECK(mentions(caught([&] { train_encoders(toy.dataset, options); }), "at most 2 tokens"));
}

TEST_CASE("parts of a data set that are missing or not of its images are named", "[encoder_trainer]") {
  const ToyCohort toy;
  const auto options = small(ChannelMode::kAppend);
  EncoderDataset complete = toy.dataset;
  complete.study = at::arange(24);
  const auto errors = [&](const EncoderDataset& dataset) { return caught([&] { train_encoders(dataset, options); }); };
  const auto of_validation = [&](const EncoderDataset& dataset) {
    return caught([&] { train_encoders(toy.dataset, options, {}, nullptr, &dataset); });
  };
  const std::pair<const char*, at::Tensor EncoderDataset::*> parts[] = {{"maps", &EncoderDataset::maps},
                                                                        {"labels", &EncoderDataset::labels},
                                                                        {"label_mask", &EncoderDataset::label_mask},
                                                                        {"text_mask", &EncoderDataset::text_mask},
                                                                        {"study", &EncoderDataset::study}};
  for (const auto& part : parts)
    for (const std::int64_t rows : {23, 25}) {
      const std::string name = part.first;
      INFO(name << " of " << rows << " rows");
      EncoderDataset other = complete;
      other.*part.second = at::cat({complete.*part.second, complete.*part.second}).narrow(0, 0, rows);
      const Error error = errors(other);
      CHECK(error.code() == ErrorCode::kMismatch);
      CHECK(mentions(error, ": " + name + ": expected 24 rows", "[" + std::to_string(rows)));
      if (name == "text_mask" || name == "study") continue;  // which a validation does not read
      const Error validation = of_validation(other);
      CHECK(validation.code() == ErrorCode::kMismatch);
      CHECK(mentions(validation, "validation." + name + ": expected 24 rows"));
    }
  EncoderDataset other = complete;
  other.text.end = complete.text.end.narrow(0, 0, 23);
  CHECK(mentions(errors(other), "text.end: expected 24 rows"));
  for (const bool ids : {true, false}) {
    other = complete;
    (ids ? other.text.ids : other.text.end) = at::Tensor();
    CHECK(mentions(errors(other), ": text: expected ids and ends"));
    other = complete;
    (ids ? other.prompts.ids : other.prompts.end) = at::Tensor();
    CHECK(mentions(errors(other), ": prompts: expected ids and ends"));
    CHECK(mentions(of_validation(other), "validation.prompts: expected ids and ends"));
  }
  other = complete;
  other.labels = at::Tensor();
  CHECK(errors(other).code() == ErrorCode::kInvalidArgument);
  CHECK(mentions(of_validation(other), "validation.labels: expected a tensor"));
}

TEST_CASE("an uncertain label of a validation is an unknown one", "[encoder_trainer]") {
  const ToyCohort toy;
  const auto options = small(ChannelMode::kAppend, 2);
  EncoderDataset unknown = toy.dataset, uncertain = toy.dataset;
  unknown.label_mask = toy.dataset.label_mask.clone();
  unknown.label_mask.slice(0, 0, 9).zero_();
  uncertain.labels = toy.dataset.labels.clone();
  uncertain.labels.slice(0, 0, 9).fill_(-1);
  TrainingHistory masked, marked, unmasked;
  train_encoders(toy.dataset, options, {}, &masked, &unknown);
  train_encoders(toy.dataset, options, {}, &marked, &uncertain);
  uncertain.label_mask = at::Tensor();  // all known but those
  train_encoders(toy.dataset, options, {}, &unmasked, &uncertain);
  REQUIRE(masked.validation.size() == 2);
  CHECK(marked.validation == masked.validation);
  CHECK(unmasked.validation == masked.validation);
}
