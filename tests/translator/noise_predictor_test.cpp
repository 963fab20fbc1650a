#include "daug/translator/noise_predictor.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/fitting_rows.h"
#include "daug/heatmap/maps.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/denoising_loss.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/full_device.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/replayed_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("each kind of output is read back as the same noise", "[noise_predictor]") {
  // A network whose last convolution is its bias alone answers a constant, whatever it is shown.
  auto options = tiny_options();
  options.out_channels = 2;  // with learned variance, whose channel must be ignored
  DenoiserUNet network(options);
  at::NoGradGuard no_grad;
  const auto schedule = NoiseSchedule::linear(1000).respaced(space_timesteps(1000, "ddim50"));
  const double clean = 0.4, noise = -1.3;
  for (const auto& [type, tolerance] : {std::pair{at::kDouble, 1e-9}, {at::kFloat, 1e-3}}) {
    network->to(type);
    const at::Tensor bias = parameters_of(*network).at("out.2.bias");
    for (const std::int64_t level : {0, 1, 20, 50}) {
      const double s = schedule.signal(std::max<std::int64_t>(level, 1));
      const double n = schedule.noise(std::max<std::int64_t>(level, 1));
      const at::Tensor x = at::full({1, 1, 8, 8}, s * clean + n * noise, type);
      const auto pixel = [](double value) { return at::full({1, 1, 1, 1}, value, at::kDouble); };
      for (const char* name : {"eps", "x0", "v", "previous_x"}) {
        const at::Tensor target = prediction_target(schedule, prediction(name), pixel(clean), pixel(noise),
                                                    longs({std::max<std::int64_t>(level, 1)}));
        bias.copy_(at::tensor({target.item<double>(), 1e6}, at::kDouble));
        const at::Tensor answer = make_noise_predictor(network, schedule, prediction(name))->noise(x, level, {});
        INFO(name << " at level " << level << " in " << type);
        CHECK(answer.scalar_type() == type);
        CHECK(largest_difference(answer, at::full_like(x, noise)) < tolerance);
      }
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
  CHECK_FALSE(predictor->prepared(at::zeros({2, 5})).defined());
  CHECK(mentions(caught([&] { predictor->prepared(at::ones({2, 5})); }), "condition"));
  // Others read the condition as it is.
  const auto told = make_noise_predictor(tiny_unet(tiny_options()), NoiseSchedule::linear(), Prediction::kEps);
  const at::Tensor condition = rows({{1, 0, 0}, {0, -1, 0}});
  CHECK(told->prepared(condition).is_same(condition));
  CHECK(mentions(caught([&] { told->prepared(at::ones({2, 5})); }), "condition"));
}

namespace {

/// Times that this thread made sinusoidal embeddings, the only cosines of a network.
thread_local std::int64_t time_embeddings = 0;

std::unique_ptr<at::ObserverContext> count_time_embedding(const at::RecordFunction& call) {
  if (std::string(call.name()) == "aten::cos") ++time_embeddings;
  return nullptr;
}

std::int64_t time_embeddings_of(const std::function<void()>& work) {
  time_embeddings = 0;
  const auto callback = at::addThreadLocalCallback(at::RecordFunctionCallback(&count_time_embedding));
  work();
  at::removeCallback(callback);
  return time_embeddings;
}

std::shared_ptr<const NoisePredictor> embedding_predictor(const DenoiserUNet& network, bool ahead,
                                                          const StateClasses& classes = {}) {
  return daug::detail::replayed_predictor(network, NoiseSchedule::linear(1000), Prediction::kV, classes, nullptr,
                                          ahead ? Execution::kFused : Execution::kReference);
}

}  // namespace

TEST_CASE("embeddings of a walk's levels are those that its calls would make", "[noise_predictor]") {
  const at::Tensor x = random_tensor({4, 1, 8, 8}, 8);
  const std::vector<std::int64_t> levels = {0, 1, 40, 700};
  DenoiserUNetOptions of_classes = tiny_options(0);
  of_classes.num_classes = 5;
  const auto check = [&](const DenoiserUNet& network, const at::Tensor& condition, const StateClasses& classes = {}) {
    const auto ahead = embedding_predictor(network, true, classes),
               plain = embedding_predictor(network, false, classes);
    const auto clipped = make_clipping_predictor(ahead, NoiseSchedule::linear(1000));
    const at::Tensor prepared = ahead->prepared(condition);
    LevelCondition at_level, at_clipped;
    CHECK(time_embeddings_of([&] { at_level = ahead->embedded(prepared, 4, levels); }) == 1);
    at_clipped = clipped->embedded(prepared, 4, levels);
    for (const std::int64_t level : levels) {
      INFO("level " << level);
      const at::Tensor told = at_level(level), expected = plain->noise(x, level, condition);
      REQUIRE(told.sizes() == at::IntArrayRef({4, 1, network->embedded_channels()}));
      at::Tensor answer;
      CHECK(time_embeddings_of([&] { answer = ahead->noise(x, level, told); }) == 0);
      CHECK(largest_difference(answer, expected) < 1e-11);
      CHECK_FALSE(answer.requires_grad());
      CHECK(largest_difference(ahead->noise(x.narrow(0, 1, 2), level, told.narrow(0, 1, 2)), expected.narrow(0, 1, 2)) <
            1e-11);
      CHECK(same_bits(clipped->noise(x, level, at_clipped(level)), clipped->noise(x, level, told)));
    }
    // A level off the path is embedded at the call, as all are where nothing is made ahead.
    CHECK(same_bits(ahead->noise(x, 41, at_level(41)), plain->noise(x, 41, condition)));
    const LevelCondition left = plain->embedded(plain->prepared(condition), 4, levels);
    CHECK(same_bits(plain->noise(x, 40, left(40)), plain->noise(x, 40, condition)));
    CHECK(time_embeddings_of([&] { (void)plain->noise(x, 40, left(40)); }) == 1);
    CHECK_THROWS_AS(ahead->noise(x, 40, at_level(40).narrow(0, 0, 3)), Error);
  };
  const auto network = tiny_unet(tiny_options());
  check(network, rows({{1, 0, 0}, {0, 0, -1}, {1, 0, 0}, {0, 1, 0}}));
  check(network, {});
  check(tiny_unet(tiny_options(0)), at::zeros({4, 3}));
  const auto with_classes = tiny_unet(of_classes);
  check(with_classes, rows({{1, 0, 0}, {0, 0, -1}, {1, 0, 0}, {0, 0, 0}}), {{3, 1, 2}, 4, 0});
  check(with_classes, {}, {{3, 1, 2}, 4, 0});

  // On the CPU nothing is made ahead unless it is asked for, nor are more rows than there is room for.
  const at::Tensor states = rows({{1, 0, 0}, {0, 0, -1}});
  const auto chosen = make_noise_predictor(network, NoiseSchedule::linear(1000), Prediction::kV);
  CHECK(chosen->embedded(states, 2, levels)(40).is_same(states));
  const at::Tensor many = random_tensor({400, 3}, 3);
  std::vector<std::int64_t> all(1000);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  REQUIRE(network->embedded_channels() * 8 * 400 * 1000 > (std::int64_t{256} << 20));
  const auto ahead = embedding_predictor(network, true);
  CHECK(ahead->embedded(many, 400, all)(40).is_same(many));
  CHECK(ahead->embedded(states.repeat({200, 1}), 400, all)(40).dim() == 3);  // two rows that differ fit
  CHECK(ahead->embedded(states.narrow(0, 0, 0), 0, levels)(40).size(0) == 0);
}

TEST_CASE("a network of a half type is told embeddings in its type", "[noise_predictor]") {
  auto network = tiny_unet(tiny_options());
  network->to(at::kBFloat16);
  const auto ahead = embedding_predictor(network, true), plain = embedding_predictor(network, false);
  const at::Tensor x = float_tensor({2, 1, 8, 8}, 8), states = rows({{1, 0, 0}, {0, 0, -1}});
  const at::Tensor told = ahead->embedded(states, 2, {40})(40), expected = plain->noise(x, 40, states);
  CHECK(told.scalar_type() == at::kBFloat16);
  const at::Tensor answer = ahead->noise(x, 40, told);
  CHECK(answer.scalar_type() == at::kFloat);
  CHECK(largest_difference(answer, expected) <= 0.05 * expected.abs().max().item<double>());
}

TEST_CASE("a walk embeds its levels and conditions once", "[noise_predictor]") {
  auto network = tiny_unet(tiny_options());
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 7)).clamp(-1, 1);
  const at::Tensor known = rows({{0, 1, 0}, {0, 0, -1}});
  constexpr std::int64_t kSteps = 5;
  const auto check = [&](const TranslatorOptions& options, std::int64_t embeddings, std::int64_t calls) {
    const DiffusionTranslator with_rows(embedding_predictor(network, true), schedule, {"a", "b", "c"}, options);
    const DiffusionTranslator without(embedding_predictor(network, false), schedule, {"a", "b", "c"}, options);
    const auto walked = [&](const DiffusionTranslator& translator, std::int64_t expected) {
      Translation result;
      CHECK(time_embeddings_of([&] {
              result = translator.translate(x, {toward("a"), away_from("b")}, known);
            }) == expected);
      return result;
    };
    for (int weights = 0; weights < 2; ++weights) {  // those of a walk are read when it begins
      const Translation ahead = walked(with_rows, embeddings), plain = walked(without, calls);
      CHECK(largest_difference(ahead.images, plain.images) < 1e-9);
      CHECK(largest_difference(ahead.reconstruction, plain.reconstruction) < 1e-9);
      at::NoGradGuard no_grad;
      for (at::Tensor& parameter : network->parameters()) parameter.mul_(0.9);
    }
  };
  auto options = path_options(100, kSteps, 1);
  check(options, 3, 3 * kSteps);  // the way up, back, and to the targets
  options.guidance.kind = GuidanceKind::kNone;
  check(options, 3, 3 * kSteps);
  options.guidance.kind = GuidanceKind::kContrast;
  options.guidance.highest_level = 50;  // on the way to targets some levels ask once, others twice
  check(options, 4, 3 * kSteps);

  EvidenceOptions noises;
  noises.levels = {40, 80, 120}, noises.samples = 2;
  at::Tensor maps[2];
  for (const bool ahead : {false, true}) {
    const auto predictor = embedding_predictor(network, ahead);
    CHECK(time_embeddings_of([&] {
            maps[ahead] = evidence_and_score_difference_maps(*predictor, schedule, x, {4, 5}, at::eye(3), noises);
          }) == (ahead ? 1 : 6));
  }
  CHECK(largest_difference(maps[0], maps[1]) < 1e-10);
}

namespace {

/// DDIM that asks everything twice on the way down.
class AsksTwice final : public Solver {
 public:
  const char* name() const override { return "asks twice"; }
  std::int64_t encode_evaluations(std::int64_t steps) const override { return ddim_.encode_evaluations(steps); }
  std::int64_t decode_evaluations(std::int64_t steps) const override { return 2 * steps; }
  at::Tensor encode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& image,
                    const NoiseEstimate& noise, const StepDone& done) const override {
    return ddim_.encode(schedule, levels, image, noise, done);
  }
  at::Tensor decode(const NoiseSchedule& schedule, const std::vector<std::int64_t>& levels, const at::Tensor& latent,
                    const NoiseEstimate& noise, const StepDone& done) const override {
    const NoiseEstimate twice = [&noise](const at::Tensor& x, std::int64_t level) {
      (void)noise(x, level);
      return noise(x, level);
    };
    return ddim_.decode(schedule, levels, latent, twice, done);
  }

 private:
  DdimSolver ddim_{DdimSolverOptions{1}};
};

}  // namespace

TEST_CASE("a solver may ask more often than there are levels to embed", "[noise_predictor][solver]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = embedding_predictor(tiny_unet(tiny_options()), true);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 7)).clamp(-1, 1);
  auto options = path_options(100, 5);
  options.guidance.kind = GuidanceKind::kContrast;
  options.guidance.highest_level = 50;
  const auto walked = [&](std::shared_ptr<const Solver> solver) {
    options.solver = std::move(solver);
    return DiffusionTranslator(predictor, schedule, {"a", "b", "c"}, options)
        .translate(x, {toward("a"), away_from("b")});
  };
  const Translation once = walked(nullptr), twice = walked(std::make_shared<AsksTwice>());
  CHECK(same_bits(twice.images, once.images));
  CHECK(same_bits(twice.reconstruction, once.reconstruction));
  CHECK(largest_difference(once.images.select(1, 0), once.reconstruction) > 1e-6);
  // Two targets at the levels 20 and 40, asked for twice, and 60, 80 and 100, once; the way up asks five times.
  CHECK(once.calls.denoiser == 5 + 2 * (2 * 2 + 3));
  CHECK(twice.calls.denoiser == 5 + 2 * 2 * (2 * 2 + 3));
}

TEST_CASE("embeddings made ahead on a device are those of its calls", "[noise_predictor][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  auto network = tiny_unet(tiny_options());
  network->to(at::kFloat);
  network->to(device);
  const auto predictor = make_noise_predictor(network, NoiseSchedule::linear(1000), Prediction::kV);
  const at::Tensor x = float_tensor({2, 1, 8, 8}, 8).to(device);
  const at::Tensor states = rows({{1, 0, 0}, {0, 0, -1}}).to(at::kFloat).to(device);
  const std::vector<std::int64_t> levels = {0, 40, 700};
  const LevelCondition told = predictor->embedded(predictor->prepared(states), 2, levels);
  for (const std::int64_t level : levels) {
    REQUIRE(told(level).dim() == 3);
    const at::Tensor expected = predictor->noise(x, level, states);
    CHECK(largest_difference(predictor->noise(x, level, told(level)), expected) <=
          1e-4 * expected.abs().max().item<double>());
  }
}

TEST_CASE("a network's calls are halved on a device that others have left little of", "[noise_predictor][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  constexpr std::int64_t kImages = 512;  // features of the first level alone take 17 MB each time
  const auto schedule = NoiseSchedule::linear(1000);
  auto network = tiny_unet(tiny_options());
  network->to(device, at::kFloat);
  const at::Tensor x = float_tensor({kImages, 1, 32, 32}, 8).to(device);
  const auto answer = [&](std::int64_t images) {  // by a predictor of its own: one that was short of memory stays so
    return make_noise_predictor(network, schedule, Prediction::kEps, {}, NetworkPrecision::kFull, Execution::kReference)
        ->noise(x.narrow(0, 0, images), 200, at::zeros({images, 3}))
        .cpu();
  };
  // What libraries and kernels of all sizes of batches take for themselves.
  for (std::int64_t images = 1; images < kImages; images *= 2) (void)answer(images);
  const at::Tensor expected = answer(kImages);
  const FullDevice full(std::int64_t{48} << 20);
  backend::told_of_halving() = false;
  CHECK(largest_difference(answer(kImages), expected) <= 1e-4 * expected.abs().max().item<double>());
  CHECK(backend::told_of_halving());
}
