#include "daug/train/gradient_cache.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "daug/train/parameter_groups.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "train/encoder_pair.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Two small towers of two layers, one input that is learnt too, and the loss over their embeddings.
struct Towers {
  at::Tensor images = random_tensor({10, 6}, 1), texts = random_tensor({10, 4}, 2);
  at::Tensor labels = (random_tensor({10, 3}, 3) > 0).to(at::kLong);
  std::vector<at::Tensor> parameters = {random_tensor({6, 7}, 4), random_tensor({7, 5}, 5),
                                        random_tensor({4, 7}, 6), random_tensor({7, 5}, 7),
                                        random_tensor({3, 5}, 8), at::tensor({1.5}, at::kDouble)};
  int embedded = 0;  ///< calls of a tower

  Towers() {
    for (const auto& parameter : parameters) parameter.requires_grad_(true);
  }

  at::Tensor loss(std::int64_t chunk_size) {
    const auto tower = [this, chunk_size](const at::Tensor& inputs, std::size_t first) {
      return embed_in_chunks(
          inputs.size(0), chunk_size,
          [this, inputs, first](std::int64_t begin, std::int64_t count) {
            ++embedded;
            return inputs.narrow(0, begin, count).matmul(parameters[first]).tanh().matmul(parameters[first + 1]);
          },
          parameters);
    };
    HybridLossInputs in;
    in.image = tower(images, 0), in.text = tower(texts, 2);
    in.class_prompts = parameters[4], in.labels = labels, in.logit_scale = parameters[5];
    return hybrid_contrastive_loss(in, {}).total;
  }

  std::vector<at::Tensor> gradients(std::int64_t chunk_size, double* value) {
    for (const auto& parameter : parameters) parameter.mutable_grad() = at::Tensor();
    const at::Tensor total = loss(chunk_size);
    *value = total.item<double>();
    total.backward();
    std::vector<at::Tensor> result;
    for (const auto& parameter : parameters) result.push_back(parameter.grad().clone());
    return result;
  }
};

}  // namespace

TEST_CASE("chunks of any size give the gradient of the whole batch", "[train][gradient_cache]") {
  Towers towers;
  double whole = 0;
  const auto expected = towers.gradients(0, &whole);
  CHECK(towers.embedded == 2);
  for (const std::int64_t chunk : {1, 2, 3, 7, 9, 10, 100}) {
    towers.embedded = 0;
    double value = 0;
    const auto actual = towers.gradients(chunk, &value);
    INFO("chunk " << chunk);
    CHECK(value == Approx(whole).epsilon(1e-13));
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK((actual[i] - expected[i]).abs().max().item<double>() <=
            1e-12 * (1 + expected[i].abs().max().item<double>()));
    // Every chunk of both towers twice, where there are chunks.
    CHECK(towers.embedded == (chunk >= 10 ? 2 : 4 * ((10 + chunk - 1) / chunk)));
  }
}

namespace {

/// The encoders of a training in float64, embedded as the trainer does, with all that it draws at random; numbers that
/// start as 0 or 1 are moved away, so that every parameter has a gradient.
struct EmbeddedTowers {
  static constexpr std::int64_t kItems = 10;
  ToyCohort toy{kItems};
  EncoderTrainerOptions options;
  EncoderPair pair;
  std::shared_ptr<torch::nn::Module> module;
  std::uint64_t seed = 3;

  EmbeddedTowers(ImageEncoderKind kind, ChannelMode mode) : options(small(mode)) {
    options.image.kind = kind;
    options.image.vit.width = 16, options.image.vit.depth = 2, options.image.vit.mlp_width = 32;
    options.image.resnet.blocks = {1, 1, 1, 1};
    options.image.resnet.base_width = 8;
    options.image.drop_path = 0.2;
    if (mode == ChannelMode::kAppend) options.image.extra.gates = true, options.image.extra.dropout = 0.3;
    options.learn_logit_scale = options.learn_class_bias = true;
    pair = make_encoders(options, 2, 2);
    module = pair.as_module();
    module->to(at::kDouble);
    module->train();
    const at::NoGradGuard no_grad;
    std::uint64_t draw = 100;
    for (auto& item : module->named_parameters())
      item.value().add_(0.1 * random_tensor(item.value().sizes().vec(), ++draw));
    for (auto& item : module->named_buffers()) {
      const at::Tensor noise = random_tensor(item.value().sizes().vec(), ++draw);
      if (item.key().ends_with("running_mean")) item.value().copy_(0.1 * noise);
      if (item.key().ends_with("running_var")) item.value().copy_(0.5 + noise.abs());
    }
    toy.dataset.images = toy.dataset.images.to(at::kDouble), toy.dataset.maps = toy.dataset.maps.to(at::kDouble);
    toy.dataset.text_mask[2] = 0;
  }

  at::Tensor loss(std::int64_t chunk_size) {
    const EncoderDataset& d = toy.dataset;
    std::vector<at::Tensor> leaves;
    for (const auto& parameter : module->parameters())
      if (parameter.requires_grad()) leaves.push_back(parameter);
    HybridLossInputs in;
    in.image = embed_in_chunks(
        kItems, chunk_size, [this](std::int64_t begin, std::int64_t count) { return images(begin, count); }, leaves);
    in.text = embed_in_chunks(
        kItems, chunk_size, [this](std::int64_t begin, std::int64_t count) { return texts(begin, count); }, leaves);
    in.class_prompts = pair.text->forward(d.prompts.ids, d.prompts.end);
    in.labels = d.labels, in.label_mask = d.label_mask, in.text_mask = d.text_mask;
    in.logit_scale = pair.logit_scale, in.class_bias = pair.class_bias;
    return hybrid_contrastive_loss(in, options.loss).total;
  }

  /// Of every parameter that is trained.
  std::map<std::string, at::Tensor> gradients(std::int64_t chunk_size) {
    module->zero_grad();
    loss(chunk_size).backward();
    std::map<std::string, at::Tensor> found;
    for (const auto& item : module->named_parameters())
      if (item.value().requires_grad()) found[item.key()] = item.value().grad().clone();
    return found;
  }

 private:
  at::Tensor images(std::int64_t begin, std::int64_t count) {
    std::vector<std::uint64_t> items;
    for (std::int64_t i = begin; i < begin + count; ++i) items.push_back(static_cast<std::uint64_t>(i));
    return daug::detail::embed(pair, HeatmapChannelAugmenter(options.augment),
                               toy.dataset.images.narrow(0, begin, count), toy.dataset.maps.narrow(0, begin, count),
                               &items, seed);
  }

  at::Tensor texts(std::int64_t begin, std::int64_t count) {
    const TextBatch& text = toy.dataset.text;
    return pair.text->forward(text.ids.narrow(0, begin, count), text.end.narrow(0, begin, count));
  }
};

/// The largest difference of any parameter's gradient, relative to its largest number. A bias of keys adds the same to
/// all scores of a row, so its gradient is 0 but for rounding: relative to the largest of all parameters.
double largest_relative_error(const std::map<std::string, at::Tensor>& actual,
                              const std::map<std::string, at::Tensor>& expected) {
  REQUIRE(actual.size() == expected.size());
  double of_all = 0, worst = 0;
  const auto largest = [](const at::Tensor& tensor) { return tensor.abs().max().item<double>(); };
  for (const auto& [name, gradient] : expected) of_all = std::max(of_all, largest(gradient));
  for (const auto& [name, gradient] : expected) {
    INFO(name);
    const bool keys = name.ends_with("k_proj.bias");
    CHECK((keys || largest(gradient) > 1e-9 * of_all));
    const double error = largest(actual.at(name) - gradient) / (keys ? of_all : largest(gradient));
    CHECK_FALSE(std::isnan(error));  // std::max would pass over it
    worst = std::max(worst, error);
  }
  return worst;
}

}  // namespace

TEST_CASE("chunks give encoders the gradient of the whole batch", "[train][gradient_cache]") {
  for (const auto kind : {ImageEncoderKind::kConv, ImageEncoderKind::kViT, ImageEncoderKind::kResNet})
    for (const auto mode : {ChannelMode::kAppend, ChannelMode::kAdd})
      for (const bool frozen : {false, true}) {
        const bool norms = kind == ImageEncoderKind::kResNet;  // which use their running statistics in two ways
        if (frozen && !norms) continue;
        INFO("kind " << static_cast<int>(kind) << " mode " << static_cast<int>(mode) << " frozen " << frozen);
        EmbeddedTowers towers(kind, mode);
        if (frozen)
          freeze_parameters(*towers.module, {"*.bn*", "*.downsample.1.*"});
        else if (norms)
          towers.module->eval();
        const auto whole = towers.gradients(0);
        CHECK(whole.size() > 20);
        for (const std::int64_t chunk : {1, 3, 7}) {
          INFO("chunk " << chunk);
          CHECK(largest_relative_error(towers.gradients(chunk), whole) <= 1e-9);
        }
        // Something was drawn at random.
        const double drawn = towers.loss(0).item<double>();
        towers.seed = 4;
        CHECK(towers.loss(0).item<double>() != drawn);
      }
}

TEST_CASE("batch norm that is trained sees a chunk, and gives another gradient", "[train][gradient_cache]") {
  EmbeddedTowers towers(ImageEncoderKind::kResNet, ChannelMode::kAppend);
  const auto whole = towers.gradients(0);
  CHECK(largest_relative_error(towers.gradients(5), whole) > 1e-3);
}

TEST_CASE("without gradients chunks are embedded once, and bad arguments are named", "[train][gradient_cache]") {
  Towers towers;
  {
    const at::NoGradGuard no_grad;
    CHECK_FALSE(towers.loss(3).requires_grad());
  }
  CHECK(towers.embedded == 8);
  const auto rows = [](std::int64_t, std::int64_t count) { return at::zeros({count, 2}); };
  const auto one = [](std::int64_t, std::int64_t) { return at::zeros({1, 2}); };
  CHECK_THROWS_AS(embed_in_chunks(0, 1, rows, {}), Error);
  CHECK_THROWS_AS(embed_in_chunks(3, -1, rows, {}), Error);
  CHECK_THROWS_WITH(embed_in_chunks(4, 2, one, {}), contains_text("embed"));
}
