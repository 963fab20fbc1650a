#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/io/weights.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/denoising_loss.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/guidance.h"
#include "daug/translator/noise_aware_classifier.h"
#include "daug/translator/noise_predictor.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden.h"
#include "support/memory_count.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

DenoiserUNetOptions tiny_options(std::int64_t findings = 3) {
  DenoiserUNetOptions options;
  options.image_size = 8;
  options.model_channels = 8;
  options.num_res_blocks = 1;
  options.channel_mult = {1, 2};
  options.attention_downsample = {2};
  options.norm_groups = 4;
  options.num_findings = findings;
  return options;
}

DenoiserUNet tiny_unet(const DenoiserUNetOptions& options, std::uint64_t seed = 5) {
  DenoiserUNet network(options);
  randomise(*network, seed);
  network->to(at::kDouble);
  return network;
}

NoiseAwareClassifierOptions tiny_classifier_options(ClassifierPool pool) {
  NoiseAwareClassifierOptions options;
  options.image_size = 8;
  options.model_channels = 8;
  options.num_res_blocks = 1;
  options.channel_mult = {1, 2};
  options.attention_downsample = {2};
  options.num_head_channels = 8;
  options.norm_groups = 4;
  options.use_scale_shift_norm = true;
  options.resblock_updown = true;
  options.out_channels = 3;
  options.pool = pool;
  return options;
}

at::Tensor longs(std::initializer_list<std::int64_t> values) { return at::tensor(std::vector<std::int64_t>(values)); }

at::Tensor rows(std::initializer_list<std::initializer_list<double>> values) {
  std::vector<at::Tensor> stacked;
  for (const auto& row : values) stacked.push_back(at::tensor(std::vector<double>(row), at::kDouble));
  return at::stack(stacked);
}

/// Timesteps as the set stores them: integers, or floating point where fractional.
at::Tensor golden_timesteps(const Array& array) { return tensor_from(array); }

}  // namespace

TEST_CASE("a condition adds its columns to the time embedding", "[denoiser_unet]") {
  auto network = tiny_unet(tiny_options());
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 1), t = longs({3, 700});
  const at::Tensor plain = network->forward(x, t);
  REQUIRE(plain.sizes() == x.sizes());
  CHECK(plain.abs().max().item<double>() > 0.01);
  CHECK(same_bits(network->forward(x, t, at::zeros({2, 3})), plain));

  at::NoGradGuard no_grad;
  auto parameters = parameters_of(*network);
  const at::Tensor table = parameters.at("condition_embed.weight");
  REQUIRE(table.sizes() == at::IntArrayRef({32, 6}));
  const at::Tensor bias = parameters.at("time_embed.2.bias"), original = bias.clone();
  for (std::int64_t finding = 0; finding < 3; ++finding)
    for (const double state : {1.0, -1.0}) {
      at::Tensor condition = at::zeros({2, 3});
      condition.select(1, finding).fill_(state);
      const at::Tensor conditioned = network->forward(x, t, condition);
      CHECK(largest_difference(conditioned, plain) > 1e-4);
      bias.copy_(original + table.select(1, state > 0 ? finding : 3 + finding));
      CHECK(largest_difference(network->forward(x, t), conditioned) < 1e-12);
      bias.copy_(original);
    }
}

TEST_CASE("rows of a batch do not see each other", "[denoiser_unet]") {
  auto network = tiny_unet(tiny_options());
  const at::Tensor x = random_tensor({3, 1, 8, 16}, 2), t = longs({0, 12, 999});
  const at::Tensor condition = rows({{1, 0, -1}, {0, 0, 0}, {-1, 1, 1}});
  const at::Tensor together = network->forward(x, t, condition);
  for (std::int64_t i = 0; i < 3; ++i)
    CHECK(largest_difference(network->forward(x.narrow(0, i, 1), t.narrow(0, i, 1), condition.narrow(0, i, 1)),
                             together.narrow(0, i, 1)) < 1e-12);
}

TEST_CASE("a class label adds its row to the time embedding", "[denoiser_unet]") {
  auto options = tiny_options(0);
  options.num_classes = 4;
  auto network = tiny_unet(options);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 3), t = longs({5, 5});
  const at::Tensor labelled = network->forward(x, t, longs({2, 2}));
  CHECK_THROWS_AS(network->forward(x, t), Error);
  CHECK_THROWS_AS(network->forward(x, t, longs({2})), Error);
  at::NoGradGuard no_grad;
  auto parameters = parameters_of(*network);
  const at::Tensor table = parameters.at("label_emb.weight");
  parameters.at("time_embed.2.bias").add_(table[2]);
  table[1].zero_();
  CHECK(largest_difference(network->forward(x, t, longs({1, 1})), labelled) < 1e-12);
}

TEST_CASE("wrong shapes and options are refused by name", "[denoiser_unet]") {
  auto network = tiny_unet(tiny_options());
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 1), t = longs({3, 700});
  CHECK(mentions(caught([&] { network->forward(x[0], t); }), "x: expected shape [B, 1, H, W]"));
  CHECK(mentions(caught([&] { network->forward(x.expand({2, 3, 8, 8}), t); }), "[2, 3, 8, 8]"));
  CHECK(mentions(caught([&] { network->forward(x.narrow(2, 0, 7), t); }), "multiples of 2"));
  CHECK(mentions(caught([&] { network->forward(x, longs({3})); }), "timesteps"));
  CHECK(mentions(caught([&] { network->forward(x, t.reshape({2, 1})); }), "timesteps"));
  CHECK(mentions(caught([&] { network->forward(x, t, at::zeros({2, 4})); }), "condition: expected shape [2, 3]"));
  CHECK(mentions(caught([&] { network->forward(x, t, at::zeros({1, 3})); }), "condition"));

  const auto refused = [](const char* option, const std::function<void(DenoiserUNetOptions&)>& spoil) {
    auto options = tiny_options();
    spoil(options);
    INFO(option);
    const Error error = caught([&] { DenoiserUNet{options}; });
    CHECK(error.code() == ErrorCode::kInvalidArgument);
    CHECK(mentions(error, option));
  };
  refused("image_size", [](auto& o) { o.image_size = 9; });
  refused("in_channels", [](auto& o) { o.in_channels = 0; });
  refused("model_channels", [](auto& o) { o.model_channels = 0; });
  refused("num_res_blocks", [](auto& o) { o.num_res_blocks = 0; });
  refused("channel_mult", [](auto& o) { o.channel_mult = {}; });
  refused("channel_mult", [](auto& o) { o.channel_mult = {1, -1}; });
  refused("channel_mult", [](auto& o) { o.channel_mult = {0.1, 1}; });
  refused("num_heads", [](auto& o) { o.num_heads = 3; });
  refused("num_heads_upsample", [](auto& o) { o.num_heads_upsample = 0; });
  refused("num_heads_upsample", [](auto& o) { o.num_heads_upsample = 3; });
  refused("num_head_channels", [](auto& o) { o.num_head_channels = 0; });
  refused("num_head_channels", [](auto& o) { o.num_head_channels = 12; });
  refused("num_head_channels", [](auto& o) { o.num_head_channels = 32; });
  refused("norm_groups", [](auto& o) { o.norm_groups = 3; });
  refused("patch", [](auto& o) { o.patch = 0; });
  refused("num_findings", [](auto& o) { o.num_findings = -1; });
  refused("num_classes", [](auto& o) { o.num_classes = 2; });
  refused("condition_init", [](auto& o) { o.condition_init = std::nan(""); });
}

TEST_CASE("num_heads_upsample counts the heads of the way up, and of no other", "[denoiser_unet]") {
  // Heads leave no trace in shapes: networks of the same weights, in which attention acts on one way alone.
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 3), t = longs({5, 600});
  const auto answer = [&](std::int64_t heads, std::int64_t up, bool acts_on_way_up, std::int64_t head_channels = -1) {
    auto options = tiny_options(0);
    options.num_heads = heads, options.num_heads_upsample = up, options.num_head_channels = head_channels;
    auto network = tiny_unet(options);
    at::NoGradGuard no_grad;
    for (auto& [name, parameter] : parameters_of(*network))
      if (mentions(name, "proj_out") && (name.rfind("output_blocks.", 0) == 0) != acts_on_way_up) parameter.zero_();
    return network->forward(x, t);
  };
  CHECK(same_bits(answer(1, 4, true), answer(4, -1, true)));
  CHECK(same_bits(answer(4, 1, true), answer(1, -1, true)));
  CHECK(largest_difference(answer(1, 4, true), answer(1, -1, true)) > 1e-4);
  CHECK(same_bits(answer(1, 4, false), answer(1, -1, false)));
  CHECK(largest_difference(answer(4, 1, false), answer(1, 1, false)) > 1e-4);
  CHECK(same_bits(answer(1, 2, true, 4), answer(1, -1, true, 4)));  // a head's channels decide on both ways
}

TEST_CASE("patches are pixel-unshuffled channels of a smaller image", "[denoiser_unet]") {
  auto small = tiny_options();
  small.in_channels = 4;
  small.out_channels = 8;
  auto large = tiny_options();
  large.image_size = 16;
  large.patch = 2;
  large.out_channels = 2;
  auto whole = tiny_unet(large), parts = tiny_unet(small, 77);
  SafetensorsFile weights;
  for (const auto& [name, tensor] : parameters_of(*whole)) weights.tensors.emplace(name, array_from(tensor));
  load_weights(*parts, weights, "the patched network");

  const at::Tensor x = random_tensor({2, 1, 16, 16}, 9), t = longs({40, 2});
  const at::Tensor condition = rows({{1, -1, 0}, {0, 0, 1}});
  at::Tensor unshuffled = at::empty({2, 4, 8, 8}, at::kDouble);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      unshuffled.select(1, 2 * i + j).copy_(x.select(1, 0).slice(1, i, 16, 2).slice(2, j, 16, 2));
  const at::Tensor expected = parts->forward(unshuffled, t, condition);
  const at::Tensor actual = whole->forward(x, t, condition);
  REQUIRE(actual.sizes() == at::IntArrayRef({2, 2, 16, 16}));
  for (int c = 0; c < 2; ++c)
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        CHECK(largest_difference(actual.select(1, c).slice(1, i, 16, 2).slice(2, j, 16, 2),
                                 expected.select(1, 4 * c + 2 * i + j)) < 1e-12);
  CHECK_THROWS_AS(whole->forward(x.narrow(2, 0, 14), t, condition), Error);  // 14 is not a multiple of 4
}

TEST_CASE("UNet gradients agree with finite differences", "[denoiser_unet]") {
  auto options = tiny_options(2);
  options.use_scale_shift_norm = true;
  auto network = tiny_unet(options);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 4), t = longs({9, 400}), weight = random_tensor({2, 1, 8, 8}, 6);
  const at::Tensor condition = rows({{1, 0}, {-1, 1}});
  x.requires_grad_(true);
  auto parameters = parameters_of(*network);
  check_gradients([&] { return (network->forward(x, t, condition) * weight).sum(); },
                  {x, parameters.at("condition_embed.weight"), parameters.at("time_embed.0.weight"),
                   parameters.at("middle_block.1.qkv.weight"), parameters.at("output_blocks.0.0.in_layers.2.weight")},
                  4);
}

TEST_CASE("recomputed activations change neither values nor gradients", "[denoiser_unet]") {
  const auto run = [](bool checkpoint, double dropout) {
    auto options = tiny_options();
    options.resblock_updown = true;
    options.use_checkpoint = checkpoint;
    options.dropout = dropout;
    auto network = tiny_unet(options);
    network->seed_dropout(17);
    const at::Tensor x = random_tensor({2, 1, 8, 8}, 2).requires_grad_(true);
    const at::Tensor out = network->forward(x, longs({3, 700}), rows({{1, 0, -1}, {0, 1, 0}}));
    (out * random_tensor({2, 1, 8, 8}, 3)).sum().backward();
    std::vector<at::Tensor> results = {out.detach(), x.grad()};
    for (const auto& parameter : network->parameters()) results.push_back(parameter.grad());
    return results;
  };
  for (const double dropout : {0.0, 0.4}) {
    const auto kept = run(false, dropout), recomputed = run(true, dropout);
    REQUIRE(kept.size() == recomputed.size());
    for (std::size_t i = 0; i < kept.size(); ++i) CHECK(largest_difference(kept[i], recomputed[i]) < 1e-12);
  }
  // Frozen weights: the gradient of the input alone, as classifier guidance needs it.
  auto options = tiny_options();
  options.use_checkpoint = true;
  auto network = tiny_unet(options);
  for (auto& parameter : network->parameters()) parameter.set_requires_grad(false);
  const at::Tensor x = random_tensor({1, 1, 8, 8}, 2).requires_grad_(true);
  check_gradients([&] { return network->forward(x, longs({3}), rows({{1, 0, -1}})).square().sum(); }, {x}, 4);
  at::NoGradGuard no_grad;
  CHECK_FALSE(network->forward(x, longs({3}), rows({{1, 0, -1}})).requires_grad());
}

TEST_CASE("fused and plain execution agree in float32, and with float64", "[denoiser_unet]") {
  const at::Tensor x = random_tensor({3, 1, 16, 16}, 2), t = longs({3, 700, 40});
  for (const bool scale_shift : {false, true}) {
    const auto run = [&](Execution execution, at::ScalarType type) {
      auto options = tiny_options(0);
      options.model_channels = 32;
      options.norm_groups = 8;
      options.use_scale_shift_norm = scale_shift;
      options.execution = execution;
      DenoiserUNet network(options);
      randomise(*network, 5);
      network->to(type);
      c10::InferenceMode inference;
      return network->forward(x.to(type), t).to(at::kDouble);
    };
    const at::Tensor exact = run(Execution::kReference, at::kDouble);
    const double size = exact.abs().max().item<double>();
    for (const Execution execution : {Execution::kAuto, Execution::kFused, Execution::kReference})
      CHECK(largest_difference(run(execution, at::kFloat), exact) < 1e-5 * size);
    CHECK_THROWS_AS(run(Execution::kFused, at::kDouble), Error);
  }
}

TEST_CASE("dropout draws from its own seed, and only while training", "[denoiser_unet]") {
  auto options = tiny_options();
  options.dropout = 0.5;
  auto network = tiny_unet(options);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 2), t = longs({3, 700}), condition = rows({{1, 0, 0}, {0, 1, 0}});
  const auto answers = [&](std::uint64_t seed) {
    network->seed_dropout(seed);
    return std::pair{network->forward(x, t, condition), network->forward(x, t, condition)};
  };
  const auto first = answers(1), again = answers(1), other = answers(2);
  CHECK(same_bits(first.first, again.first));
  CHECK(same_bits(first.second, again.second));
  CHECK(largest_difference(first.first, first.second) > 1e-3);
  CHECK(largest_difference(first.first, other.first) > 1e-3);
  at::manual_seed(99);
  CHECK(same_bits(answers(1).first, first.first));
  network->eval();
  auto plain = tiny_unet(tiny_options());
  CHECK(same_bits(network->forward(x, t, condition), plain->forward(x, t, condition)));
  options.dropout = 1;
  CHECK_THROWS_AS(DenoiserUNet(options), Error);
}

TEST_CASE("each kind of output is read back as the same noise", "[noise_predictor]") {
  // A network whose last convolution is its bias alone answers a constant, whatever it is shown.
  auto options = tiny_options();
  options.out_channels = 2;  // with learned variance, whose channel must be ignored
  DenoiserUNet network(options);
  network->to(at::kDouble);
  at::NoGradGuard no_grad;
  const at::Tensor bias = parameters_of(*network).at("out.2.bias");
  const auto schedule = NoiseSchedule::linear(1000).respaced(space_timesteps(1000, "ddim50"));
  const double clean = 0.4, noise = -1.3;
  for (const std::int64_t level : {0, 1, 20, 50}) {
    const double s = schedule.signal(std::max<std::int64_t>(level, 1));
    const double n = schedule.noise(std::max<std::int64_t>(level, 1));
    const at::Tensor x = at::full({1, 1, 8, 8}, s * clean + n * noise, at::kDouble);
    const auto pixel = [](double value) { return at::full({1, 1, 1, 1}, value, at::kDouble); };
    for (const char* name : {"eps", "x0", "v", "previous_x"}) {
      const at::Tensor target = prediction_target(schedule, prediction(name), pixel(clean), pixel(noise),
                                                  longs({std::max<std::int64_t>(level, 1)}));
      bias.copy_(at::tensor({target.item<double>(), 1e6}, at::kDouble));
      const at::Tensor answer = make_noise_predictor(network, schedule, prediction(name))->noise(x, level, {});
      INFO(name << " at level " << level);
      CHECK(largest_difference(answer, at::full_like(x, noise)) < 1e-9);
    }
  }
  CHECK_THROWS_AS(prediction("noise"), Error);
}

TEST_CASE("the predictor asks the network for the schedule's timestep", "[noise_predictor]") {
  auto network = tiny_unet(tiny_options());
  const auto schedule = NoiseSchedule::linear(1000).respaced({3, 90, 640});
  const auto predictor = make_noise_predictor(network, schedule, Prediction::kEps);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 8), condition = rows({{1, 0, 0}, {0, 0, -1}});
  CHECK(same_bits(predictor->noise(x, 0, condition), network->forward(x, longs({3, 3}), condition)));
  CHECK(same_bits(predictor->noise(x, 1, condition), network->forward(x, longs({3, 3}), condition)));
  CHECK(same_bits(predictor->noise(x, 3, condition), network->forward(x, longs({640, 640}), condition)));
  CHECK(network->forward(x, longs({3, 3}), condition).requires_grad());
  CHECK_FALSE(predictor->noise(x, 1, condition).requires_grad());  // a chain of steps must not keep every activation
  CHECK_THROWS_AS(predictor->noise(x, 4, condition), Error);
  CHECK_THROWS_AS(predictor->noise(x, -1, condition), Error);
}

namespace {

/// Convolutions made by this thread within inference mode and without it.
thread_local std::int64_t convolutions_within = 0, convolutions_without = 0;

std::unique_ptr<at::ObserverContext> count_convolution(const at::RecordFunction& call) {
  if (std::string(call.name()) == "aten::conv2d")
    ++(c10::InferenceMode::is_enabled() ? convolutions_within : convolutions_without);
  return nullptr;
}

}  // namespace

TEST_CASE("a predictor's network runs in inference mode, and its estimates are plain tensors", "[noise_predictor]") {
  const auto schedule = NoiseSchedule::linear();
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 8)).clamp(-1, 1);
  for (const char* name : {"eps", "x0", "v", "previous_x"})
    for (const std::int64_t outputs : {1, 2}) {
      INFO(name << ", " << outputs << " outputs");
      auto options = tiny_options();
      options.out_channels = outputs;
      const auto predictor = make_noise_predictor(tiny_unet(options), schedule, prediction(name));
      convolutions_within = convolutions_without = 0;
      const auto callback = at::addThreadLocalCallback(at::RecordFunctionCallback(&count_convolution));
      const at::Tensor answer = predictor->noise(x, 40, {});
      at::removeCallback(callback);
      CHECK(convolutions_within > 0);
      CHECK(convolutions_without == 0);

      CHECK_FALSE(answer.is_inference());
      const at::Tensor weight = at::ones({1}, at::kDouble).requires_grad_(true);
      (weight * answer).sum().backward();
      CHECK(weight.grad().item<double>() == Approx(answer.sum().item<double>()));
      const at::Tensor before = answer.clone();
      answer.add_(1);
      CHECK(largest_difference(answer - 1, before) < 1e-12);
      c10::InferenceMode inference;
      CHECK(same_bits(predictor->noise(x, 40, {}), before));
    }
  // So is what a translator hands out that nobody put into inference mode.
  const auto predictor = make_noise_predictor(tiny_unet(tiny_options()), schedule, Prediction::kEps);
  TranslatorOptions options;
  options.level = 40, options.steps = 2;
  const DiffusionTranslator translator(predictor, schedule, {"a", "b", "c"}, options);
  const Translation t = translator.translate(x, {toward("a")});
  for (const at::Tensor& part : {t.images, t.reconstruction, t.residual, t.latent}) {
    CHECK_FALSE(part.is_inference());
    CHECK_FALSE(part.requires_grad());
  }
}

TEST_CASE("a network without findings answers when nothing is known", "[noise_predictor]") {
  auto network = tiny_unet(tiny_options(0));
  const auto predictor = make_noise_predictor(network, NoiseSchedule::linear(), Prediction::kEps);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 8);
  CHECK(same_bits(predictor->noise(x, 7, at::zeros({2, 5})), predictor->noise(x, 7, {})));
  CHECK(mentions(caught([&] { predictor->noise(x, 7, at::ones({2, 5})); }), "condition"));
}

TEST_CASE("every pooling head gives one logit a finding and follows its input", "[noise_aware_classifier]") {
  for (const char* pool : {"adaptive", "attention", "spatial", "spatial_v2"}) {
    INFO(pool);
    auto options = tiny_classifier_options(classifier_pool(pool));
    NoiseAwareClassifier network(options);
    randomise(*network, 3, 0.1);
    network->to(at::kDouble);
    const at::Tensor x = random_tensor({3, 1, 8, 8}, 1), t = longs({0, 3, 800});
    const at::Tensor logits = network->forward(x, t);
    REQUIRE(logits.sizes() == at::IntArrayRef({3, 3}));
    CHECK(largest_difference(network->forward(x.narrow(0, 1, 1), longs({3})), logits.narrow(0, 1, 1)) < 1e-12);
    CHECK(largest_difference(network->forward(x, longs({500, 500, 500})), logits) > 1e-6);
    x.requires_grad_(true);
    check_gradients([&] { return (network->forward(x, t) * logits.detach()).sum(); }, {x}, 6);

    CHECK_THROWS_AS(network->forward(x[0], t), Error);
    CHECK_THROWS_AS(network->forward(at::cat({x, x}, 1), t), Error);
    CHECK_THROWS_AS(network->forward(x, longs({1})), Error);
  }
  CHECK_THROWS_AS(classifier_pool("max"), Error);
  auto options = tiny_classifier_options(ClassifierPool::kAttention);
  NoiseAwareClassifier square(options);
  CHECK_THROWS_AS(square->forward(at::zeros({1, 1, 16, 16}), longs({1})), Error);  // its positions are for 8 pixels
  options.num_head_channels = -1;
  CHECK_THROWS_AS(NoiseAwareClassifier(options), Error);
  options.num_head_channels = 32;  // wider than the network
  options.attention_downsample = {};
  CHECK_THROWS_AS(NoiseAwareClassifier(options), Error);
}

TEST_CASE("guidance is the gradient of the log-likelihood of the target states", "[guidance]") {
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAttention));
  randomise(*network, 21, 0.3);
  network->to(at::kDouble);
  const auto schedule = NoiseSchedule::linear(1000);
  const auto head = GENERATE(GuidanceHead::kSigmoid, GuidanceHead::kSoftmax);
  const auto guide = make_guidance_classifier(network, schedule, head);
  const std::int64_t level = 137;
  const at::Tensor condition = rows({{1, 0, 0}, {0, -1, 0}, {1, -1, 1}, {0, 0, 0}});
  const at::Tensor x = random_tensor({4, 1, 8, 8}, 14);
  const at::Tensor gradient = guide->gradient(x, level, condition);
  REQUIRE(gradient.sizes() == x.sizes());
  CHECK(gradient[3].abs().max().item<double>() == 0);

  const auto log_likelihood = [&](const at::Tensor& image) {
    at::NoGradGuard no_grad;
    const at::Tensor logits = network->forward(image, at::full({4}, level - 1, at::kLong));
    double sum = 0;
    for (int i = 0; i < 4; ++i)
      for (int f = 0; f < 3; ++f) {
        const double e = std::exp(logits[i][f].item<double>()), state = condition[i][f].item<double>();
        const double p = e / (head == GuidanceHead::kSigmoid ? 1 + e : logits[i].exp().sum().item<double>());
        if (state > 0) sum += std::log(p);
        if (state < 0) sum += std::log(1 - p);
      }
    return sum;
  };
  constexpr double kStep = 1e-5;
  for (int i = 0; i < 3; ++i)
    for (const int pixel : {0, 19, 42, 63}) {
      at::Tensor up = x.clone(), down = x.clone();
      up[i].view({-1})[pixel].add_(kStep);
      down[i].view({-1})[pixel].sub_(kStep);
      const double numeric = (log_likelihood(up) - log_likelihood(down)) / (2 * kStep);
      const double analytic = gradient[i].view({-1})[pixel].item<double>();
      CHECK(std::abs(numeric - analytic) <= 1e-7 * (1 + std::abs(numeric)));
    }
  // One signed state, both signs: log p and log(1 - p) pull in opposite directions.
  CHECK((guide->gradient(x, level, at::eye(3, at::kDouble)[0].expand({4, 3})) *
         guide->gradient(x, level, -at::eye(3, at::kDouble)[0].expand({4, 3})))
            .sum()
            .item<double>() < 0);

  // Callers without gradients, and in inference mode, get the same.
  at::Tensor inside;
  {
    c10::InferenceMode inference;
    inside = guide->gradient(x.clone(), level, condition.clone()).clone();
  }
  CHECK(same_bits(inside.clone(), gradient));

  CHECK(guide->num_findings() == 3);
  auto one_logit = tiny_classifier_options(ClassifierPool::kAttention);
  one_logit.out_channels = 1;
  const auto narrow = make_guidance_classifier(NoiseAwareClassifier(one_logit), schedule);
  const at::Tensor small = x.to(at::kFloat);
  for (const auto& [asked, of] : std::vector<std::pair<decltype(guide), at::Tensor>>{
           {guide, condition.narrow(1, 0, 1)}, {guide, condition.narrow(0, 0, 1)}, {guide, {}}, {narrow, condition}})
    CHECK(caught([&, asked = asked, of = of] { asked->gradient(asked == guide ? x : small, level, of); }).code() ==
          ErrorCode::kMismatch);
}

TEST_CASE("guidance in half precision neither vanishes nor overflows", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const std::int64_t level = 300;
  // One classifier, rounded to float16, in float64 and in float16. Sure of finding 0 (logit near 18), its likelihood's
  // slope is e^-18 = 1.5e-8, less than half of float16's least number.
  NoiseAwareClassifier exact(tiny_classifier_options(ClassifierPool::kAdaptive));
  randomise(*exact, 4, 0.3);
  {
    at::NoGradGuard no_grad;
    exact->named_parameters()["out.3.bias"][0].fill_(18);
    exact->to(at::kHalf);
  }
  NoiseAwareClassifier half(tiny_classifier_options(ClassifierPool::kAdaptive));
  half->to(at::kHalf);
  {
    at::NoGradGuard no_grad;
    const auto from = exact->parameters(), to = half->parameters();
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  exact->to(at::kDouble);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 5).to(at::kHalf),
                   condition = at::tensor({1.F, 0.F, 0.F}).repeat({2, 1});

  const at::Tensor input = x.clone().requires_grad_(true);
  const at::Tensor logits = half->forward(input, longs({level - 1, level - 1}));
  CHECK(logits.scalar_type() == at::kHalf);
  at::log_sigmoid(logits.select(1, 0).to(at::kFloat)).sum().backward();
  CHECK(input.grad().abs().max().item<double>() == 0);  // what guidance would be without the scale

  const at::Tensor expected = make_guidance_classifier(exact, schedule)->gradient(x.to(at::kDouble), level, condition);
  const at::Tensor scaled = make_guidance_classifier(half, schedule)->gradient(x, level, condition);
  CHECK(scaled.scalar_type() == at::kFloat);
  CHECK(expected.abs().max().item<double>() > 0);
  // Its size goes with exp(-logit): what float16's rounding adds up to in a logit of 18, a quarter, is a quarter of it.
  const double along = (scaled * expected).sum().item<double>(), size = expected.norm().item<double>();
  CHECK(along / (scaled.norm().item<double>() * size) > 0.9);
  CHECK(scaled.norm().item<double>() / size == Approx(1).margin(0.35));
  // Unsure, the same network has gradients that a scale of 65,536 would take beyond float16's largest number.
  {
    at::NoGradGuard no_grad;
    for (auto network : {exact, half}) network->named_parameters()["out.3.bias"].zero_();
    for (auto network : {exact, half}) network->named_parameters()["out.3.weight"].mul_(20);
  }
  const at::Tensor steep = make_guidance_classifier(exact, schedule)->gradient(x.to(at::kDouble), level, -condition);
  CHECK(largest_difference(make_guidance_classifier(half, schedule)->gradient(x, level, -condition), steep) <
        0.05 * steep.abs().max().item<double>());
}

TEST_CASE("guidance in half precision does not depend on the batch", "[guidance]") {
  // Of finding 0 the network is wildly unsure, so that only a small scale keeps its gradients from overflowing; on that
  // scale nothing would be left of those of finding 1, of which it is sure (slope e^-18).
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAdaptive));
  randomise(*network, 4, 0.3);
  {
    at::NoGradGuard no_grad;
    network->named_parameters()["out.3.weight"][0].mul_(500);
    network->named_parameters()["out.3.bias"][1].fill_(18);
  }
  network->to(at::kHalf);
  const std::int64_t level = 300;
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 5).to(at::kHalf);
  at::Tensor condition = at::zeros({2, 3});
  {
    at::NoGradGuard no_grad;
    const at::Tensor logits = network->forward(x, longs({level - 1, level - 1}));
    condition[0][0] = logits[0][0].item<double>() > 0 ? -1.0 : 1.0;  // what it thinks wrong: a slope of 1
  }
  condition[1][1] = 1.0;
  const auto guide = make_guidance_classifier(network, NoiseSchedule::linear(1000));
  const at::Tensor both = guide->gradient(x, level, condition);
  CHECK(both.isfinite().all().item<bool>());
  for (std::int64_t i = 0; i < 2; ++i) {
    const at::Tensor alone = guide->gradient(x.narrow(0, i, 1), level, condition.narrow(0, i, 1))[0];
    const double size = alone.abs().max().item<double>();
    CHECK(size > 0);
    CHECK(largest_difference(both[i], alone) <= 0.05 * size);
  }
  CHECK(both[0].abs().max().item<double>() > 1e6 * both[1].abs().max().item<double>());
}

TEST_CASE("golden: UNet output and gradients", "[denoiser_unet][golden]") {
  for_each_golden("unet_", [](const GoldenSet& set) {
    const auto& tolerance = set.settings.at("tolerance");
    double worst = 0;
    for (const bool twice : {false, true}) {
      const auto type = twice ? at::kDouble : at::kFloat;
      const std::string suffix = twice ? "_f64" : "";
      const double exact = tolerance.value("float64", 1e-6);
      auto network = golden_unet(set, type);
      const at::Tensor x = to_tensor(set.at("x")).to(type).requires_grad_(true);
      const at::Tensor condition = set.file.contains("y") ? tensor_from(set.at("y")) : at::Tensor();
      const at::Tensor out = network->forward(x, golden_timesteps(set.at("t")), condition);
      (out * to_tensor(set.at("r")).to(type)).sum().backward();
      const double largest_out = twice ? exact : tolerance.at("out").get<double>();
      const double largest_gradient = twice ? exact : tolerance.at("grad_x").get<double>();
      worst = std::max(worst, check_close(out, set.at("out" + suffix), largest_out, "out" + suffix));
      worst = std::max(worst, check_close(x.grad(), set.at("grad_x" + suffix), largest_gradient, "grad_x" + suffix));
      const double largest = tolerance.at("param_grads");
      if (twice) {
        check_gradient_norms(*network, set, largest);
        continue;
      }
      const auto parameters = parameters_of(*network);
      for (const auto& [name, expected] : set.file.tensors) {
        if (name.rfind("grad.", 0) != 0) continue;
        REQUIRE(parameters.count(name.substr(5)) == 1);
        const at::Tensor gradient = parameters.at(name.substr(5)).grad();
        worst = std::max(worst, check_close(gradient, expected, largest, name));
      }
    }
    return worst;
  });
}

TEST_CASE("golden: classifier logits and gradients", "[noise_aware_classifier][golden]") {
  for_each_golden("classifier_", [](const GoldenSet& set) {
    const auto& tolerance = set.settings.at("tolerance");
    const at::Tensor target = tensor_from(set.at("target")), timesteps = golden_timesteps(set.at("t"));
    double worst = 0;
    for (const bool twice : {false, true}) {
      const auto type = twice ? at::kDouble : at::kFloat;
      const std::string suffix = twice ? "_f64" : "";
      const double exact = tolerance.value("float64", 1e-6);
      const double largest_logits = twice ? exact : tolerance.at("logits").get<double>();
      const double largest_gradient = twice ? exact : tolerance.at("gradients").get<double>();
      auto network = golden_classifier(set, type);
      const at::Tensor x = to_tensor(set.at("x")).to(type).requires_grad_(true);
      const auto check_gradient = [&](const std::string& name, const at::Tensor& gradient) {
        worst = std::max(worst, check_close(gradient, set.at(name + suffix), largest_gradient, name + suffix));
      };

      const at::Tensor logits = network->forward(x, timesteps);
      worst = std::max(worst, check_close(logits, set.at("logits" + suffix), largest_logits, "logits" + suffix));
      at::log_softmax(logits, 1).gather(1, target.unsqueeze(1)).sum().backward();
      check_gradient("grad_log_softmax", x.grad());

      // Both gradients through the guidance interface, whose level is shared by a batch.
      for (const auto head : {GuidanceHead::kSigmoid, GuidanceHead::kSoftmax}) {
        if (timesteps.scalar_type() != at::kLong) continue;
        const auto guide = make_guidance_classifier(network, NoiseSchedule::linear(1000), head);
        std::vector<at::Tensor> gradients;
        for (std::int64_t i = 0; i < x.size(0); ++i) {
          at::Tensor condition = at::zeros({1, logits.size(1)});
          condition[0][target[i].item<std::int64_t>()] = 1;
          const std::int64_t level = timesteps[i].item<std::int64_t>() + 1;
          gradients.push_back(guide->gradient(x.detach().narrow(0, i, 1), level, condition));
        }
        check_gradient(head == GuidanceHead::kSigmoid ? "grad_logsigmoid" : "grad_log_softmax", at::cat(gradients));
      }
      if (!twice || !set.file.contains("param_grad_norm")) continue;
      network->zero_grad();
      at::cross_entropy_loss(network->forward(x, timesteps), target).backward();
      check_gradient_norms(*network, set, tolerance.at("gradients"));
    }
    return worst;
  });
}

TEST_CASE("gradient_bytes bounds what a gradient of the classifier holds, and not loosely", "[guidance]") {
  // The head and the levels add up: each head and each stack of levels twice, not each with each.
  const std::vector<std::pair<ClassifierPool, std::vector<double>>> networks = {
      {ClassifierPool::kAttention, {1, 2}},
      {ClassifierPool::kAttention, {1, 1, 2, 3}},
      {ClassifierPool::kAdaptive, {2}},
      {ClassifierPool::kSpatialV2, {1, 2}}};
  for (const bool updown : {false, true})
    for (const auto& [pool, mult] : networks) {
      NoiseAwareClassifierOptions options;
      options.image_size = 32, options.model_channels = 32, options.channel_mult = mult, options.pool = pool;
      options.num_res_blocks = 1 + static_cast<std::int64_t>(mult.size()) % 2, options.norm_groups = 8;
      options.attention_downsample = {2}, options.num_head_channels = 32, options.out_channels = 3;
      options.resblock_updown = updown, options.use_scale_shift_norm = updown;
      const NoiseAwareClassifier network(options);
      const auto guide = make_guidance_classifier(network, NoiseSchedule::linear(1000));
      const auto held = [&](std::int64_t batch) {
        const at::Tensor x = at::zeros({batch, 1, 32, 32}), condition = at::ones({batch, 3});
        guide->gradient(x, 100, condition);  // what LibTorch makes once
        MemoryCount count;
        guide->gradient(x, 100, condition);
        return static_cast<double>(count.peak());
      };
      const double each = (held(6) - held(2)) / 4, bound = static_cast<double>(guide->bytes_per_item(32, 32));
      INFO("levels " << mult.size() << " pool " << static_cast<int>(pool) << " updown " << updown << ": " << each
                     << " of " << bound);
      CHECK(each <= bound);
      CHECK(each >= 0.5 * bound);
    }
}

TEST_CASE("inference_bytes bounds what a forward pass holds, and not loosely", "[denoiser_unet]") {
  const std::vector<std::pair<std::int64_t, std::vector<double>>> networks = {
      {1, {1, 2}}, {2, {1, 1, 2, 3}}, {1, {2}}, {1, {3, 1}}, {2, {3, 1}}};
  for (const bool updown : {false, true})
    for (const auto& [patch, mult] : networks) {
      DenoiserUNetOptions options;
      options.image_size = 32, options.model_channels = 32, options.channel_mult = mult, options.patch = patch;
      options.num_res_blocks = 1 + static_cast<std::int64_t>(mult.size()) % 2, options.norm_groups = 8;
      options.attention_downsample = {2}, options.resblock_updown = updown;
      DenoiserUNet network(options);
      c10::InferenceMode inference;
      // Of two batches, so that what does not grow with the batch (weights laid out anew) does not count.
      const auto held = [&](std::int64_t batch) {
        const at::Tensor x = at::zeros({batch, 1, 32, 48}), t = at::zeros({batch}, at::kLong);
        network->forward(x, t);  // what LibTorch makes once
        MemoryCount count;
        network->forward(x, t);
        return static_cast<double>(count.peak());
      };
      const double each = (held(12) - held(4)) / 8, bound = static_cast<double>(network->inference_bytes(32, 48));
      INFO("levels " << mult.size() << " patch " << patch << " updown " << updown << ": " << each << " of " << bound);
      CHECK(each <= bound);
      CHECK(each >= 0.5 * bound);
    }
}
