// Memory of freed tensors is used again, within the limit, and a translation needs no more of it once its steps repeat.

#include "daug/backend/tensor_memory.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/dpm_solver.h"
#include "daug/translator/noise_aware_classifier.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// On while it lives.
struct Reuse {
  explicit Reuse(std::size_t most_bytes = std::size_t{1} << 30) { reuse_tensor_memory(most_bytes); }
  ~Reuse() { reuse_tensor_memory(0); }
};

/// Takes note of how much memory was fresh before and after every call of another predictor.
class FreshAfterCalls : public NoisePredictor {
 public:
  explicit FreshAfterCalls(std::shared_ptr<const NoisePredictor> inner) : inner_(std::move(inner)) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    before.push_back(tensor_memory().fresh);
    at::Tensor answer = inner_->noise(x, level, condition);
    fresh.push_back(tensor_memory().fresh);
    return answer;
  }
  mutable std::vector<std::int64_t> before, fresh;

 private:
  std::shared_ptr<const NoisePredictor> inner_;
};

std::shared_ptr<const NoisePredictor> predictor_of_two(const NoiseSchedule& schedule) {
  DenoiserUNetOptions network;
  network.image_size = 16, network.model_channels = 32, network.channel_mult = {1, 2}, network.num_res_blocks = 1;
  network.attention_downsample = {2}, network.num_heads = 2, network.num_findings = 2;
  return make_noise_predictor(DenoiserUNet(network), schedule, Prediction::kV);
}

at::Tensor three_images() { return random_tensor({3, 1, 16, 16}, 5).clamp(-1, 1).to(at::kFloat); }

}  // namespace

TEST_CASE("a freed tensor's memory serves the next of its size", "[backend][memory]") {
  const Reuse reuse;
  const void* first = nullptr;
  {
    const at::Tensor tensor = at::empty({1000, 1000});
    first = tensor.data_ptr();
    CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
  }
  const TensorMemory before = tensor_memory();
  CHECK(before.kept >= 4000000);
  const at::Tensor again = at::full({500, 1990}, 7.0F);  // half a percent smaller
  CHECK(again.data_ptr() == first);
  CHECK(tensor_memory().fresh == before.fresh);
  CHECK(tensor_memory().requests > before.requests);
  CHECK(again.sum().item<double>() == Approx(7.0 * 500 * 1990));
}

TEST_CASE("freed memory is kept up to the limit", "[backend][memory]") {
  const Reuse reuse(1 << 20);
  reuse_tensor_memory(0);
  CHECK(tensor_memory().kept == 0);
  reuse_tensor_memory(1 << 20);
  { const at::Tensor large = at::empty({2 << 20}, at::kByte); }
  CHECK(tensor_memory().kept == 0);
  {
    std::vector<at::Tensor> small;
    for (int i = 0; i < 8; ++i) small.push_back(at::empty({300 << 10}, at::kByte));
  }
  CHECK(tensor_memory().kept <= 1 << 20);
  CHECK(tensor_memory().kept >= 900 << 10);
  reuse_tensor_memory(0);
  CHECK(tensor_memory().kept == 0);
  { const at::Tensor tensor = at::empty({1000}); }
  CHECK(tensor_memory().kept == 0);
}

TEST_CASE("blocks of every size hold what tensors write", "[backend][memory]") {
  const Reuse reuse;
  for (int round = 0; round < 2; ++round)
    for (std::int64_t bytes = 1; bytes < 40000; bytes += bytes < 600 ? 1 : 997) {
      const at::Tensor one = at::full({bytes}, 1, at::kByte), two = at::full({bytes}, 2, at::kByte);
      REQUIRE(one.sum().item<std::int64_t>() == bytes);
      REQUIRE(two.sum().item<std::int64_t>() == 2 * bytes);
    }
}

TEST_CASE("an impossible size is refused as without reuse", "[backend][memory]") {
  const Reuse reuse;
  CHECK_THROWS(at::empty({std::int64_t{1} << 60}, at::kByte));
}

TEST_CASE("a translation takes no new memory once its steps repeat", "[backend][memory]") {
  const Reuse reuse;
  const NoiseSchedule schedule = NoiseSchedule::linear(1000);
  const auto predictor = predictor_of_two(schedule);
  NoiseAwareClassifierOptions classifier;
  classifier.image_size = 16, classifier.model_channels = 32, classifier.channel_mult = {1, 2};
  classifier.num_res_blocks = 1, classifier.num_head_channels = 32, classifier.out_channels = 2;
  const auto guide = make_guidance_classifier(NoiseAwareClassifier(classifier), schedule);
  struct Way {
    GuidanceKind kind;
    double classifier_scale;
    const char* solver;
    std::int64_t order = 0;  ///< of DpmSolver, if not its default
  };
  const std::vector<Way> ways = {{GuidanceKind::kContrast, 0, "ddim"}, {GuidanceKind::kClassifierFree, 0, "ddim"},
                                 {GuidanceKind::kNone, 0, "ddim"},     {GuidanceKind::kClassifier, 5, "ddim"},
                                 {GuidanceKind::kContrast, 0, "dpm"},  {GuidanceKind::kNone, 0, "dpm", 3},
                                 {GuidanceKind::kContrast, 0, "bdia"}};
  for (const Way& way : ways) {
    INFO("kind " << static_cast<int>(way.kind) << ", " << way.solver);
    TranslatorOptions options;
    options.level = 400, options.steps = 6, options.solver = make_solver(way.solver);
    if (way.order > 0) options.solver = std::make_shared<DpmSolver>(DpmSolverOptions{way.order});
    options.guidance.kind = way.kind, options.guidance.classifier_scale = way.classifier_scale;
    const DiffusionTranslator translator(predictor, schedule, {"a", "b"}, options, guide);
    const std::vector<Target> targets = {toward("a"), away_from("b")};
    const at::Tensor x = three_images();
    c10::InferenceMode inference;
    at::Tensor latent;
    // Walks are made twice: in a program's first one LibTorch's own memory is filled as well, in its first steps.
    for (const bool first : {true, false}) {
      INFO("first walk " << first);
      reuse_tensor_memory(0);
      reuse_tensor_memory();
      std::vector<std::int64_t> fresh;
      RunControl control;
      control.progress = [&](const Progress&) { fresh.push_back(tensor_memory().fresh); };
      const auto check_fresh = [&](bool first_asks = true) {
        REQUIRE(fresh.size() == 6);
        CAPTURE(fresh);
        CHECK(fresh[5] == fresh[(first ? 1 : 0) + (first_asks ? 0 : 1)]);
        fresh.clear();
      };
      const bool first_asks = way.solver != std::string("bdia");  // its latent holds what the first step down reaches
      const std::int64_t before = tensor_memory().fresh;
      const at::Tensor encoded = translator.encode(x, {}, control);
      CHECK(fresh.at(0) > before);
      check_fresh();
      translator.reconstruct(encoded, {}, control);
      check_fresh(first_asks);
      translator.decode(encoded, targets, {}, control);
      check_fresh(first_asks);
      if (first)
        latent = encoded;
      else
        CHECK(same_bits(encoded, latent));
    }
  }
}

TEST_CASE("maps without a reconstruction take no new memory once their levels repeat", "[backend][memory]") {
  const Reuse reuse;
  const NoiseSchedule schedule = NoiseSchedule::linear(1000);
  const FreshAfterCalls predictor(predictor_of_two(schedule));
  EvidenceOptions options;
  options.levels = {40, 80, 120, 160, 200, 250};
  const at::Tensor x = three_images(), present = at::eye(2);
  const std::vector<std::uint64_t> items = {4, 5, 6};
  c10::InferenceMode inference;
  for (const auto& maps :
       {std::function<at::Tensor()>([&] { return evidence_maps(predictor, schedule, x, items, present, options); }),
        std::function<at::Tensor()>(
            [&] { return score_difference_maps(predictor, schedule, x, items, present, options); }),
        std::function<at::Tensor()>(
            [&] { return evidence_and_score_difference_maps(predictor, schedule, x, items, present, options); })}) {
    for (const bool first : {true, false}) {  // as above
      INFO("first maps " << first);
      reuse_tensor_memory(0);
      reuse_tensor_memory();
      predictor.before.clear(), predictor.fresh.clear();
      const std::int64_t before = tensor_memory().fresh;
      maps();
      const std::size_t calls = predictor.fresh.size() / options.levels.size();
      REQUIRE(calls >= 1);
      CHECK(predictor.fresh.front() > before);
      CHECK(predictor.fresh.back() == (first ? predictor.fresh[3 * calls - 1] : predictor.before[calls]));
    }
  }
}
