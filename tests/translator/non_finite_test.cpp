// Whatever samples stops where a value turns non-finite, and says where: no map of NaN is handed on.

#include <ATen/ATen.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/self_test.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

const std::vector<std::string> kFindings = {"Edema", "Nodule"};

/// Pulls towards the states; at one level its gradient is infinite.
class OverflowingClassifier : public GuidanceClassifier {
 public:
  explicit OverflowingClassifier(std::int64_t level) : level_(level) {}
  std::int64_t num_findings() const override { return static_cast<std::int64_t>(kFindings.size()); }
  at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const at::Tensor pull = at::zeros_like(x) + condition.sum(1).reshape({-1, 1, 1, 1}).to(x.scalar_type());
    return level == level_ ? pull * std::numeric_limits<double>::infinity() : pull;
  }

 private:
  std::int64_t level_;
};

/// At level 75 NaN for the items of which Nodule is to be absent while Edema is present.
class BrokenForOneTarget : public NoisePredictor {
 public:
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const at::Tensor eps = 0.3 * x;
    if (level != 75 || !condition.defined()) return eps;
    const at::Tensor broken = condition.select(1, 0).gt(0).logical_and(condition.select(1, 1).lt(0));
    return eps.masked_fill(broken.reshape({-1, 1, 1, 1}), std::numeric_limits<double>::quiet_NaN());
  }
};

struct Toy {
  NoiseSchedule schedule = NoiseSchedule::linear(1000);
  std::shared_ptr<WatchedPredictor> watched =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2}));
  at::Tensor x = (0.4 * random_tensor({2, 1, 3, 4}, 1)).clamp(-1, 1);
};

void require_numeric(const Error& error, const std::vector<std::string>& parts) {
  INFO(error.what());
  CHECK(error.code() == ErrorCode::kNumeric);
  for (const auto& part : parts) CHECK(mentions(error, part));
}

}  // namespace

TEST_CASE("every solver stops at the step that a value turns non-finite in", "[translator][non_finite]") {
  for (const char* solver : {"ddim", "dpm", "bdia"}) {
    Toy toy;
    INFO(solver);
    TranslatorOptions options;
    options.level = 100;
    options.steps = 4;
    options.solver = make_solver(solver, 1);
    const DiffusionTranslator translator(toy.watched, toy.schedule, kFindings, options);
    toy.watched->poisoned_level = 50;  // the third step of either way: 0, 25, 50, 75, 100 and back
    const auto encoded = caught([&] { translator.encode(toy.x); });
    require_numeric(encoded, {"daug::DiffusionTranslator::encode", "step 3, level 75"});
    CHECK_FALSE(mentions(encoded, "scale"));  // nothing guides there
    toy.watched->poisoned_level.reset();
    const at::Tensor latent = translator.encode(toy.x);
    toy.watched->poisoned_level = 50;
    require_numeric(caught([&] { translator.decode(latent, {toward("Edema")}); }),
                    {"daug::DiffusionTranslator::decode", "step 3, level 25, guidance weight 2, classifier scale 0"});
    require_numeric(caught([&] { translator.reconstruct(latent); }), {"step 3, level 25"});
  }
}

TEST_CASE("a guide whose gradient is infinite is reported with its scale", "[translator][non_finite]") {
  const Toy toy;
  TranslatorOptions options;
  options.level = 100;
  options.steps = 4;
  options.guidance.kind = GuidanceKind::kClassifier;
  options.guidance.classifier_scale = 7;
  const DiffusionTranslator translator(toy.watched, toy.schedule, kFindings, options,
                                       std::make_shared<OverflowingClassifier>(75));
  require_numeric(caught([&] {
                    translator.translate(toy.x, {toward("Edema"), away_from("Nodule")});
                  }),
                  {"decode", "step 2, level 50", "classifier scale 7, image 0, target 0 (toward Edema, strength 1)"});
  // Where no level is asked of it nothing is the matter.
  CHECK(DiffusionTranslator(toy.watched, toy.schedule, kFindings, options, std::make_shared<OverflowingClassifier>(1))
            .translate(toy.x, {toward("Edema")})
            .images.isfinite()
            .all()
            .item<bool>());
}

TEST_CASE("the image and the target whose value turns non-finite are named, with the target's strength",
          "[translator][non_finite]") {
  const Toy toy;
  const std::vector<Target> targets = {toward("Edema"), {"Nodule", false, 0.5}};
  const at::Tensor known = at::tensor({0.0, 0.0, 1.0, 0.0}).reshape({2, 2});  // Edema is known of the second image
  for (const char* solver : {"ddim", "dpm", "bdia"}) {
    INFO(solver);
    TranslatorOptions options;
    options.level = 100;
    options.steps = 4;
    options.solver = make_solver(solver, 1);
    const DiffusionTranslator translator(std::make_shared<BrokenForOneTarget>(), toy.schedule, kFindings, options);
    require_numeric(caught([&] { translator.translate(toy.x, targets, known); }),
                    {"daug::DiffusionTranslator::decode", "step 2, level 50, guidance weight 2, classifier scale 0",
                     "image 1, target 1 (away from Nodule, strength 0.5)"});
    CHECK(translator.translate(toy.x, targets).images.isfinite().all().item<bool>());  // nothing is broken for these
  }
  // A group is called by its own name.
  const DiffusionTranslator translator(std::make_shared<BrokenForOneTarget>(), toy.schedule, kFindings,
                                       path_options(100, 4));
  const Target group = {"Opacity", false, 1, {"Nodule"}};
  require_numeric(caught([&] {
                    translator.translate(toy.x, {toward("Edema"), away_from("Edema"), group}, known);
                  }),
                  {"image 1, target 2 (away from Opacity, strength 1)"});
}

TEST_CASE("the published loop stops with step, level and scale", "[translator][non_finite]") {
  const Toy toy;
  PublishedLoopOptions options;
  options.noise_level = 5;
  options.classifier_scale = 3;
  const at::Tensor condition = at::tensor({1.0F, 0.0F}).repeat({2, 1});
  const auto run = [&](std::int64_t level, const StepDone& done = {}) {
    published_translation(*toy.watched, toy.schedule, OverflowingClassifier(level), toy.x, at::zeros_like(toy.x),
                          condition, options, done);
  };
  // Four steps up to level 6, then down: 4 to 3 is the fifth, 3 to 2 the sixth.
  require_numeric(caught([&] { run(3); }), {"daug::published_translation", "step 6, level 2", "classifier scale 3"});
  std::int64_t steps = 0;
  run(999, [&](std::int64_t, std::int64_t, at::Tensor&) { ++steps; });
  CHECK(steps == 8);
}

TEST_CASE("maps without a reconstruction stop with level and sample", "[translator][non_finite]") {
  const Toy toy;
  EvidenceOptions options;
  options.levels = {40, 100, 250};
  options.samples = 2;
  toy.watched->poisoned_level = 100;
  require_numeric(caught([&] {
                    evidence_maps(*toy.watched, toy.schedule, toy.x, {1, 2}, 2, options);
                  }),
                  {"daug::evidence_maps", "level 100, sample 0"});
  require_numeric(caught([&] {
                    score_difference_maps(*toy.watched, toy.schedule, toy.x, {1, 2}, 2, options);
                  }),
                  {"daug::score_difference_maps", "level 100, sample 0"});
}

TEST_CASE("the self-test does not take networks without numbers for undecided", "[translator][non_finite]") {
  const Toy toy;
  TranslatorOptions options;
  options.level = 100;
  options.steps = 4;  // asked at levels 25, 50 and 75
  const LabelledBatch batch{toy.x, at::tensor({1.0, -1.0, -1.0, 1.0}).reshape({2, 2}), {1, 2}};
  const auto test = [&](std::int64_t level_of_guide) {
    return DiffusionTranslator(toy.watched, toy.schedule, kFindings, options,
                               std::make_shared<OverflowingClassifier>(level_of_guide))
        .self_test(batch);
  };
  CHECK(test(1).passed());
  require_numeric(caught([&] { test(75); }), {"daug::DiffusionTranslator::self_test", "classifier, level 75, finding"});
  toy.watched->poisoned_level = 50;
  require_numeric(caught([&] { test(1); }),
                  {"daug::DiffusionTranslator::self_test", "denoiser, level 50, finding Edema"});
}

TEST_CASE("finite halves whose sum is none are finite", "[translator][non_finite]") {
  const at::Tensor halves = at::full({2, 1, 300, 300}, 0.9, at::kHalf);  // 162,000; a half ends at 65,504
  CHECK_NOTHROW(require_finite(halves, "f", "here"));
  for (const auto type : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble})
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity()}) {
      at::Tensor values = at::zeros({3, 5}, type);
      CHECK_NOTHROW(require_finite(values, "f", "here"));
      values[1][2].fill_(bad);
      require_numeric(caught([&] { require_finite(values, "f", "here"); }), {"f: non-finite value at here"});
    }
  CHECK_NOTHROW(require_finite(at::zeros({0, 3}), "f", "here"));
}
