#include "daug/translator/noise_predictor.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <memory>
#include <string>

#include "daug/translator/denoising_loss.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

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
  CHECK_FALSE(predictor->prepared(at::zeros({2, 5})).defined());
  CHECK(mentions(caught([&] { predictor->prepared(at::ones({2, 5})); }), "condition"));
  // Others read the condition as it is.
  const auto told = make_noise_predictor(tiny_unet(tiny_options()), NoiseSchedule::linear(), Prediction::kEps);
  const at::Tensor condition = rows({{1, 0, 0}, {0, -1, 0}});
  CHECK(told->prepared(condition).is_same(condition));
  CHECK(mentions(caught([&] { told->prepared(at::ones({2, 5})); }), "condition"));
}
