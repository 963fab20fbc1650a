#include "daug/train/parameter_groups.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "daug/train/trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "train/toy_training.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// What the names of a tower's parts begin with, part by part from its input to its output.
using TowerParts = std::vector<std::vector<std::string>>;

/// Checks that every parameter of a network belongs to one part of one of its towers, that none of these is empty, and
/// that a parameter's rate falls by a half with every part that stands between it and its tower's output.
void check_rates(const torch::nn::Module& network, const std::vector<TowerParts>& towers) {
  std::vector<std::string> names;
  for (const auto& item : network.named_parameters()) names.push_back(item.key());
  const auto scales = layer_rate_scales(names, 0.5);
  REQUIRE(scales.size() == names.size());
  std::map<std::string, int> met;
  for (std::size_t i = 0; i < names.size(); ++i) {
    INFO(names[i]);
    std::vector<double> wanted;
    for (const auto& parts : towers)
      for (std::size_t part = 0; part < parts.size(); ++part)
        for (const auto& beginning : parts[part])
          if (names[i].starts_with(beginning)) {
            wanted.push_back(std::pow(0.5, static_cast<double>(parts.size() - 1 - part)));
            ++met[beginning];
          }
    CHECK(wanted == std::vector<double>{scales[i]});
  }
  for (const auto& parts : towers)
    for (const auto& part : parts)
      for (const auto& beginning : part) {
        INFO(beginning);
        CHECK(met[beginning] > 0);
      }
}

/// A chain of numbered blocks between input and output.
TowerParts tower_parts(std::vector<std::string> input, const std::string& block, int blocks,
                       std::vector<std::string> output) {
  TowerParts parts = {std::move(input)};
  for (int i = 0; i < blocks; ++i) parts.push_back({block + std::to_string(i) + "."});
  parts.push_back(std::move(output));
  return parts;
}

}  // namespace

TEST_CASE("frozen parameters stay as they are, and a pattern has to fit", "[trainer]") {
  const RegressionProblem problem;
  auto options = rich_options(6);
  options.ema_decay = 0.5;
  for (const char* pattern : {"bias", "b*", "?ias", "[ab]ias"}) {
    INFO(pattern);
    options.freeze = {pattern};
    const auto replicas = regressions(2);
    const auto before = weights_of(*replicas[0]);
    Trainer trainer(modules(replicas), options);
    trainer.run(problem.loss(replicas));
    trainer.use_averaged_weights();
    CHECK_FALSE(same_bits(replicas[0]->weight.detach(), before[0]));
    for (const auto& replica : replicas) CHECK(same_bits(replica->bias.detach(), before[1]));
  }
  const auto refused = [&](std::vector<std::string> patterns) {
    options.freeze = std::move(patterns);
    const auto replicas = regressions(1);
    const Error error = caught([&] { Trainer(modules(replicas), options); });
    CHECK(replicas[0]->weight.requires_grad() == !mentions(error, "is trained"));
    return error;
  };
  CHECK(mentions(refused({"w*", "weights"}), "'weights'"));
  CHECK(mentions(refused({"Bias"}), "'Bias'"));
  CHECK(mentions(refused({"*"}), "is trained"));
}

TEST_CASE("learning rates decay by depth, as the formula says", "[trainer]") {
  // A weight's exponent, counted by hand, in several towers.
  const std::vector<std::pair<std::string, int>> places = {
      {"image.vision_model.embeddings.patch_embedding.weight", 4},
      {"image.vision_model.embeddings.patch_embedding.extra_weight", 0},
      {"image.vision_model.embeddings.patch_embedding.extra_gate", 0},
      {"image.vision_model.embeddings.class_embedding", 4},
      {"image.vision_model.pre_layrnorm.weight", 4},
      {"image.vision_model.encoder.layers.0.self_attn.q_proj.weight", 3},
      {"image.vision_model.encoder.layers.2.layer_norm1.bias", 1},
      {"image.vision_model.post_layernorm.weight", 0},
      {"image.visual_projection.weight", 0},
      {"text.text_model.embeddings.token_embedding.weight", 2},
      {"text.text_model.encoder.layers.0.mlp.fc1.weight", 1},
      {"text.text_model.final_layer_norm.weight", 0},
      {"conv.stem.weight", 3},
      {"conv.blocks.0.conv1.weight", 2},
      {"conv.blocks.1.norm2.weight", 1},
      {"conv.pool.position_embedding.weight", 0},
      {"resnet.conv1.weight", 5},
      {"resnet.bn1.bias", 5},
      {"resnet.layer1.0.conv1.weight", 4},
      {"resnet.layer4.1.bn2.weight", 1},
      {"resnet.fc.weight", 0},
      {"densenet.features.conv0.weight", 3},
      {"densenet.features.denseblock1.denselayer2.conv1.weight", 2},
      {"densenet.features.transition1.conv.weight", 2},
      {"densenet.features.denseblock2.denselayer1.norm1.weight", 1},
      {"densenet.features.norm5.weight", 0},
      {"layer1.0.conv1.weight", 1},
      {"conv1.weight", 2},
  };
  std::vector<std::string> names;
  for (const auto& [name, exponent] : places) names.push_back(name);
  const auto scales = layer_rate_scales(names, 0.5);
  for (std::size_t i = 0; i < places.size(); ++i) {
    INFO(places[i].first);
    CHECK(scales[i] == std::pow(0.5, places[i].second));
  }
  for (const double scale : layer_rate_scales(names, 1)) CHECK(scale == 1);
  CHECK(layer_rate_scales({"weight", "bias"}, 1) == std::vector<double>{1, 1});
  CHECK_THROWS_WITH(layer_rate_scales({"weight", "bias"}, 0.9), contains_text("blocks"));
  CHECK_THROWS_WITH(layer_rate_scales(names, 0), contains_text("decay"));

  // Without moments AdamW moves a weight by its learning rate.
  struct Blocks : torch::nn::Module {
    Blocks() {
      for (const char* name : {"stem", "blocks", "head"}) register_module(name, std::make_shared<Regression>());
      const auto blocks = children()[1];
      for (const char* name : {"0", "1"}) blocks->register_module(name, std::make_shared<Regression>());
    }
  };
  TrainerOptions options;
  options.steps = 1;
  options.learning_rate = 0.1;
  options.warmup_steps = 0;
  options.weight_decay = 0;
  options.beta1 = options.beta2 = 0;
  options.epsilon = 1e-300;
  options.layer_decay = 0.3;
  const auto network = std::make_shared<Blocks>();
  std::map<std::string, at::Tensor> before;
  for (const auto& item : network->named_parameters()) before[item.key()] = item.value().detach().clone();
  Trainer({network}, options).run([&](std::size_t, std::int64_t) {
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const auto& parameter : network->parameters()) sum = sum + parameter.sum();
    return sum;
  });
  const std::map<std::string, int> exponents = {{"stem", 3}, {"blocks.0", 2}, {"blocks.1", 1}, {"head", 0}};
  for (const auto& item : network->named_parameters()) {
    const auto found = exponents.find(item.key().substr(0, item.key().rfind('.')));
    if (found == exponents.end()) continue;  // the container's own
    INFO(item.key());
    const at::Tensor moved = before[item.key()] - item.value().detach();
    CHECK(largest_difference(moved, at::full_like(moved, 0.1 * std::pow(0.3, found->second))) < 1e-12);
  }
}

TEST_CASE("learning rates rise from the input to the output of every network", "[trainer]") {
  const std::string tower = "vision_model.", projection = "visual_projection.";
  ImageEncoderOptions options;
  options.kind = ImageEncoderKind::kViT;
  options.vit.patch_bias = true;
  options.vit.pooling = VitPooling::kAttention;
  const ImageEncoder vit(options, LoadedLater{});
  check_rates(*vit, {tower_parts({tower + "embeddings.", tower + "pre_layrnorm."}, tower + "encoder.layers.", 4,
                                 {tower + "post_layernorm.", tower + "head.", projection})});

  options.kind = ImageEncoderKind::kConv;
  options.conv.blocks = 2;
  options.conv.pooling = ImagePooling::kAttention;
  const ImageEncoder conv(options, LoadedLater{});
  check_rates(*conv,
              {tower_parts({tower + "stem."}, tower + "blocks.", 4, {tower + "norm.", tower + "pool.", projection})});

  options.kind = ImageEncoderKind::kResNet;
  options.resnet = ResNetTowerOptions::of_depth(18);
  options.resnet.pooling = ImagePooling::kAttention;
  const ImageEncoder resnet(options, LoadedLater{});
  check_rates(*resnet, {{{tower + "conv1.", tower + "bn1."},
                         {tower + "layer1."},
                         {tower + "layer2."},
                         {tower + "layer3."},
                         {tower + "layer4."},
                         {tower + "pool.", projection}}});

  options.kind = ImageEncoderKind::kDenseNet;
  options.densenet = DenseNetTowerOptions::of_depth(121);
  const ImageEncoder densenet(options, LoadedLater{});
  const std::string features = tower + "features.";
  check_rates(*densenet, {{{features + "conv0.", features + "norm0."},
                           {features + "denseblock1.", features + "transition1."},
                           {features + "denseblock2.", features + "transition2."},
                           {features + "denseblock3.", features + "transition3."},
                           {features + "denseblock4."},
                           {features + "norm5.", projection}}});

  // Towers of one network count for themselves.
  TextEncoderOptions words;
  words.depth = 3;
  torch::nn::Module pair;
  pair.register_module("image", vit);
  pair.register_module("text", TextEncoder(words, LoadedLater{}));
  check_rates(
      pair,
      {tower_parts({"image.vision_model.embeddings.", "image.vision_model.pre_layrnorm."},
                   "image.vision_model.encoder.layers.", 4,
                   {"image.vision_model.post_layernorm.", "image.vision_model.head.", "image.visual_projection."}),
       tower_parts({"text.text_model.embeddings."}, "text.text_model.encoder.layers.", 3,
                   {"text.text_model.final_layer_norm.", "text.text_projection."})});
}
