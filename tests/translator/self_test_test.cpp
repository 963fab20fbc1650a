#include "daug/translator/self_test.h"

#include <ATen/ATen.h>

#include <cmath>

#include "daug/translator/diffusion_translator.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// A world of images that are 0.5 everywhere on one side where finding 0 is present and -0.5 where it is absent, and
/// likewise for finding 1 on the other side, give or take kDeviation a pixel; finding 2 leaves no trace.
const std::vector<std::string> kSides = {"left", "right", "nothing"};
constexpr double kDeviation = 0.1;

at::Tensor clean_images(const at::Tensor& states) {
  const auto side = [&](std::int64_t f) {
    return 0.5 * states.select(1, f).reshape({-1, 1, 1, 1}).expand({-1, 1, 4, 2});
  };
  return at::cat({side(0), side(1)}, 3);
}

/// Its exact denoiser, but for the deviation. `sign` -1: the labels were exchanged.
class TwoSides : public NoisePredictor {
 public:
  TwoSides(NoiseSchedule schedule, double sign) : schedule_(std::move(schedule)), sign_(sign) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const std::int64_t asked = std::max<std::int64_t>(level, 1);
    const at::Tensor clean = clean_images(sign_ * condition.to(x.scalar_type()));
    return (x - schedule_.signal(asked) * clean) / schedule_.noise(asked);
  }

 private:
  NoiseSchedule schedule_;
  double sign_;
};

/// Its exact classifier: a side of 8 pixels from N(+-0.5 s, v) has log-odds s / v times their sum. The log-likelihood
/// of presence saturates: its gradient is the log-odds' times 1 - p.
class SidesClassifier : public GuidanceClassifier {
 public:
  SidesClassifier(NoiseSchedule schedule, double sign) : schedule_(std::move(schedule)), sign_(sign) {}
  std::int64_t num_findings() const override { return 3; }
  at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const double s = schedule_.signal(level), n = schedule_.noise(level);
    const double slope = sign_ * s / (s * s * kDeviation * kDeviation + n * n);
    std::vector<at::Tensor> sides;
    for (std::int64_t f = 0; f < 2; ++f) {
      const at::Tensor state = condition.select(1, f).to(x.scalar_type()).reshape({-1, 1, 1, 1});
      const at::Tensor odds = slope * x.narrow(3, 2 * f, 2).sum({1, 2, 3}, true);
      sides.push_back((slope * state * at::sigmoid(-odds * state)).expand({-1, 1, 4, 2}));
    }
    return at::cat(sides, 3);
  }

 private:
  NoiseSchedule schedule_;
  double sign_;
};

LabelledBatch labelled_batch(std::int64_t count) {
  const at::Tensor states = at::where(random_tensor({count, 3}, 5) > 0, 1.0, -1.0).to(at::kDouble);
  LabelledBatch batch{clean_images(states) + kDeviation * random_tensor({count, 1, 4, 4}, 6), states, {}};
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) batch.items.push_back(i);
  return batch;
}

DiffusionTranslator translator_of(double denoiser, double classifier, GuidanceKind kind, std::int64_t max_batch = 256) {
  const auto schedule = NoiseSchedule::linear(1000);
  TranslatorOptions options;
  options.level = 250;
  options.steps = 5;
  options.max_batch = max_batch;
  options.guidance.kind = kind;
  options.guidance.classifier_scale = classifier == 0 ? 0 : 1;
  return {std::make_shared<TwoSides>(schedule, denoiser), schedule, kSides, options,
          classifier == 0 ? nullptr : std::make_shared<SidesClassifier>(schedule, classifier)};
}

}  // namespace

TEST_CASE("the self-test tells conditions and classifiers whose labels were exchanged", "[translator]") {
  const LabelledBatch batch = labelled_batch(40);
  const std::vector<std::string> sides = {"left", "right"}, nothing = {"nothing"};
  const auto right = [&](const PolarityTest& test) {
    CHECK(test.passed());
    REQUIRE(test.separation.size() == 3);
    CHECK(test.separation[0] > 5);
    CHECK(test.separation[1] > 5);
    CHECK(test.undecided == nothing);
  };
  const auto wrong = [&](const PolarityTest& test) {
    CHECK_FALSE(test.passed());
    CHECK(test.swapped == sides);
    CHECK(test.undecided == nothing);
  };
  for (const auto kind : {GuidanceKind::kNone, GuidanceKind::kClassifierFree, GuidanceKind::kContrast}) {
    const SelfTest good = translator_of(1, 0, kind).self_test(batch);
    right(good.denoiser);
    CHECK(good.classifier.separation.empty());
    CHECK(good.passed());
    const SelfTest swapped = translator_of(-1, 0, kind).self_test(batch);
    wrong(swapped.denoiser);
    CHECK_FALSE(swapped.passed());
  }
  // Each is judged by itself: a right denoiser does not hide a swapped classifier, nor the other way round.
  for (const double denoiser : {1, -1})
    for (const double classifier : {1, -1}) {
      const SelfTest both = translator_of(denoiser, classifier, GuidanceKind::kContrast).self_test(batch);
      denoiser > 0 ? right(both.denoiser) : wrong(both.denoiser);
      classifier > 0 ? right(both.classifier) : wrong(both.classifier);
      CHECK(both.passed() == (denoiser > 0 && classifier > 0));
      // A classifier alone asks the denoiser for nothing that labels could have turned.
      const SelfTest alone = translator_of(denoiser, classifier, GuidanceKind::kClassifier).self_test(batch);
      CHECK(alone.denoiser.separation.empty());
      CHECK(alone.classifier.separation == both.classifier.separation);
      CHECK(alone.passed() == (classifier > 0));
    }

  const SelfTest whole = translator_of(1, 1, GuidanceKind::kContrast).self_test(batch);
  const SelfTest split = translator_of(1, 1, GuidanceKind::kContrast, 7).self_test(batch);
  for (std::size_t f = 0; f < 2; ++f) {
    CHECK(split.denoiser.separation[f] == Approx(whole.denoiser.separation[f]).epsilon(1e-9));
    CHECK(split.classifier.separation[f] == Approx(whole.classifier.separation[f]).epsilon(1e-9));
  }
}

TEST_CASE("the self-test says nothing without labels, and refuses what does not fit", "[translator]") {
  const DiffusionTranslator translator = translator_of(1, 1, GuidanceKind::kContrast);
  LabelledBatch sparse = labelled_batch(40);
  sparse.states.select(1, 0).fill_(0);
  sparse.states[0][0] = 1;
  const SelfTest test = translator.self_test(sparse);
  for (const PolarityTest& part : {test.denoiser, test.classifier}) {
    CHECK(std::isnan(part.separation[0]));
    CHECK(part.undecided == std::vector<std::string>{"left", "nothing"});
    CHECK(part.passed());
  }

  const LabelledBatch good = labelled_batch(4);
  CHECK(mentions(caught([&] { translator.self_test({good.x, good.states.narrow(1, 0, 2), good.items}); }), "states"));
  contains(error_text(ErrorCode::kInvalidArgument, [&] { translator.self_test({good.x, {}, good.items}); }), "states");
  contains(error_text(ErrorCode::kInvalidArgument,
                      [&] {
                        translator.self_test({good.x, 2 * good.states, good.items});
                      }),
           "states: expected 1 (present), -1 (absent) or 0 (unknown)");
  CHECK(mentions(caught([&] { translator.self_test({good.x, good.states, {1, 2}}); }), "items"));
  CHECK(mentions(caught([&] { translator.self_test({200 * good.x.abs(), good.states, good.items}); }), "0..255"));
  StopSource source;
  source.request_stop();
  CHECK(caught([&] { translator.self_test(good, {{}, source.token()}); }).code() == ErrorCode::kCancelled);
}
