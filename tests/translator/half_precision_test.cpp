// Walks of half networks, beside a guide whose gradients are float32: what pulls is what pulls a float32 network, and
// no state leaves the networks' type.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daug/translator/diffusion_translator.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// A network all of whose layers LibTorch has in halves on the CPU.
std::shared_ptr<const NoisePredictor> network_of(const NoiseSchedule& schedule, at::ScalarType type) {
  DenoiserUNetOptions options = tiny_options();
  options.channel_mult = {1}, options.attention_downsample = {};
  DenoiserUNet network(options);
  randomise(*network, 71, 0.1);
  network->to(type);
  return make_noise_predictor(network, schedule, Prediction::kEps);
}

/// The same slope everywhere, float32 whatever the images are, as the guide of a network has it.
class SteadyGuide : public GuidanceClassifier {
 public:
  explicit SteadyGuide(double slope) : slope_(slope) {}
  std::int64_t num_findings() const override { return 3; }
  at::Tensor gradient(const at::Tensor& x, std::int64_t, const at::Tensor& condition) const override {
    const at::Tensor states = condition.to(at::kFloat).sum(1).reshape({-1, 1, 1, 1});
    return slope_ * states * at::ones(x.sizes(), at::kFloat);
  }

 private:
  double slope_;
};

}  // namespace

TEST_CASE("a half walk is pulled by gradients that a half holds only with their weight", "[guidance][translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  // Of images around 0 the walk stays at 0, where halves are fine enough, until something pulls.
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, 0.0, 0.5);
  struct Pull {
    double slope, scale;
  };
  for (const auto& [slope, scale] : {Pull{1.5e-8, 1e4}, Pull{1e5, 1e-6}}) {  // 0 and infinite as halves
    INFO("slope " << slope);
    TranslatorOptions options = path_options(250, 5);
    options.guidance.kind = GuidanceKind::kClassifier;
    options.guidance.classifier_scale = scale;
    const DiffusionTranslator translator(predictor, schedule, {"Edema", "Nodule", "Device"}, options,
                                         std::make_shared<SteadyGuide>(slope));
    const auto moved = [&](at::ScalarType type) {
      const at::Tensor x = at::zeros({2, 1, 4, 4}, type);
      const at::Tensor images = translator.translate(x, {toward("Edema"), away_from("Edema")}).images;
      CHECK(images.scalar_type() == type);
      return images.select(1, 0).to(at::kDouble);
    };
    const at::Tensor exact = moved(at::kFloat), half = moved(at::kHalf);
    CHECK(exact.min().item<double>() > 1e-5);  // uphill
    CHECK(largest_difference(half, exact) < 0.03 * exact.max().item<double>());
  }
}

TEST_CASE("the published loop walks half networks in halves", "[published_loop]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const SteadyGuide guide(1e5);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 1)).clamp(-1, 1);
  const at::Tensor fresh = 0.1 * random_tensor({2, 1, 8, 8}, 2).to(at::kFloat);  // whatever the images are
  const at::Tensor condition = at::tensor({1.0F, 0.0F, 0.0F}).repeat({2, 1});
  const auto walked = [&](at::ScalarType type, double scale) {
    PublishedLoopOptions options;
    options.noise_level = 12;
    options.classifier_scale = scale;
    std::int64_t steps = 0;
    const StepDone done = [&](std::int64_t, std::int64_t, const at::Tensor& state) {
      CHECK(state.scalar_type() == type);
      ++steps;
    };
    const at::Tensor image = published_translation(*network_of(schedule, type), schedule, guide, x.to(type), fresh,
                                                   condition, options, done);
    CHECK(steps == 22);
    return image.to(at::kDouble);
  };
  // The pull is scale * slope * noise(l), and moves a state against what a step from level l to l - 1 takes off the
  // noise: all in all about scale * slope * noise(11)^2 / 2 = 0.11.
  const at::Tensor exact = walked(at::kFloat, 1e-3);
  CHECK(largest_difference(walked(at::kHalf, 1e-3), exact) < 0.015);
  CHECK(largest_difference(walked(at::kFloat, 0), exact) > 0.05);
}
