// What LibTorch's profiler sees of walks and maps on a device, and of batches of images that are made ready there:
// however many there are, the program waits for the device and reads it as often.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/encoder/image_encoder.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/maps.h"
#include "daug/image/tensor_resize.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/dpm_solver.h"
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

const NoiseSchedule kSchedule = NoiseSchedule::linear(1000);

at::Device first_device() { return {at::kCUDA, 0}; }

DenoiserUNet denoiser_on_device(DenoiserUNetOptions options, Execution execution) {
  options.execution = execution;
  auto network = tiny_unet(options);
  network->to(at::kFloat);
  network->to(first_device());
  return network;
}

NoiseAwareClassifier guide_on_device(Execution execution) {
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAttention, execution));
  randomise(*network, 4, 0.3);
  network->to(first_device());
  return network;
}

at::Tensor images_on_device() {
  return (0.3 * random_tensor({2, 1, 8, 8}, 7)).clamp(-1, 1).to(at::kFloat).to(first_device());
}

std::string described(NetworkPrecision precision, Execution execution, Execution graphs) {
  return std::string(precision == NetworkPrecision::kFull ? ", float32" : ", bfloat16") +
         (execution == Execution::kFused ? ", fused kernels" : "") +
         (graphs == Execution::kFused ? ", from graphs" : "");
}

/// What changes a translation's options.
using Change = std::function<void(TranslatorOptions&)>;

Change guided_by(GuidanceKind kind) {
  return [kind](TranslatorOptions& options) {
    options.guidance.kind = kind;
    options.guidance.classifier_scale = kind == GuidanceKind::kClassifier ? 2 : 0;
  };
}

Change solved_by(const std::shared_ptr<const Solver>& solver) {
  return [solver](TranslatorOptions& options) { options.solver = solver; };
}

/// The networks that a walk asks.
struct Asked {
  std::shared_ptr<const NoisePredictor> predictor;
  std::shared_ptr<const GuidanceClassifier> guide;
};

/// A translation, within a region if there is one.
void check_walk(const std::string& what, const Asked& asked, const Change& change,
                const std::vector<Target>& targets = {toward("a"), away_from("b")}, const at::Tensor& region = {}) {
  const at::Tensor x = images_on_device();
  check_no_waits("sampling loop, " + what, [&](std::int64_t steps) {
    TranslatorOptions options = path_options(100, steps, 2);
    change(options);
    const DiffusionTranslator translator(asked.predictor, kSchedule, {"a", "b", "c"}, options, asked.guide);
    if (region.defined())
      (void)translator.translate_inside(region, x, targets);
    else
      (void)translator.translate(x, targets);
  });
}

/// The published loop, whose conditions may lie on the CPU.
void check_published_walk(const std::string& what, const Asked& asked, const at::Tensor& condition,
                          const at::Tensor& of_denoiser) {
  const at::Tensor x = images_on_device(),
                   fresh = 0.1 * random_tensor({2, 1, 8, 8}, 8).to(at::kFloat).to(first_device());
  check_no_waits("sampling loop, published loop" + what, [&](std::int64_t steps) {
    PublishedLoopOptions options;
    options.noise_level = steps + 1, options.classifier_scale = 1;
    (void)published_translation(*asked.predictor, kSchedule, *asked.guide, x, fresh, condition, options, {},
                                of_denoiser);
  });
}

/// Walks of all kinds of guidance, with networks of all kinds that are replayed from graphs or not.
void check_all_walks(Execution graphs) {
  DenoiserUNetOptions of_classes = tiny_options(0);
  of_classes.num_classes = 5;
  const at::Tensor on_cpu = rows({{1, 0, 0}, {0, -1, 0}}).to(at::kFloat), condition = on_cpu.to(first_device());
  for (const auto execution : {Execution::kAuto, Execution::kFused}) {
    // Told states of findings, a class, or nothing.
    const auto denoiser = denoiser_on_device(tiny_options(), execution),
               with_classes = denoiser_on_device(of_classes, execution),
               without = denoiser_on_device(tiny_options(0), execution);
    const auto classifier = guide_on_device(execution);
    for (const auto precision : {NetworkPrecision::kFull, NetworkPrecision::kBFloat16}) {
      const std::string how = described(precision, execution, graphs);
      const auto guide = make_guidance_classifier(classifier, kSchedule, GuidanceHead::kSigmoid, {}, precision, graphs);
      const auto asked = [&](const DenoiserUNet& network, const StateClasses& classes = {}) {
        return Asked{make_noise_predictor(network, kSchedule, Prediction::kV, classes, precision, graphs), guide};
      };
      const auto check = [&](const std::string& told, const Asked& networks, const std::vector<std::string>& kinds,
                             const at::Tensor& of_denoiser) {
        for (const std::string& kind : kinds) check_walk(kind + told + how, networks, guided_by(guidance_kind(kind)));
        check_published_walk(told + how, networks, condition, of_denoiser);
      };
      const Asked of_states = asked(denoiser), of_class = asked(with_classes, {{3, 1, 2}, 4, 0});
      check("", of_states, {"classifier_free", "contrast", "classifier"}, {});
      check(" of classes", of_class, {"classifier_free", "contrast", "classifier"}, condition);
      check(" of nothing", asked(without), {"classifier"}, at::zeros_like(condition));
      check_published_walk(" told from the CPU" + how, of_states, on_cpu, on_cpu);
      check_published_walk(" of classes told from the CPU" + how, of_class, on_cpu, on_cpu);
    }
  }
}

/// Walks that differ in anything but guidance and networks.
void check_all_solvers() {
  const Asked asked = {make_noise_predictor(denoiser_on_device(tiny_options(), Execution::kAuto), kSchedule,
                                            Prediction::kV, {}, NetworkPrecision::kFull, Execution::kReference),
                       nullptr};
  DdimSolverOptions noisy;
  noisy.eta = 0.5, noisy.items = {4, 9};
  check_walk("eta above 0", asked, solved_by(std::make_shared<DdimSolver>(noisy)));
  check_walk("DPM-Solver++ of third order", asked, solved_by(std::make_shared<DpmSolver>(DpmSolverOptions{3})));
  for (const char* name : {"dpm", "bdia"}) check_walk(name, asked, solved_by(make_solver(name)));
  check_walk("guidance in an interval", asked, [](TranslatorOptions& options) {
    options.guidance.lowest_level = 30, options.guidance.highest_level = 70;
  });
  const Change contrast = guided_by(GuidanceKind::kContrast);
  check_walk("strengths other than 1", asked, contrast, {{"a", true, 0.5}, {"b", false, 2}});
  check_walk("clipping", {make_clipping_predictor(asked.predictor, kSchedule), nullptr}, contrast);
  at::Tensor left = at::zeros({1, 1, 8, 8});
  left.narrow(3, 0, 4).fill_(1);
  check_walk("inside a region", asked, contrast, {toward("a")}, left);
}

/// Maps of all kinds that need no reconstruction, averaged over more or fewer draws of noise.
void check_all_maps(Execution graphs) {
  const at::Tensor x = images_on_device();
  struct Kind {
    std::string name;
    decltype(&evidence_and_score_difference_maps) maps;
  };
  const std::vector<Kind> kinds = {{"evidence", evidence_maps},
                                   {"score differences", score_difference_maps},
                                   {"evidence and score differences", evidence_and_score_difference_maps}};
  for (const auto execution : {Execution::kAuto, Execution::kFused})
    for (const auto precision : {NetworkPrecision::kFull, NetworkPrecision::kBFloat16}) {
      const auto predictor = make_noise_predictor(denoiser_on_device(tiny_options(), execution), kSchedule,
                                                  Prediction::kV, {}, precision, graphs);
      for (const Kind& kind : kinds)
        check_no_waits("maps, " + kind.name + described(precision, execution, graphs), [&](std::int64_t draws) {
          EvidenceOptions options;
          options.levels.clear();
          for (std::int64_t i = 1; i <= draws / 2; ++i) options.levels.push_back(40 * i);
          options.samples = 2;
          (void)kind.maps(*predictor, kSchedule, x, {4, 9}, at::eye(3), options);
        });
    }
}

}  // namespace

TEST_CASE("the profiler counts what waits for a device and what reads it", "[translator][gpu]") {
  if (no_device()) return;
  const at::Tensor x = at::ones({64}, first_device());
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

TEST_CASE("a sampling loop of any solver waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_solvers();
}

TEST_CASE("a sampling loop of captured calls waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_walks(Execution::kFused);
}

TEST_CASE("averaging maps over noise waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_maps(Execution::kReference);
}

TEST_CASE("averaging maps over captured calls waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_maps(Execution::kFused);
}

TEST_CASE("a program that prepares images on a device waits for nothing and reads nothing back", "[image][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  ChannelAugmenterOptions options;
  options.max_rotation = 10, options.max_contrast = 0.1;
  const HeatmapChannelAugmenter augmenter(options);
  const at::Tensor images = float_tensor({2, 1, 64, 48}, 1).to(device),
                   maps = float_tensor({2, 3, 32, 24}, 2).to(device);
  for (const auto& [execution, how] : {std::pair{Execution::kReference, "operators"}, {Execution::kFused, "kernels"}})
    check_no_waits(std::string("images, ") + how, [&, by = execution](std::int64_t steps) {
      for (std::int64_t step = 0; step < steps; ++step) {
        at::Tensor image = resized(images, 32, 24, /*antialias=*/true, by), map = maps;
        augmenter.augment(image, map, {0, 1}, static_cast<std::uint64_t>(step), by);
        (void)augmenter.apply(scaled_pixels(image, kClipPixels), map);
      }
    });
}
