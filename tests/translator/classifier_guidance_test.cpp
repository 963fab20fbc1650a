// A classifier's guidance through a translator: whose findings they are, how strongly each target pulls and where, and
// that what pulls is the gradient of the log-likelihood.

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/translator/diffusion_translator.h"
#include "daug/translator/noise_aware_classifier.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

const std::vector<std::string> kThree = {"Edema", "Nodule", "Device"};

/// log p(states | x) = the sum of the states times 0.3 x - 0.4 x^2, a pixel at a time. Counts what it is asked.
class ParabolaGuide : public GuidanceClassifier {
 public:
  explicit ParabolaGuide(std::vector<std::string> names = {}) : names_(std::move(names)) {}
  static double log_likelihood(double x, double states) { return states * (0.3 * x - 0.4 * x * x); }
  std::int64_t num_findings() const override { return 3; }
  std::vector<std::string> findings() const override { return names_; }
  at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    rows += x.size(0);
    levels.push_back(level);
    return condition.sum(1).reshape({-1, 1, 1, 1}).to(x.scalar_type()) * (0.3 - 0.8 * x);
  }
  mutable std::int64_t rows = 0;
  mutable std::vector<std::int64_t> levels;

 private:
  std::vector<std::string> names_;
};

NoiseAwareClassifier guide_network() {
  NoiseAwareClassifierOptions options;
  options.image_size = 8, options.model_channels = 8, options.num_res_blocks = 1, options.channel_mult = {1, 2};
  options.num_head_channels = 8, options.norm_groups = 4, options.out_channels = 3;
  NoiseAwareClassifier network(options);
  randomise(*network, 21, 0.3);
  network->to(at::kDouble);
  return network;
}

}  // namespace

TEST_CASE("a guide for other findings, or in another order, is refused by name", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11});
  TranslatorOptions options;
  options.guidance.classifier_scale = 1;
  const auto translator = [&](const std::shared_ptr<const GuidanceClassifier>& guide) {
    return DiffusionTranslator(predictor, schedule, kThree, options, guide);
  };
  const auto network = guide_network();
  const auto named = [&](const std::vector<std::string>& names) {
    return make_guidance_classifier(network, schedule, GuidanceHead::kSigmoid, names);
  };
  for (const auto& names : {std::vector<std::string>{"Nodule", "Edema", "Device"}, {"Edema", "Nodule", "Fracture"}})
    for (const auto& guide :
         {std::shared_ptr<const GuidanceClassifier>(std::make_shared<ParabolaGuide>(names)), named(names)}) {
      CHECK(guide->findings() == names);
      const std::string text = error_text(ErrorCode::kMismatch, [&] { translator(guide); });
      contains(text, "classifier: expected one of the model's findings Edema, Nodule, Device");
      contains(text, "got " + names[0] + ", " + names[1] + ", " + names[2]);
    }
  CHECK(translator(named(kThree)).findings() == kThree);
  CHECK(translator(named({})).findings() == kThree);
  check_refused(ErrorCode::kMismatch, "make_guidance_classifier: findings", [&] { named({"Edema", "Nodule"}); });
}

TEST_CASE("a classifier pulls with each target's strength, at the guided levels alone", "[guidance][translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto toy = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11});
  const double latent = -0.8, weight = 1.7, scale = 3;
  const std::vector<double> known = {0, 1, -1};
  struct Lane {
    Target target;
    double states;  ///< of the target, added up
    std::vector<double> destination, source;
  };
  const std::vector<Lane> lanes = {{{"Edema", true, 2.0}, 1, {1, 1, -1}, {-1, 1, -1}},
                                   {{"Nodule", false, 0.5}, -1, {0, -1, -1}, {0, 1, -1}},
                                   {{"Device", true, 0.0}, 1, {0, 1, 1}, {0, 1, -1}},
                                   {toward(kNoFinding), -3, {-1, -1, -1}, {1, 1, 1}}};
  std::vector<Target> targets;
  for (const Lane& lane : lanes) targets.push_back(lane.target);
  for (const auto kind :
       {GuidanceKind::kNone, GuidanceKind::kClassifierFree, GuidanceKind::kContrast, GuidanceKind::kClassifier})
    for (const bool everywhere : {false, true}) {
      INFO("kind " << static_cast<int>(kind) << (everywhere ? ", every level" : ", levels 50 to 80"));
      TranslatorOptions options;
      options.level = 100, options.steps = 4;
      options.guidance.kind = kind, options.guidance.weight = weight, options.guidance.classifier_scale = scale;
      if (!everywhere) options.guidance.lowest_level = 50, options.guidance.highest_level = 80;
      const auto watched = std::make_shared<WatchedPredictor>(toy);
      const auto guide = std::make_shared<ParabolaGuide>();
      const DiffusionTranslator translator(watched, schedule, kThree, options, guide);
      const at::Tensor images = translator.decode(at::full({1, 1, 1, 1}, latent, at::kDouble), targets,
                                                  at::tensor(known, at::kDouble).unsqueeze(0));

      const std::vector<std::int64_t> path = {100, 75, 50, 25, 0};
      const auto guides = [&](std::int64_t level) { return everywhere || level == 75 || level == 50; };
      for (std::size_t k = 0; k < lanes.size(); ++k) {
        const Lane& lane = lanes[k];
        const double strength = lane.target.strength;
        double x = latent;
        for (std::size_t i = 0; i + 1 < path.size(); ++i) {
          const std::int64_t level = path[i];
          const double null = toy->scalar(x, level, known), to = toy->scalar(x, level, lane.destination);
          double eps = kind == GuidanceKind::kClassifier ? null : to;
          if (guides(level)) {
            if (kind == GuidanceKind::kClassifierFree) eps = null + weight * strength * (to - null);
            if (kind == GuidanceKind::kContrast)
              eps = to + weight * strength * (to - toy->scalar(x, level, lane.source));
            constexpr double kStep = 1e-3;  // of a parabola the difference is exact
            const double slope = (ParabolaGuide::log_likelihood(x + kStep, lane.states) -
                                  ParabolaGuide::log_likelihood(x - kStep, lane.states)) /
                                 (2 * kStep);
            eps -= scale * strength * std::sqrt(1 - schedule.abar(level)) * slope;
          }
          const double clean = (x - std::sqrt(1 - schedule.abar(level)) * eps) / std::sqrt(schedule.abar(level));
          x = std::sqrt(schedule.abar(path[i + 1])) * clean + std::sqrt(1 - schedule.abar(path[i + 1])) * eps;
        }
        CHECK(images[0][static_cast<std::int64_t>(k)].item<double>() == Approx(x).epsilon(1e-10));
      }

      const bool two = kind == GuidanceKind::kClassifierFree || kind == GuidanceKind::kContrast;
      const std::int64_t guided = everywhere ? 4 : 2, rows = 4 * (4 + (two ? guided : 0));
      CHECK(watched->rows == rows);
      CHECK(guide->rows == 4 * guided);
      CHECK(guide->levels ==
            (everywhere ? std::vector<std::int64_t>{100, 75, 50, 25} : std::vector<std::int64_t>{75, 50}));
      const NetworkCalls calls = translator.calls_per_image(4);
      CHECK(calls.denoiser == 2 * 4 + rows);  // two evaluations an encode step
      CHECK(calls.classifier_gradients == 4 * guided);
    }
}

TEST_CASE("what a network adds to a step is the gradient of its log-likelihood", "[guidance][translator]") {
  // One step from a level to the clean image: the term - s strength noise gradient of eps moves it by
  // s strength noise^2 / signal times the gradient.
  const auto schedule = NoiseSchedule::linear(1000);
  const std::int64_t level = 200;
  auto network = guide_network();
  const auto predictor = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11});
  const std::vector<Target> targets = {{"Nodule", true, 2.0}, {"Edema", false, 0.5}};
  const at::Tensor latent = random_tensor({2, 1, 8, 8}, 14);
  for (const auto head : {GuidanceHead::kSigmoid, GuidanceHead::kSoftmax})
    for (const auto kind : {GuidanceKind::kClassifier, GuidanceKind::kContrast}) {
      TranslatorOptions options;
      options.level = level, options.steps = 1;
      options.guidance.kind = GuidanceKind::kContrast, options.guidance.classifier_scale = 0;
      const DiffusionTranslator without(predictor, schedule, kThree, options);
      options.guidance.kind = kind, options.guidance.classifier_scale = 3;
      const DiffusionTranslator with(predictor, schedule, kThree, options,
                                     make_guidance_classifier(network, schedule, head, kThree));
      const at::Tensor plain =
          kind == GuidanceKind::kContrast ? without.decode(latent, targets) : without.reconstruct(latent).unsqueeze(1);
      const at::Tensor change = with.decode(latent, targets) - plain;
      const auto log_likelihood = [&](const at::Tensor& image, std::int64_t finding, bool present) {
        at::NoGradGuard no_grad;
        const at::Tensor logits = network->forward(image, at::full({2}, level - 1, at::kLong));
        const at::Tensor p = (head == GuidanceHead::kSigmoid ? at::sigmoid(logits) : at::softmax(logits, 1));
        return (present ? p.select(1, finding) : 1 - p.select(1, finding)).log();
      };
      for (std::int64_t k = 0; k < 2; ++k) {
        const double strength = targets[static_cast<std::size_t>(k)].strength;
        const double factor = 3 * strength * schedule.noise(level) * schedule.noise(level) / schedule.signal(level);
        const at::Tensor gradient = change.select(1, k).reshape({2, 64}) / factor;
        CHECK(gradient.abs().max().item<double>() > 1e-4);
        for (const std::int64_t pixel : {0, 19, 42, 63}) {
          constexpr double kStep = 1e-5;
          at::Tensor up = latent.clone(), down = latent.clone();
          up.view({2, 64}).select(1, pixel).add_(kStep);
          down.view({2, 64}).select(1, pixel).sub_(kStep);
          const bool present = k == 0;
          const std::int64_t finding = present ? 1 : 0;
          const at::Tensor slope =
              (log_likelihood(up, finding, present) - log_likelihood(down, finding, present)) / (2 * kStep);
          CHECK(largest_difference(gradient.select(1, pixel), slope) < 1e-7);
        }
      }
    }
}
