// What LibTorch's profiler sees of walks on a device: however many steps there are, the program waits for the device
// and reads it as often.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daug/translator/diffusion_translator.h"
#include "daug/translator/network_precision.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Calls to a device, counted.
struct DeviceCalls {
  std::int64_t launches = 0;  ///< of kernels and graphs
  std::int64_t waits = 0;     ///< for a stream, an event or all of a device, and copies to the CPU
};

DeviceCalls profiled(const std::function<void()>& work) {
  namespace profiler = torch::autograd::profiler;
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  const std::set<profiler::ActivityType> activities = {profiler::ActivityType::CPU, profiler::ActivityType::CUDA};
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  work();
  const auto result = profiler::disableProfiler();
  DeviceCalls calls;
  for (const auto& event : result->events()) {
    const std::string name = event.name();
    const auto begins = [&](const char* with) { return name.rfind(with, 0) == 0; };
    if (begins("cudaLaunchKernel") || begins("cuLaunchKernel") || begins("cudaGraphLaunch")) ++calls.launches;
    if (name.find("Synchronize") != std::string::npos || begins("Memcpy DtoH") || name == "cudaMemcpy") ++calls.waits;
  }
  return calls;
}

constexpr std::int64_t kFewSteps = 4, kManySteps = 12;

/// walk(steps) makes so many steps on a device.
void check_no_waits(const std::string& what, const std::function<void(std::int64_t)>& walk) {
  INFO(what);
  for (const std::int64_t steps : {kManySteps, kManySteps, kFewSteps}) walk(steps);  // libraries and graphs get ready
  const DeviceCalls few = profiled([&] { walk(kFewSteps); }), many = profiled([&] { walk(kManySteps); });
  std::cout << "sampling loop, " << what << ": " << many.waits - few.waits << " waits or read-backs and "
            << many.launches - few.launches << " launches in " << kManySteps - kFewSteps << " steps more\n";
  CHECK(many.launches >= few.launches + (kManySteps - kFewSteps));
  CHECK(many.waits == few.waits);
}

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
        check_no_waits(kind + told + type + how, [&](std::int64_t steps) {
          TranslatorOptions options = path_options(100, steps, 2);
          options.guidance.kind = guidance_kind(kind);
          options.guidance.classifier_scale = options.guidance.kind == GuidanceKind::kClassifier ? 2 : 0;
          const DiffusionTranslator translator(asked, schedule, {"a", "b", "c"}, options, guide);
          (void)translator.translate(x, {toward("a"), away_from("b")});
        });
      check_no_waits("published loop" + told + type + how, [&](std::int64_t steps) {
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
