#include "daug/train/encoder_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "kernels/instruction_set.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "train/toy_encoders.h"
#include "translator/toys.h"

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

TEST_CASE("temperature and biases are learnt, held in range after every step, and kept with the encoders",
          "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 10);
  options.loss.contrastive_form = ContrastiveForm::kSigmoid;
  options.loss.logit_bias = -3;
  options.loss.logit_scale = 2.296875;
  options.loss.min_logit_scale = 2.28125;
  options.loss.max_logit_scale = 2.3125;
  options.learn_logit_scale = options.learn_class_bias = options.learn_logit_bias = true;
  options.optimizer.ema_decay = 0.5;
  const EncoderPair pair = make_encoders(options, 2, 2);
  int at_limit = 0;
  const RunControl control{[&](const Progress&) {
                             const double scale = pair.logit_scale.item<double>();
                             CHECK(scale >= 2.28125);
                             CHECK(scale <= 2.3125);
                             at_limit += scale == 2.28125 || scale == 2.3125 ? 1 : 0;
                           },
                           {}};
  train_encoders(pair, toy.dataset, options, control);
  CHECK(at_limit > 0);
  const auto learnt = weights_of(pair);
  const double averaged = learnt.at("logit_scale").item<double>();
  CHECK(averaged >= 2.28125);
  CHECK(averaged <= 2.3125);
  CHECK(averaged != 2.296875);
  CHECK(learnt.at("logit_bias").item<double>() != -3);
  REQUIRE(learnt.at("class_bias").sizes() == at::IntArrayRef({2}));
  CHECK(learnt.at("class_bias").ne(0).all().item<bool>());

  // Probabilities use what was learnt.
  const at::Tensor images =
      embed_images(pair, HeatmapChannelAugmenter(options.augment), toy.dataset.images, toy.dataset.maps);
  const at::Tensor prompts = embed_texts(pair, toy.dataset.prompts);
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, 1, true); };
  const at::Tensor logits =
      learnt.at("logit_scale").exp() * unit(images).matmul(unit(prompts).t()) + learnt.at("class_bias");
  CHECK(largest_difference(class_probabilities(pair, images, prompts, options.loss), logits.sigmoid()) < 1e-5);

  // Stopped and resumed, it ends the same.
  const Scratch scratch;
  const std::string path = scratch.path("checkpoint");
  auto resumed = options;
  resumed.optimizer.checkpoint = path;
  StopSource source;
  const RunControl stopping{[&](const Progress& progress) {
                              if (progress.done == 11) source.request_stop();
                            },
                            source.token()};
  train_encoders(toy.dataset, resumed, stopping);
  CHECK(same_weights(train_encoders(toy.dataset, resumed), pair));

  auto frozen = options;
  frozen.optimizer.freeze = {"logit_scale"};
  CHECK(train_encoders(toy.dataset, frozen).logit_scale.item<double>() == 2.296875);
  const auto refused = [&](const char* name, auto change) {
    auto bad = options;
    change(bad);
    CHECK(mentions(caught([&] { train_encoders(toy.dataset, bad); }), name));
  };
  refused("learn_logit_bias", [](auto& o) { o.loss.contrastive_form = ContrastiveForm::kSoftmax; });
  refused("learn_class_bias", [](auto& o) { o.loss.class_form = ClassForm::kPaired; });
  refused("logit_scale", [](auto& o) { o.loss.logit_scale = 3; });
  CHECK(mentions(caught([&] { make_encoders(options, 2); }), "findings"));
}

TEST_CASE("weights of positives, studies and kinds of pairs reach the loss", "[encoder_trainer]") {
  const ToyCohort toy;
  auto plain = small(ChannelMode::kAppend, 1);
  plain.batch_size = 24;  // one step over the whole cohort, whose order the loss does not see
  const auto first_loss = [&](const EncoderDataset& dataset, const EncoderTrainerOptions& options) {
    TrainingHistory history;
    train_encoders(dataset, options, {}, &history);
    REQUIRE(history.loss.size() == 1);
    const EncoderPair pair = make_encoders(options, 2);
    HybridLossInputs in;
    in.image = embed_images(pair, HeatmapChannelAugmenter(options.augment), dataset.images, dataset.maps);
    in.text = embed_texts(pair, dataset.text);
    in.class_prompts = embed_texts(pair, dataset.prompts);
    in.labels = dataset.labels;
    in.study = dataset.study;
    in.positive_weights = dataset.positive_weights;
    CHECK(history.loss[0] == Approx(hybrid_contrastive_loss(in, options.loss).total.item<double>()).epsilon(1e-4));
    return static_cast<double>(history.loss[0]);
  };
  const double published = first_loss(toy.dataset, plain);
  const auto changes_it = [&](const char* what, auto change) {
    INFO(what);
    EncoderDataset dataset = toy.dataset;
    auto options = plain;
    change(dataset, options);
    CHECK(std::abs(first_loss(dataset, options) - published) > 1e-3);
  };
  changes_it("weights", [](auto& d, auto&) { d.positive_weights = at::tensor({3.0, 0.5}, at::kFloat); });
  changes_it("studies", [](auto& d, auto&) { d.study = at::arange(24, at::kLong).remainder(3); });
  changes_it("masked", [](auto&, auto& o) { o.loss.label_pairs = LabelPairs::kIgnored; });
  changes_it("soft", [](auto&, auto& o) { o.loss.label_pairs = LabelPairs::kSoft; });
  changes_it("sigmoid", [](auto&, auto& o) { o.loss.contrastive_form = ContrastiveForm::kSigmoid; });
}

TEST_CASE("the last weights are to be had beside the best", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 6);
  options.optimizer.ema_decay = 0.5;
  EncoderDataset held_out = toy.dataset;
  held_out.labels = 1 - held_out.labels;  // the longer it learns, the worse
  std::map<std::string, at::Tensor> last;
  const auto keep = [&](const EncoderPair& encoders) {
    CHECK_FALSE(encoders.image->is_training());
    last = weights_of(encoders);
  };
  TrainingHistory history;
  const EncoderPair best = train_encoders(toy.dataset, options, {}, &history, &held_out, keep);
  REQUIRE(history.best_step < 18);
  const auto without = weights_of(train_encoders(toy.dataset, options));
  REQUIRE(last.size() == without.size());
  for (const auto& [name, value] : without) CHECK(same_bits(last.at(name), value));
  const EncoderPair plain = train_encoders(toy.dataset, options, {}, nullptr, nullptr, keep);
  CHECK_FALSE(same_weights(best, plain));
  for (const auto& [name, value] : weights_of(plain)) CHECK(same_bits(last.at(name), value));
  // A training that was stopped has no last weights yet.
  last.clear();
  StopSource source;
  source.request_stop();
  train_encoders(toy.dataset, options, {{}, source.token()}, nullptr, nullptr, keep);
  CHECK(last.empty());
}

TEST_CASE("encoder training repeats, and resumes bit for bit", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 4);
  options.augment.max_rotation = 10;
  const EncoderPair straight = train_encoders(toy.dataset, options);
  CHECK(same_weights(train_encoders(toy.dataset, options), straight));

  const Scratch scratch;
  const std::string path = scratch.path("checkpoint");
  options.optimizer.checkpoint = path;
  StopSource source;
  const RunControl control{[&](const Progress& progress) {
                             if (progress.done == 5) source.request_stop();
                           },
                           source.token()};
  TrainingHistory history;
  train_encoders(toy.dataset, options, control, &history);
  CHECK_FALSE(history.finished);
  CHECK(history.loss.size() == 5);
  CHECK(same_weights(train_encoders(toy.dataset, options), straight));
}

TEST_CASE("batches of encoders across epochs have no item twice, wherever a training is stopped", "[encoder_trainer]") {
  const ToyCohort toy(10);
  auto options = small(ChannelMode::kAppend, 7);
  options.batch_size = 7;
  options.optimizer.max_skipped = 11;
  // The steps with an item that is not finite are left out: as many as there are epochs.
  for (std::int64_t item = 0; item < 10; ++item) {
    INFO("item " << item);
    EncoderDataset dataset = toy.dataset;
    dataset.images = toy.dataset.images.clone();
    dataset.images[item].fill_(std::numeric_limits<float>::quiet_NaN());
    TrainingHistory history;
    train_encoders(dataset, options, {}, &history);
    REQUIRE(history.loss.size() == 10);
    CHECK(history.skipped_steps == 7);
  }
  const EncoderPair straight = train_encoders(toy.dataset, options);
  const Scratch scratch;
  for (std::int64_t steps = 1; steps < 10; ++steps) {
    INFO("stopped after " << steps << " steps");
    options.optimizer.checkpoint = scratch.path("after_" + std::to_string(steps));
    StopSource source;
    const RunControl control{[&](const Progress& progress) {
                               if (progress.done == steps) source.request_stop();
                             },
                             source.token()};
    TrainingHistory history;
    train_encoders(toy.dataset, options, control, &history);
    CHECK_FALSE(history.finished);
    CHECK(same_weights(train_encoders(toy.dataset, options), straight));
  }
}

TEST_CASE("a batch of more items than there are is all of them", "[encoder_trainer]") {
  const ToyCohort toy(10);
  auto options = small(ChannelMode::kAppend, 3);
  options.batch_size = 10;
  const EncoderPair all = train_encoders(toy.dataset, options);
  options.batch_size = 64;
  TrainingHistory history;
  CHECK(same_weights(train_encoders(toy.dataset, options, {}, &history), all));
  CHECK(history.loss.size() == 3);
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
  double macro = 0;
  for (std::int64_t f = 0; f < 2; ++f) {
    const at::Tensor present = scores.select(1, f).masked_select(toy.dataset.labels.select(1, f) > 0.5);
    const at::Tensor absent = scores.select(1, f).masked_select(toy.dataset.labels.select(1, f) < 0.5);
    const at::Tensor pairs = present.unsqueeze(1) - absent.unsqueeze(0);
    macro += (pairs.gt(0).to(at::kDouble) + 0.5 * pairs.eq(0).to(at::kDouble)).mean().item<double>() / 2;
  }
  CHECK(*std::max_element(history.validation.begin(), history.validation.end()) == Approx(macro).epsilon(1e-12));

  const Scratch scratch;
  const std::string path = scratch.path("checkpoint");
  options.optimizer.checkpoint = path;
  StopSource source;
  const RunControl control{[&](const Progress& progress) {
                             if (progress.done == 7) source.request_stop();
                           },
                           source.token()};
  train_encoders(toy.dataset, options, control, &history, &toy.dataset);
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

TEST_CASE("the encoders of the best validation are returned", "[encoder_trainer]") {
  const ToyCohort toy;
  auto options = small(ChannelMode::kAppend, 8);
  options.optimizer.ema_decay = 0.5;
  EncoderDataset held_out = toy.dataset;
  held_out.text = TextBatch();
  held_out.text_mask = at::Tensor();
  // Labels that the training set contradicts: the longer it learns, the worse.
  held_out.labels = 1 - held_out.labels;
  TrainingHistory history;
  const EncoderPair best = train_encoders(toy.dataset, options, {}, &history, &held_out);
  REQUIRE(history.validation.size() == 8);  // once an epoch of three steps
  const auto highest = std::max_element(history.validation.begin(), history.validation.end());
  CHECK(history.best_step == 3 * (highest - history.validation.begin() + 1));
  CHECK(history.validation.back() < 0.4);

  // Training up to there without validation gives the same weights, and so the figure.
  StopSource source;
  const RunControl control{[&](const Progress& progress) {
                             if (progress.done == history.best_step) source.request_stop();
                           },
                           source.token()};
  CHECK(same_weights(train_encoders(toy.dataset, options, control), best));
  const HeatmapChannelAugmenter augmenter(options.augment);
  const at::Tensor scores = class_probabilities(embed_images(best, augmenter, held_out.images, held_out.maps),
                                                embed_texts(best, held_out.prompts), options.loss);
  double macro = 0;
  for (std::int64_t f = 0; f < 2; ++f) {
    const at::Tensor present = scores.select(1, f).masked_select(held_out.labels.select(1, f) > 0.5);
    const at::Tensor absent = scores.select(1, f).masked_select(held_out.labels.select(1, f) < 0.5);
    const at::Tensor pairs = present.unsqueeze(1) - absent.unsqueeze(0);
    macro += (pairs.gt(0).to(at::kDouble) + 0.5 * pairs.eq(0).to(at::kDouble)).mean().item<double>() / 2;
  }
  CHECK(*highest == Approx(macro).epsilon(1e-12));

  options.optimizer.validate_every = 1;
  options.optimizer.patience = 2;
  train_encoders(toy.dataset, options, {}, &history, &held_out);
  CHECK(history.stopped_early);
  CHECK(history.loss.size() == static_cast<std::size_t>(history.best_step) + 2);
  held_out.label_mask = at::zeros_like(held_out.label_mask);
  CHECK(mentions(caught([&] { train_encoders(toy.dataset, options, {}, nullptr, &held_out); }), "validation"));
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
