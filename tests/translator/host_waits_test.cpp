// What LibTorch's profiler sees of walks on a device: however many steps there are, the program waits for the device
// and reads it as often.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daug/translator/diffusion_translator.h"
#include "daug/translator/network_precision.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/device_calls.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Walks of all kinds that read nothing back, with networks of all kinds that are replayed from graphs or not.
void check_all_walks(Execution graphs) {
  const at::Device device(at::kCUDA, 0);
  const auto schedule = NoiseSchedule::linear(1000);
  const auto denoiser_of = [&](const DenoiserUNetOptions& options) {
    auto network = tiny_unet(options);
    network->to(at::kFloat);
    network->to(device);
    return network;
  };
  DenoiserUNetOptions of_classes = tiny_options(0);
  of_classes.num_classes = 5;
  // Told states of findings, a class, or nothing.
  const auto denoiser = denoiser_of(tiny_options()), with_classes = denoiser_of(of_classes),
             without = denoiser_of(tiny_options(0));
  NoiseAwareClassifier classifier(tiny_classifier_options(ClassifierPool::kAttention));
  randomise(*classifier, 4, 0.3);
  classifier->to(device);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 7)).clamp(-1, 1).to(at::kFloat).to(device);
  const std::string how = graphs == Execution::kFused ? " from graphs" : "";
  for (const auto precision : {NetworkPrecision::kFull, NetworkPrecision::kBFloat16}) {
    const std::string type = precision == NetworkPrecision::kFull ? ", float32" : ", bfloat16";
    const auto predictor = [&](const DenoiserUNet& network, const StateClasses& classes = {}) {
      return make_noise_predictor(network, schedule, Prediction::kV, classes, precision, graphs);
    };
    const auto guide = make_guidance_classifier(classifier, schedule, GuidanceHead::kSigmoid, {}, precision, graphs);
    const at::Tensor fresh = 0.1 * random_tensor({2, 1, 8, 8}, 8).to(at::kFloat).to(device);
    const at::Tensor condition = rows({{1, 0, 0}, {0, -1, 0}}).to(at::kFloat).to(device);
    const auto check = [&](const std::string& told, const std::shared_ptr<const NoisePredictor>& asked,
                           const std::vector<std::string>& kinds, const at::Tensor& of_denoiser) {
      for (const std::string& kind : kinds)
        check_no_waits("sampling loop, " + kind + told + type + how, [&](std::int64_t steps) {
          TranslatorOptions options = path_options(100, steps, 2);
          options.guidance.kind = guidance_kind(kind);
          options.guidance.classifier_scale = options.guidance.kind == GuidanceKind::kClassifier ? 2 : 0;
          const DiffusionTranslator translator(asked, schedule, {"a", "b", "c"}, options, guide);
          (void)translator.translate(x, {toward("a"), away_from("b")});
        });
      check_no_waits("sampling loop, published loop" + told + type + how, [&](std::int64_t steps) {
        PublishedLoopOptions options;
        options.noise_level = steps + 1, options.classifier_scale = 1;
        (void)published_translation(*asked, schedule, *guide, x, fresh, condition, options, {}, of_denoiser);
      });
    };
    check("", predictor(denoiser), {"classifier_free", "contrast", "classifier"}, {});
    check(" of classes", predictor(with_classes, {{3, 1, 2}, 4, 0}), {"classifier_free", "contrast", "classifier"},
          condition);
    check(" of nothing", predictor(without), {"classifier"}, at::zeros_like(condition));
  }
}

}  // namespace

TEST_CASE("the profiler counts what waits for a device and what reads it", "[translator][gpu]") {
  if (no_device()) return;
  const at::Tensor x = at::ones({64}, at::Device(at::kCUDA, 0));
  const auto reading = [&x](int times) {
    return profiled([&] {
      for (int i = 0; i < times; ++i) (void)(x + i).sum().item<float>();
    });
  };
  (void)reading(1);
  const DeviceCalls once = reading(1), often = reading(6);
  CHECK(often.waits >= once.waits + 5);
  CHECK(often.launches >= once.launches + 5);
}

TEST_CASE("a sampling loop waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_walks(Execution::kReference);
}

TEST_CASE("a sampling loop of captured calls waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_walks(Execution::kFused);
}
