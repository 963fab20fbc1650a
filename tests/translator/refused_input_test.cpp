// What cannot be answered is refused before a network is asked, not after half of a walk.

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daug/heatmap/map_student.h"
#include "daug/heatmap/maps.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/self_test.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/small_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Knows two findings; counts what it is asked.
class IdleGuide : public GuidanceClassifier {
 public:
  std::int64_t num_findings() const override { return 2; }
  at::Tensor gradient(const at::Tensor& x, std::int64_t, const at::Tensor&) const override {
    ++asked;
    return at::zeros_like(x);
  }
  mutable std::int64_t asked = 0;
};

at::Tensor eight_pixels() { return (0.4 * random_tensor({2, 1, 8, 8}, 3)).clamp(-1, 1); }

}  // namespace

TEST_CASE("the published loop refuses states that its classifier cannot be asked for", "[published_loop]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const WatchedPredictor watched(std::make_shared<LinearPredictor>(0.3, std::vector<double>{}));
  const IdleGuide guide;
  PublishedLoopOptions options;
  options.noise_level = 4;
  const at::Tensor x = eight_pixels(), fresh = at::zeros_like(x);
  const auto walk = [&](const at::Tensor& condition) {
    published_translation(watched, schedule, guide, x, fresh, condition, options);
  };
  for (const at::Tensor& other : {at::Tensor(), at::ones({2, 1}), at::ones({2, 3}), at::ones({1, 2}), at::ones({2})})
    check_refused(ErrorCode::kMismatch, "published_translation: condition: expected shape [2, 2]",
                  [&] { walk(other); });
  for (const double state : {0.5, -3.0, std::nan("")})
    check_refused(ErrorCode::kInvalidArgument, "published_translation: condition: expected 1 (present)", [&] {
      walk(at::full({2, 2}, state));
    });
  CHECK(watched.rows == 0);
  walk(at::tensor({1.0, 0.0, 0.0, -1.0}).reshape({2, 2}));
  CHECK(watched.rows == 2 * 2 * 3);
  CHECK(guide.asked == 3);
}

TEST_CASE("a network of other findings than are named is not walked with", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watched =
      std::make_shared<WatchedPredictor>(make_noise_predictor(tiny_unet(tiny_options(3)), schedule, Prediction::kV));
  const at::Tensor x = eight_pixels(), region = at::ones({1, 1, 8, 8}, at::kDouble);
  const std::vector<std::uint64_t> items = {1, 2};
  const auto refused = [&](const std::function<void()>& action) {
    check_refused(ErrorCode::kInvalidArgument, "condition: expected shape", action);
    CHECK(watched->rows == 0);
  };
  for (const auto& names : {std::vector<std::string>{"a", "b"}, {"a", "b", "c", "d"}}) {
    const auto count = static_cast<std::int64_t>(names.size());
    INFO(count << " names");
    for (const auto kind : {GuidanceKind::kNone, GuidanceKind::kClassifierFree, GuidanceKind::kContrast}) {
      TranslatorOptions options = path_options(60, 3);
      options.guidance.kind = kind;
      const DiffusionTranslator translator(watched, schedule, names, options);
      refused([&] { translator.translate(x, {toward("a")}); });
      refused([&] { translator.translate_inside(region, x, {toward("a")}); });
      refused([&] { translator.decode(x, {toward("a")}); });
      refused([&] { translator.encode(x, at::zeros({2, count})); });
      refused([&] { translator.reconstruct(x, at::zeros({2, count})); });
      refused([&] { translator.self_test({x, at::zeros({2, count}), items}); });
    }
    refused([&] { evidence_maps(*watched, schedule, x, items, count); });
    refused([&] { score_difference_maps(*watched, schedule, x, items, count); });
    refused([&] { evidence_and_score_difference_maps(*watched, schedule, x, items, at::eye(count)); });
  }
  CHECK_NOTHROW(evidence_maps(*watched, schedule, x, items, 3));
  CHECK(watched->rows > 0);
}

TEST_CASE("a guide to images of other channels is refused before anything is encoded", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  NoiseAwareClassifierOptions gray = tiny_classifier_options(ClassifierPool::kAdaptive);
  const auto guide = make_guidance_classifier(NoiseAwareClassifier(gray), schedule);
  CHECK(guide->channels() == 1);
  WatchedPredictor colour(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11}));
  TranslatorOptions options = path_options(60, 3);
  options.guidance.classifier_scale = 1;
  const auto translator = [&](std::int64_t channels) {
    const auto predictor = std::make_shared<WatchedPredictor>(colour);
    predictor->known_channels = channels;
    return DiffusionTranslator(predictor, schedule, kSmallFindings, options, guide);
  };
  check_refused(ErrorCode::kMismatch, "classifier: expected one of images of 3 channels, got one of 1",
                [&] { translator(3); });
  for (const std::int64_t channels : {0, 1}) CHECK_NOTHROW(translator(channels));  // 0: not known
  const at::Tensor x = at::cat({eight_pixels(), eight_pixels(), eight_pixels()}, 1);
  check_refused(ErrorCode::kInvalidArgument, "published_translation: x: expected shape [B, 1, H, W]", [&] {
    published_translation(colour, schedule, *guide, x, x, at::ones({2, 3}));
  });
  CHECK(colour.rows == 0);
}

TEST_CASE("models that count the levels of another schedule are refused before a network is asked", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watched = std::make_shared<WatchedPredictor>(small_network(schedule, true));
  const auto guide = small_guide(schedule, at::kFloat);
  const at::Tensor x = at::zeros({1, 1, 16, 16});
  EvidenceOptions evidence;
  evidence.levels = {40};
  PublishedLoopOptions loop;
  loop.noise_level = 4;
  DenoisingGateOptions gate;
  gate.levels = {40};
  for (const auto& other : {NoiseSchedule::cosine(1000), NoiseSchedule::linear(500), schedule.with_zero_terminal_snr(),
                            schedule.respaced(space_timesteps(1000, "100"))}) {
    INFO(other.name() << ", " << other.steps() << " steps");
    const auto refused = [&](const std::string& where, const std::function<void()>& action) {
      check_refused(ErrorCode::kMismatch, where + ": expected one of schedule " + other.name(), action);
      CHECK(watched->rows == 0);
    };
    refused("daug::DiffusionTranslator: predictor",
            [&] { DiffusionTranslator(watched, other, kSmallFindings, path_options(60, 3)); });
    refused("daug::DiffusionTranslator: classifier", [&] {
      DiffusionTranslator(small_network(other, true), other, kSmallFindings, path_options(60, 3), guide);
    });
    refused("daug::make_clipping_predictor: predictor", [&] { make_clipping_predictor(watched, other); });
    refused("daug::evidence_maps: predictor", [&] { evidence_maps(*watched, other, x, {1}, 3, evidence); });
    refused("daug::score_difference_maps: predictor",
            [&] { score_difference_maps(*watched, other, x, {1}, 3, evidence); });
    refused("daug::evidence_and_score_difference_maps: predictor",
            [&] { evidence_and_score_difference_maps(*watched, other, x, {1}, at::eye(3), evidence); });
    refused("daug::published_translation: predictor", [&] {
      published_translation(*watched, other, *guide, x, x, at::ones({1, 3}), loop);
    });
    refused("daug::published_reconstruction: predictor",
            [&] { published_reconstruction(*watched, other, x, x, loop); });
    refused("daug::DenoisingGate: predictor", [&] { DenoisingGate::fit(watched, other, x, {1}, gate); });
    refused("daug::MapStudent::load: predictor", [&] { MapStudent::load("none", {}, {}, "", watched, other); });
  }
  check_refused(ErrorCode::kMismatch, "got one of schedule linear, 1000 steps, level 1 with abar 0.9999 at timestep 0",
                [&] { make_clipping_predictor(watched, NoiseSchedule::cosine(1000)); });
  // Equal ones need not be the same, and who says nothing is not asked.
  TranslatorOptions options = path_options(60, 3);
  options.guidance.classifier_scale = 1;
  DiffusionTranslator(watched, NoiseSchedule::named("linear"), kSmallFindings, options, guide)
      .translate(x, {toward("Edema")});
  CHECK(watched->rows > 0);
  CHECK_NOTHROW(DiffusionTranslator(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11}),
                                    NoiseSchedule::cosine(1000), kSmallFindings, path_options(60, 3)));
}

TEST_CASE("images of another size than a guide takes are refused before anything is encoded", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  NoiseAwareClassifierOptions fixed = tiny_classifier_options(ClassifierPool::kAttention);
  const auto guide = make_guidance_classifier(NoiseAwareClassifier(fixed), schedule);
  REQUIRE(guide->image_size() == fixed.image_size);
  CHECK(make_guidance_classifier(NoiseAwareClassifier(tiny_classifier_options(ClassifierPool::kAdaptive)), schedule)
            ->image_size() == 0);
  const auto watched =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11}));
  TranslatorOptions options = path_options(60, 3);
  options.guidance.classifier_scale = 1;
  const DiffusionTranslator translator(watched, schedule, kSmallFindings, options, guide);
  const std::int64_t size = fixed.image_size;
  const auto refused = [&](const at::Tensor& x) {
    const std::vector<Target> targets = {toward("Edema")};
    const auto check = [&](const std::function<void()>& action) {
      check_refused(ErrorCode::kInvalidArgument, "x: expected images of", action);
      CHECK(watched->rows == 0);
    };
    check([&] { translator.translate(x, targets); });
    check([&] { translator.translate_inside(at::ones_like(x), x, targets); });
    check([&] { translator.decode(x, targets); });
    check([&] { translator.self_test({x, at::ones({x.size(0), 3}), {1}}); });
    PublishedLoopOptions loop;
    loop.noise_level = 4;
    check([&] {
      published_translation(*watched, schedule, *guide, x, at::zeros_like(x), at::ones({x.size(0), 3}), loop);
    });
  };
  refused(at::zeros({1, 1, 2 * size, 2 * size}));
  refused(at::zeros({1, 1, size, 2 * size}));
  CHECK_NOTHROW(translator.translate(at::zeros({1, 1, size, size}), {toward("Edema")}));
  CHECK(watched->rows > 0);
}

TEST_CASE("maps are not begun for states that no class stands for", "[heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  DenoiserUNetOptions network = tiny_options(0);
  network.num_classes = 5;
  // No class for what nobody knows: signed evidence asks for no such estimate, score differences do, after others.
  const StateClasses classes = {{3, 1}, 4, {}};
  const auto watched =
      std::make_shared<WatchedPredictor>(make_noise_predictor(tiny_unet(network), schedule, Prediction::kEps, classes));
  const at::Tensor x = eight_pixels();
  const std::vector<std::uint64_t> items = {1, 2};
  EvidenceOptions options;
  options.max_batch = 1;
  const auto refused = [&](const char* part, const std::function<void()>& action) {
    check_refused(ErrorCode::kInvalidArgument, part, action);
    CHECK(watched->rows == 0);
  };
  refused("condition: expected a known state",
          [&] { score_difference_maps(*watched, schedule, x, items, 2, options); });
  refused("condition: expected a known state",
          [&] { evidence_and_score_difference_maps(*watched, schedule, x, items, at::eye(2), options); });
  const at::Tensor both = at::ones({1, 2});  // exclude each other
  refused("condition: expected one present finding",
          [&] { evidence_maps(*watched, schedule, x, items, both, options); });
  CHECK_NOTHROW(evidence_maps(*watched, schedule, x, items, 2, options));
}

TEST_CASE("no target, an unknown one and a level outside the table are refused wherever they are given",
          "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watched =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11}));
  const DiffusionTranslator translator(watched, schedule, kSmallFindings, path_options(60, 3));
  const at::Tensor x = eight_pixels(), region = at::ones({1, 1, 8, 8}, at::kDouble);
  const std::vector<std::uint64_t> items = {1, 2};
  const auto refused = [&](ErrorCode code, const char* part, const std::function<void()>& action) {
    check_refused(code, part, action);
    CHECK(watched->rows == 0);
  };
  for (const bool inside : {false, true}) {
    const auto translate = [&](const std::vector<Target>& targets) {
      return inside ? translator.translate_inside(region, x, targets) : translator.translate(x, targets);
    };
    refused(ErrorCode::kInvalidArgument, "targets: expected at least one target", [&] { translate({}); });
    refused(ErrorCode::kNotFound, "Fracture", [&] { translate({toward("Edema"), away_from("Fracture")}); });
  }
  const at::Tensor none = at::zeros({0, 3});
  refused(ErrorCode::kInvalidArgument, "evidence_maps: findings",
          [&] { evidence_maps(*watched, schedule, x, items, 0); });
  refused(ErrorCode::kInvalidArgument, "score_difference_maps: findings",
          [&] { score_difference_maps(*watched, schedule, x, items, 0); });
  refused(ErrorCode::kInvalidArgument, "evidence_maps: present",
          [&] { evidence_maps(*watched, schedule, x, items, none); });
  refused(ErrorCode::kInvalidArgument, "score_difference_maps: present",
          [&] { score_difference_maps(*watched, schedule, x, items, none); });
  refused(ErrorCode::kInvalidArgument, "evidence_and_score_difference_maps: present",
          [&] { evidence_and_score_difference_maps(*watched, schedule, x, items, none); });

  const auto guide = small_guide(schedule, at::kDouble);
  const at::Tensor larger = at::zeros({1, 1, 16, 16}, at::kDouble), states = at::ones({1, 3}, at::kDouble);
  CHECK_NOTHROW(guide->gradient(larger, 1000, states));
  for (const std::int64_t level : {-1, 1001}) {
    refused(ErrorCode::kInvalidArgument, "level", [&] { guide->gradient(larger, level, states); });
    refused(ErrorCode::kInvalidArgument, "level", [&] { transition(schedule, x, x, level, 5); });
    refused(ErrorCode::kInvalidArgument, "level", [&] { transition(schedule, x, x, 5, level); });
    refused(ErrorCode::kInvalidArgument, "level", [&] { clean_estimate(schedule, x, x, level); });
    refused(ErrorCode::kInvalidArgument, "level", [&] { noised(schedule, x, x, level); });
  }
}

TEST_CASE("images that a guide does not take are refused before anything is encoded", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAdaptive));  // float32, two levels
  const auto guide = make_guidance_classifier(network, schedule);
  const auto watched =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11}));
  TranslatorOptions options = path_options(60, 3);
  options.guidance.classifier_scale = 1;
  const DiffusionTranslator translator(watched, schedule, kSmallFindings, options, guide);
  const std::vector<Target> targets = {toward("Edema")};
  PublishedLoopOptions loop;
  loop.noise_level = 4;
  const auto refused = [&](const std::string& function, const std::string& part, const std::function<void()>& action) {
    const std::string text = error_text(ErrorCode::kInvalidArgument, action);
    INFO(text);
    CHECK(mentions(text, "daug::" + function + ": x: expected images ", part, ", got "));
    CHECK(watched->rows == 0);
  };
  struct Case {
    at::Tensor x;
    const char* part;
  };
  const at::TensorOptions floats(at::kFloat);
  for (const Case& one : {Case{eight_pixels(), "the classifier's type"},                      // float64
                          Case{at::zeros({2, 1, 1, 8}, floats), "at least 2 pixels a side"},  // a row
                          Case{at::zeros({2, 1, 8, 1}, floats), "at least 2 pixels a side"},  // a column
                          Case{at::zeros({2, 3, 8, 8}, floats), "of 1 channels"}}) {          // of colours
    INFO(one.part);
    refused("DiffusionTranslator::translate", one.part, [&] { translator.translate(one.x, targets); });
    refused("DiffusionTranslator::translate", one.part, [&] {
      translator.translate_inside(at::ones({1, 1, one.x.size(2), one.x.size(3)}), one.x, targets);
    });
    refused("DiffusionTranslator::require_translatable", one.part,
            [&] { translator.require_translatable(one.x, targets); });
    refused("DiffusionTranslator::decode", one.part, [&] { translator.decode(one.x, targets); });
    refused("DiffusionTranslator::self_test", one.part, [&] {
      translator.self_test({one.x, at::ones({2, 3}), {1, 2}});
    });
    if (one.x.size(1) == 1)
      refused("published_translation", one.part, [&] {
        published_translation(*watched, schedule, *guide, one.x, at::zeros_like(one.x), at::ones({2, 3}), loop);
      });
  }
  refused("DiffusionTranslator::decode", "images on cpu, where the classifier is, got meta", [&] {
    translator.decode(at::empty({2, 1, 8, 8}, floats.device(at::kMeta)), targets);
  });

  // BDIA's latent has two states of such images side by side.
  TranslatorOptions two = options;
  two.solver = make_solver("bdia");
  const DiffusionTranslator reversible(watched, schedule, kSmallFindings, two, guide);
  const at::Tensor fits = at::zeros({2, 1, 8, 8}, floats);
  refused("DiffusionTranslator::decode", "of 1 channels", [&] {
    reversible.decode(at::cat({fits, fits, fits, fits}, 1), targets);
  });
  CHECK_NOTHROW(reversible.decode(at::cat({fits, fits}, 1), targets));
  CHECK_NOTHROW(translator.require_translatable(fits, targets));
  CHECK_NOTHROW(translator.translate(fits, targets));
  CHECK(watched->rows > 0);

  // A half network takes images of wider types, and a guide that does not pull takes none.
  const auto half =
      make_guidance_classifier(network, schedule, GuidanceHead::kSigmoid, {}, NetworkPrecision::kBFloat16);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    CHECK_NOTHROW(require_guidable(*half, fits.to(type), "f"));
  options.guidance.classifier_scale = 0;
  CHECK_NOTHROW(
      DiffusionTranslator(watched, schedule, kSmallFindings, options, guide).translate(eight_pixels(), targets));
}

TEST_CASE("a translation that its targets or known states rule out can be asked about before it is paid for",
          "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  DenoiserUNetOptions network = tiny_options(0);
  network.num_classes = 3;
  const StateClasses classes = {{0, 1}, 2, {}};  // no class stands for what nobody knows
  const auto watched =
      std::make_shared<WatchedPredictor>(make_noise_predictor(tiny_unet(network), schedule, Prediction::kEps, classes));
  TranslatorOptions options = path_options(60, 3);
  options.guidance.kind = GuidanceKind::kNone;
  const DiffusionTranslator translator(watched, schedule, {"Edema", "Nodule"}, options);
  const at::Tensor x = eight_pixels(), healthy = at::full({2, 2}, -1.0);
  const std::vector<Target> targets = {toward("Edema")};
  const auto refused = [&](ErrorCode code, const char* part, const std::function<void()>& action) {
    check_refused(code, part, action);
    CHECK(watched->rows == 0);
  };
  for (const at::Tensor& wrong : {2 * x + 1, x[0]})
    refused(ErrorCode::kInvalidArgument, "require_translatable: x",
            [&] { translator.require_translatable(wrong, targets, healthy); });
  refused(ErrorCode::kInvalidArgument, "require_translatable: targets",
          [&] { translator.require_translatable(x, {}, healthy); });
  refused(ErrorCode::kNotFound, "Fracture", [&] { translator.require_translatable(x, {toward("Fracture")}, healthy); });
  refused(ErrorCode::kInvalidArgument, "require_translatable: known", [&] {
    translator.require_translatable(x, targets, at::zeros({2, 3}));
  });
  // Of the way up alone: the targets themselves have a class.
  refused(ErrorCode::kInvalidArgument, "condition: expected a known state",
          [&] { translator.require_translatable(x, targets); });
  CHECK_NOTHROW(translator.require_translatable(x, targets, healthy));
  CHECK(watched->rows == 0);
}

TEST_CASE("the published loop refuses a classifier whose table ends below its levels", "[published_loop]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const WatchedPredictor watched(std::make_shared<LinearPredictor>(0.3, std::vector<double>{}));
  const auto guide = make_guidance_classifier(NoiseAwareClassifier(tiny_classifier_options(ClassifierPool::kAdaptive)),
                                              NoiseSchedule::cosine(20));
  const at::Tensor x = at::zeros({1, 1, 8, 8});
  const auto walk = [&](std::int64_t noise_level) {
    PublishedLoopOptions options;
    options.noise_level = noise_level;
    published_translation(watched, schedule, *guide, x, x, at::ones({1, 3}), options);
  };
  check_refused(ErrorCode::kMismatch,
                "published_translation: classifier: expected one whose schedule has the levels up to 21 that it is "
                "asked at, got one of 20",
                [&] { walk(22); });
  CHECK(watched.rows == 0);
  CHECK_NOTHROW(walk(21));
  CHECK(watched.rows == 2 * 20);
}

TEST_CASE("what is no image is refused by the self-test and by both maps at once", "[translator][heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watched =
      std::make_shared<WatchedPredictor>(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2}));
  watched->known_channels = 1;
  const auto guide = std::make_shared<IdleGuide>();
  TranslatorOptions options = path_options(60, 3);
  options.guidance.classifier_scale = 1;
  const DiffusionTranslator translator(watched, schedule, {"Edema", "Nodule"}, options, guide);
  const at::Tensor x = eight_pixels(), states = at::ones({2, 2});
  const std::vector<std::uint64_t> items = {1, 2};
  for (const auto& [images, part] : not_images(x)) {
    INFO(part);
    const auto refused = [&, part = part](const char* function, const std::function<void()>& action) {
      const std::string text = error_text(ErrorCode::kInvalidArgument, action);
      CHECK(mentions(text, function, part));
      CHECK(watched->rows == 0);
      CHECK(guide->asked == 0);
    };
    refused("daug::DiffusionTranslator::self_test: x", [&, wrong = images] {
      translator.self_test({wrong, states, items});
    });
    refused("daug::evidence_and_score_difference_maps: x",
            [&, wrong = images] { evidence_and_score_difference_maps(*watched, schedule, wrong, items, at::eye(2)); });
  }
  // And what is one is paid for as documented: 12 estimates and 24 gradients an image and finding.
  translator.self_test({x, states, items});
  CHECK(watched->rows == 2 * 12 * 2);
  CHECK(guide->asked == 24 * 2);
}

TEST_CASE("a state that a network has no answer for is refused before the self-test asks it", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  DenoiserUNetOptions network = tiny_options(0);
  network.num_classes = 3;
  const StateClasses classes = {{0, 1}, {}, 2};  // no class is healthy
  const auto watched =
      std::make_shared<WatchedPredictor>(make_noise_predictor(tiny_unet(network), schedule, Prediction::kEps, classes));
  const DiffusionTranslator translator(watched, schedule, {"Edema", "Nodule"}, path_options(60, 3));
  check_refused(ErrorCode::kInvalidArgument, "condition: expected a present finding", [&] {
    translator.self_test({eight_pixels(), at::ones({2, 2}), {1, 2}});
  });
  CHECK(watched->rows == 0);
}

TEST_CASE("maps are not begun under states that are none", "[heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const WatchedPredictor watched(std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2}));
  const at::Tensor x = eight_pixels();
  const std::vector<std::uint64_t> items = {1, 2};
  for (const double state : {0.5, 2.0, std::nan("")}) {
    const at::Tensor present = at::tensor({1.0, state}).unsqueeze(0);
    const auto refused = [&](const std::string& function, const std::function<void()>& action) {
      check_refused(ErrorCode::kInvalidArgument, function + ": present: expected 1 (present)", action);
      CHECK(watched.rows == 0);
    };
    refused("daug::evidence_maps", [&] { evidence_maps(watched, schedule, x, items, present); });
    refused("daug::score_difference_maps", [&] { score_difference_maps(watched, schedule, x, items, present); });
    refused("daug::evidence_and_score_difference_maps",
            [&] { evidence_and_score_difference_maps(watched, schedule, x, items, present); });
  }
}
