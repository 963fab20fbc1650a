// What LibTorch's profiler sees of walks and maps on a device: however many steps there are, the program waits for the
// device and reads it as often.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/translator/ddim_solver.h"
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
    const auto check_walk = [&](const std::string& what, const std::shared_ptr<const NoisePredictor>& asked,
                                const std::function<void(TranslatorOptions&)>& change,
                                const std::vector<Target>& targets = {toward("a"), away_from("b")},
                                const at::Tensor& region = {}) {
      check_no_waits("sampling loop, " + what + type + how, [&](std::int64_t steps) {
        TranslatorOptions options = path_options(100, steps, 2);
        change(options);
        const DiffusionTranslator translator(asked, schedule, {"a", "b", "c"}, options, guide);
        if (region.defined())
          (void)translator.translate_inside(region, x, targets);
        else
          (void)translator.translate(x, targets);
      });
    };
    const auto check_published = [&](const std::string& what, const std::shared_ptr<const NoisePredictor>& asked,
                                     const at::Tensor& wanted, const at::Tensor& of_denoiser) {
      check_no_waits("sampling loop, published loop" + what + type + how, [&](std::int64_t steps) {
        PublishedLoopOptions options;
        options.noise_level = steps + 1, options.classifier_scale = 1;
        (void)published_translation(*asked, schedule, *guide, x, fresh, wanted, options, {}, of_denoiser);
      });
    };
    const auto guided = [](GuidanceKind kind) {
      return [kind](TranslatorOptions& options) {
        options.guidance.kind = kind;
        options.guidance.classifier_scale = kind == GuidanceKind::kClassifier ? 2 : 0;
      };
    };
    const auto check = [&](const std::string& told, const std::shared_ptr<const NoisePredictor>& asked,
                           const std::vector<std::string>& kinds, const at::Tensor& of_denoiser) {
      for (const std::string& kind : kinds) check_walk(kind + told, asked, guided(guidance_kind(kind)));
      check_published(told, asked, condition, of_denoiser);
    };
    const auto of_states = predictor(denoiser), of_class = predictor(with_classes, {{3, 1, 2}, 4, 0});
    check("", of_states, {"classifier_free", "contrast", "classifier"}, {});
    check(" of classes", of_class, {"classifier_free", "contrast", "classifier"}, condition);
    check(" of nothing", predictor(without), {"classifier"}, at::zeros_like(condition));
    check_published(" told from the CPU", of_states, condition.cpu(), condition.cpu());
    check_published(" of classes told from the CPU", of_class, condition.cpu(), condition.cpu());
    const auto solved = [](const std::shared_ptr<const Solver>& solver) {
      return [solver](TranslatorOptions& options) { options.solver = solver; };
    };
    DdimSolverOptions noisy;
    noisy.eta = 0.5, noisy.items = {4, 9};
    check_walk("eta above 0", of_states, solved(std::make_shared<DdimSolver>(noisy)));
    for (const char* name : {"dpm", "bdia"}) check_walk(name, of_states, solved(make_solver(name)));
    check_walk("guidance in an interval", of_states, [](TranslatorOptions& options) {
      options.guidance.lowest_level = 30, options.guidance.highest_level = 70;
    });
    const auto contrast = guided(GuidanceKind::kContrast);
    check_walk("strengths other than 1", of_states, contrast, {{"a", true, 0.5}, {"b", false, 2}});
    check_walk("clipping", make_clipping_predictor(of_states, schedule), contrast);
    at::Tensor left = at::zeros({1, 1, 8, 8});
    left.narrow(3, 0, 4).fill_(1);
    check_walk("inside a region", of_states, contrast, {toward("a")}, left);
  }
}

/// Maps of all kinds that need no reconstruction, averaged over more or fewer draws of noise.
void check_all_maps(Execution graphs) {
  const at::Device device(at::kCUDA, 0);
  const auto schedule = NoiseSchedule::linear(1000);
  auto network = tiny_unet(tiny_options());
  network->to(at::kFloat);
  network->to(device);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 7)).clamp(-1, 1).to(at::kFloat).to(device);
  struct Kind {
    std::string name;
    decltype(&evidence_and_score_difference_maps) maps;
  };
  const std::vector<Kind> kinds = {{"evidence", evidence_maps},
                                   {"score differences", score_difference_maps},
                                   {"evidence and score differences", evidence_and_score_difference_maps}};
  const std::string how = graphs == Execution::kFused ? ", from graphs" : "";
  for (const auto precision : {NetworkPrecision::kFull, NetworkPrecision::kBFloat16}) {
    const auto predictor = make_noise_predictor(network, schedule, Prediction::kV, {}, precision, graphs);
    const std::string type = precision == NetworkPrecision::kFull ? ", float32" : ", bfloat16";
    for (const Kind& kind : kinds)
      check_no_waits("maps, " + kind.name + type + how, [&](std::int64_t draws) {
        EvidenceOptions options;
        options.levels.clear();
        for (std::int64_t i = 1; i <= draws / 2; ++i) options.levels.push_back(40 * i);
        options.samples = 2;
        (void)kind.maps(*predictor, schedule, x, {4, 9}, at::eye(3), options);
      });
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

TEST_CASE("averaging maps over noise waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_maps(Execution::kReference);
}

TEST_CASE("averaging maps over captured calls waits for nothing and reads nothing back", "[translator][gpu]") {
  if (!no_device()) check_all_maps(Execution::kFused);
}
