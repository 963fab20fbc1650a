// Networks that are told one class in place of states of findings, as guided-diffusion's class-conditional ones.

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/self_test.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/host_reads.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

const std::vector<std::string> kTwo = {"Edema", "Nodule"};
const StateClasses kClasses = {{3, 1}, 4, 0};  // class 2 stands for neither

DenoiserUNet class_network() {
  DenoiserUNetOptions options;
  options.image_size = 8, options.model_channels = 8, options.num_res_blocks = 1, options.channel_mult = {1, 2};
  options.norm_groups = 4, options.num_classes = 5;
  DenoiserUNet network(options);
  randomise(*network, 5);
  network->to(at::kDouble);
  network->eval();
  return network;
}

/// What the network itself answers for items of these classes.
at::Tensor told(DenoiserUNet network, const at::Tensor& x, std::int64_t timestep, std::vector<std::int64_t> classes) {
  at::NoGradGuard no_grad;
  return network->forward(x, at::full({x.size(0)}, timestep, at::kLong), at::tensor(classes));
}

at::Tensor two_images(std::uint64_t seed) { return (0.4 * random_tensor({2, 1, 8, 8}, seed)).clamp(-1, 1); }

/// The transition written out.
at::Tensor moved_by_hand(const NoiseSchedule& schedule, const at::Tensor& x, const at::Tensor& eps, std::int64_t from,
                         std::int64_t to) {
  const at::Tensor clean = (x - schedule.noise(from) * eps) / schedule.signal(from);
  return schedule.signal(to) * clean + schedule.noise(to) * eps;
}

/// Pulls nowhere.
class StillGuide : public GuidanceClassifier {
 public:
  std::int64_t num_findings() const override { return 2; }
  at::Tensor gradient(const at::Tensor& x, std::int64_t, const at::Tensor&) const override { return at::zeros_like(x); }
};

/// Holds every call to a condition that was prepared, classes or, for a network that is told nothing, none; and to
/// reading nothing.
class ReadsNothing : public WatchedPredictor {
 public:
  ReadsNothing(std::shared_ptr<const NoisePredictor> inner, bool told_classes)
      : WatchedPredictor(std::move(inner)), told_classes_(told_classes) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    CHECK(condition.defined() == told_classes_);
    if (condition.defined()) CHECK(condition.dim() == 1);
    const HostReads reads;
    const at::Tensor answer = WatchedPredictor::noise(x, level, condition);
    CHECK(reads.count() == 0);
    return answer;
  }

 private:
  bool told_classes_;
};

/// Another predictor that is given its conditions as they are.
class Unprepared : public NoisePredictor {
 public:
  explicit Unprepared(std::shared_ptr<const NoisePredictor> inner) : inner_(std::move(inner)) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    return inner_->noise(x, level, condition);
  }

 private:
  std::shared_ptr<const NoisePredictor> inner_;
};

}  // namespace

TEST_CASE("states are answered with the class that stands for them", "[noise_predictor]") {
  auto network = class_network();
  const auto predictor = make_noise_predictor(network, NoiseSchedule::linear(1000), Prediction::kEps, kClasses);
  const at::Tensor states =
      at::tensor({1., 0., 0., 1., 1., -1., -1., 1., -1., 0., 0., -1., -1., -1., 0., 0.}, at::kDouble).reshape({8, 2});
  const at::Tensor x = random_tensor({1, 1, 8, 8}, 3).repeat({8, 1, 1, 1});
  const at::Tensor answer = predictor->noise(x, 40, states);
  CHECK(same_bits(answer, told(network, x, 39, {3, 1, 3, 1, 4, 4, 4, 0})));
  CHECK(same_bits(predictor->noise(x, 40, states.to(at::kFloat)), answer));
  CHECK(same_bits(predictor->noise(x, 40, {}), told(network, x, 39, {0, 0, 0, 0, 0, 0, 0, 0})));
  for (const std::int64_t other : {1, 4, 7}) CHECK(largest_difference(answer[other], answer[0]) > 1e-4);
  const at::Tensor prepared = predictor->prepared(states);
  CHECK(at::equal(prepared, at::tensor(std::vector<std::int64_t>{3, 1, 3, 1, 4, 4, 4, 0})));
  CHECK(same_bits(predictor->noise(x, 40, prepared), answer));
  const at::Tensor part = predictor->noise(x.narrow(0, 2, 3), 40, prepared.narrow(0, 2, 3));
  CHECK(largest_difference(part, answer.narrow(0, 2, 3)) < 1e-12);
  CHECK(at::equal(predictor->prepared(prepared), prepared));
  CHECK_FALSE(predictor->prepared({}).defined());
  check_refused(ErrorCode::kInvalidArgument, "condition: expected a class for each of 8",
                [&] { predictor->noise(x, 40, prepared.narrow(0, 0, 7)); });
  // On a device a class out of range is a failed assertion of a kernel.
  for (const std::int64_t outside : {-1, 5})
    check_refused(ErrorCode::kInvalidArgument,
                  "condition: expected classes from 0 to 4, got " + std::to_string(outside), [&] {
                    predictor->prepared(at::tensor(std::vector<std::int64_t>{3, outside}));
                  });
  CHECK_NOTHROW(predictor->prepared(at::tensor(std::vector<std::int64_t>{0, 4})));
}

TEST_CASE("a walk prepares its conditions before its first step, and no network call reads any", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto with_classes = make_noise_predictor(class_network(), schedule, Prediction::kEps, kClasses);
  const auto without = make_noise_predictor(tiny_unet(tiny_options(0)), schedule, Prediction::kEps);
  const at::Tensor x = two_images(5), fresh = random_tensor({2, 1, 8, 8}, 6), nothing = at::zeros({2, 2});
  const std::vector<std::uint64_t> items = {1, 2};
  {
    const HostReads reads;
    (void)without->noise(x, 40, nothing);
    REQUIRE(reads.count() == 1);
  }
  using Predictor = std::shared_ptr<const NoisePredictor>;
  using Walk = std::function<at::Tensor(const Predictor& predictor, std::int64_t steps)>;
  const auto check = [&](const Predictor& network, std::int64_t preparations, const Walk& walk) {
    for (const bool clipped : {false, true})
      for (const std::int64_t steps : {2, 5}) {
        INFO(preparations << " preparations, " << steps << " steps, clipped " << clipped);
        const auto watched = std::make_shared<ReadsNothing>(network, network == with_classes);
        Predictor asked = watched, plain = std::make_shared<Unprepared>(network);
        if (clipped) asked = make_clipping_predictor(asked, schedule), plain = make_clipping_predictor(plain, schedule);
        CHECK(same_bits(walk(asked, steps), walk(plain, steps)));
        CHECK(watched->preparations == preparations);
        CHECK(static_cast<std::int64_t>(watched->levels.size()) >= steps);
      }
  };
  const auto translated = [&](GuidanceKind kind) -> Walk {
    return [&, kind](const Predictor& predictor, std::int64_t steps) {
      TranslatorOptions options = path_options(60, steps);
      options.guidance.kind = kind;
      options.guidance.classifier_scale = kind == GuidanceKind::kClassifier ? 1 : 0;
      const DiffusionTranslator translator(predictor, schedule, kTwo, options, std::make_shared<StillGuide>());
      return translator.translate(x, {toward("Nodule"), away_from("Edema")}, nothing).images;
    };
  };
  const Walk tested = [&](const Predictor& predictor, std::int64_t steps) {
    const LabelledBatch batch = {
        at::cat({x, two_images(9)}), at::tensor({1., -1., 1., -1., -1., 1., -1., 1.}).reshape({4, 2}), {1, 2, 3, 4}};
    const DiffusionTranslator translator(predictor, schedule, kTwo, path_options(60, steps));
    return at::tensor(translator.self_test(batch).denoiser.separation);
  };
  const Walk published = [&](const Predictor& predictor, std::int64_t steps) {
    PublishedLoopOptions options;
    options.noise_level = steps + 1;
    return published_translation(*predictor, schedule, StillGuide(), x, fresh, nothing, options, {}, nothing);
  };
  const Walk mapped = [&](const Predictor& predictor, std::int64_t steps) {
    EvidenceOptions options;
    options.samples = steps;
    return evidence_and_score_difference_maps(*predictor, schedule, x, items, at::eye(2), options);
  };
  // What is known, for the way up and back without a target; and to the targets what is asked alone, and in pairs.
  for (const Predictor& network : {with_classes, without}) check(network, 2, translated(GuidanceKind::kClassifier));
  check(with_classes, 2, translated(GuidanceKind::kNone));
  for (const auto kind : {GuidanceKind::kClassifierFree, GuidanceKind::kContrast})
    check(with_classes, 3, translated(kind));
  for (const Predictor& network : {with_classes, without}) check(network, 1, published);
  check(with_classes, 1, mapped);
  check(with_classes, 2, tested);  // presence and absence
}

TEST_CASE("a class-conditional network translates towards its classes", "[translator]") {
  auto network = class_network();
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = make_noise_predictor(network, schedule, Prediction::kEps, kClasses);
  TranslatorOptions options;
  options.level = 60, options.steps = 3, options.evaluations = 1;
  const auto path = schedule.level_path(60, 3);
  const at::Tensor x = two_images(7);
  const auto decoded = [&](const std::function<at::Tensor(const at::Tensor&, std::int64_t)>& eps) {
    at::Tensor state = x;
    for (std::size_t i = path.size() - 1; i > 0; --i)
      state = moved_by_hand(schedule, state, eps(state, path[i] - 1), path[i], path[i - 1]);
    return state;
  };
  const auto answer = [&](const at::Tensor& state, std::int64_t timestep, std::int64_t one) {
    return told(network, state, timestep, {one, one});
  };
  const auto translated = [&](GuidanceKind kind, const Target& target, const at::Tensor& known = {}) {
    options.guidance.kind = kind, options.guidance.weight = 1.5;
    return DiffusionTranslator(predictor, schedule, kTwo, options).decode(x, {target}, known).select(1, 0);
  };
  struct Case {
    GuidanceKind kind;
    Target target;
    std::int64_t to, against;
  };
  for (const auto& [kind, target, to, against] :
       std::vector<Case>{{GuidanceKind::kClassifierFree, toward("Nodule"), 1, 0},
                         {GuidanceKind::kClassifierFree, toward(kNoFinding), 4, 0},
                         {GuidanceKind::kContrast, away_from("Edema"), 4, 3},
                         {GuidanceKind::kContrast, away_from("Nodule"), 4, 1}}) {
    INFO(target.finding);
    const bool free = kind == GuidanceKind::kClassifierFree;
    const at::Tensor expected =
        decoded([&, to = to, against = against](const at::Tensor& state, std::int64_t timestep) {
          const at::Tensor there = answer(state, timestep, to), back = answer(state, timestep, against);
          return (free ? back : there) + 1.5 * (there - back);
        });
    CHECK(largest_difference(translated(kind, target), expected) < 1e-10);
  }
  // Away from any finding is the one class without, so that contrast alone tells which.
  CHECK(largest_difference(translated(GuidanceKind::kContrast, away_from("Edema")),
                           translated(GuidanceKind::kContrast, away_from("Nodule"))) > 1e-4);
  CHECK(same_bits(translated(GuidanceKind::kClassifierFree, away_from("Edema")),
                  translated(GuidanceKind::kClassifierFree, away_from("Nodule"))));
  // What is known chooses the class that encodes.
  const at::Tensor known = at::tensor({1.0, -1.0}).repeat({2, 1});
  at::Tensor up = x;
  for (std::size_t i = 0; i + 1 < path.size(); ++i)
    up = moved_by_hand(schedule, up, answer(up, std::max<std::int64_t>(path[i], 1) - 1, 3), path[i], path[i + 1]);
  const DiffusionTranslator translator(predictor, schedule, kTwo, options);
  CHECK(largest_difference(translator.encode(x, known), up) < 1e-10);
}

TEST_CASE("the published loop tells a class-conditional denoiser the target's class", "[published_loop]") {
  auto network = class_network();
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = make_noise_predictor(network, schedule, Prediction::kEps, {{3, 1}, {}, {}});
  PublishedLoopOptions options;
  options.noise_level = 4;
  const at::Tensor x = two_images(8), fresh = random_tensor({2, 1, 8, 8}, 9);
  const at::Tensor condition = at::tensor({0.0, 1.0, 1.0, 0.0}).reshape({2, 2});
  at::Tensor state = schedule.signal(1) * x + schedule.noise(1) * fresh;
  for (std::int64_t level = 2; level <= 4; ++level)
    state = moved_by_hand(schedule, state, told(network, state, level - 1, {1, 3}), level, level + 1);
  for (std::int64_t level = 3; level >= 1; --level)
    state = moved_by_hand(schedule, state, told(network, state, level - 1, {1, 3}), level, level - 1);
  const at::Tensor image =
      published_translation(*predictor, schedule, StillGuide(), x, fresh, condition, options, {}, condition);
  CHECK(largest_difference(image, state) < 1e-10);
  check_refused(ErrorCode::kInvalidArgument, "condition: expected a known state",
                [&] { published_translation(*predictor, schedule, StillGuide(), x, fresh, condition, options); });
}

TEST_CASE("states that no class stands for are refused, and classes that a network lacks", "[noise_predictor]") {
  auto network = class_network();
  const auto schedule = NoiseSchedule::linear(1000);
  const auto make = [&](const StateClasses& classes) {
    return make_noise_predictor(network, schedule, Prediction::kEps, classes);
  };
  const at::Tensor x = two_images(1);
  const auto refused = [&](const StateClasses& classes, std::vector<double> states, const char* part) {
    const at::Tensor condition = at::tensor(states, at::kDouble).repeat({2, 1});
    check_refused(ErrorCode::kInvalidArgument, part, [&] { make(classes)->noise(x, 5, condition); });
  };
  refused(kClasses, {1, 1}, "condition: expected one present finding");
  refused({{3, 1}, {}, 0}, {-1, 0}, "condition: expected a present finding");
  refused({{3, 1}, 4, {}}, {0, 0}, "condition: expected a known state");
  refused(kClasses, {1, 0, 0}, "condition: expected shape [2, 2]");
  check_refused(ErrorCode::kInvalidArgument, "condition: expected a known state", [&] {
    make({{3, 1}, 4, {}})->noise(x, 5, {});
  });
  check_refused(ErrorCode::kInvalidArgument, "make_noise_predictor: classes.present", [&] { make({}); });
  check_refused(ErrorCode::kInvalidArgument, "make_noise_predictor: classes: expected", [&] { make({{3, 5}, 4, 0}); });
  check_refused(ErrorCode::kInvalidArgument, "make_noise_predictor: classes: expected", [&] { make({{3, 1}, -1, 0}); });
  check_refused(ErrorCode::kInvalidArgument, "make_noise_predictor: classes: expected", [&] { make({{3, 1}, 4, 5}); });
  DenoiserUNetOptions plain;
  plain.image_size = 8, plain.model_channels = 8, plain.channel_mult = {1}, plain.norm_groups = 4;
  check_refused(ErrorCode::kInvalidArgument, "make_noise_predictor: classes.present",
                [&] { make_noise_predictor(DenoiserUNet(plain), schedule, Prediction::kEps, kClasses); });
}

TEST_CASE("states that no class stands for are refused before the network is asked", "[translator]") {
  auto network = class_network();
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watch = [&](const StateClasses& classes) {
    return std::make_shared<WatchedPredictor>(make_noise_predictor(network, schedule, Prediction::kEps, classes));
  };
  const at::Tensor x = two_images(1);
  TranslatorOptions options;
  options.level = 60, options.steps = 3, options.guidance.kind = GuidanceKind::kContrast;
  // The opposite of "nothing" is everything at once, which is no class: whatever stands before it in the walk (levels
  // where nothing guides), among the targets, or in the first batches.
  for (const std::int64_t highest : std::vector<std::int64_t>{1000, 20})
    for (const std::int64_t batch : std::vector<std::int64_t>{1, 256}) {
      options.guidance.highest_level = highest, options.max_batch = batch;
      const auto watched = watch(kClasses);
      const auto clipped = make_clipping_predictor(watched, schedule);
      for (const auto& predictor : {std::shared_ptr<const NoisePredictor>(watched), clipped}) {
        const DiffusionTranslator translator(predictor, schedule, kTwo, options);
        const std::vector<Target> targets = {away_from("Edema"), toward(kNoFinding)};
        const at::Tensor region = at::ones({1, 1, 8, 8}, at::kDouble);
        const auto refused = [&](const std::function<void()>& action) {
          check_refused(ErrorCode::kInvalidArgument, "condition: expected one present finding", action);
        };
        refused([&] { translator.decode(x, targets); });
        refused([&] { translator.translate(x, targets); });
        refused([&] { translator.translate_inside(region, x, targets); });
        // What is known beside a target counts, in any image.
        const at::Tensor edema_in_one = at::tensor({0.0, 0.0, 1.0, 0.0}).reshape({2, 2});
        refused([&] { translator.translate(x, {toward("Nodule")}, edema_in_one); });
        const at::Tensor both_in_one = at::tensor({1.0, 0.0, 1.0, 1.0}).reshape({2, 2});
        refused([&] { translator.encode(x, both_in_one); });
        refused([&] { translator.reconstruct(x, both_in_one); });
        CHECK(watched->rows == 0);
        CHECK_NOTHROW(translator.translate(x, {away_from("Edema")}));
        CHECK(watched->rows > 0);
        watched->rows = 0;
      }
    }
  // Without a class for unknown, contrast decodes, and what asks for the null estimate is refused.
  options.guidance.highest_level = 1000;
  const auto watched = watch({{3, 1}, 4, {}});
  const auto translator = [&](GuidanceKind kind) {
    options.guidance.kind = kind;
    return DiffusionTranslator(watched, schedule, kTwo, options);
  };
  const std::vector<Target> nodule = {away_from("Nodule")};
  const auto unknown = [&](const std::function<void()>& action) {
    check_refused(ErrorCode::kInvalidArgument, "condition: expected a known state", action);
  };
  unknown([&] { translator(GuidanceKind::kClassifierFree).decode(x, nodule); });
  unknown([&] { translator(GuidanceKind::kContrast).translate(x, nodule); });
  unknown([&] { translator(GuidanceKind::kContrast).encode(x); });
  CHECK(watched->rows == 0);
  CHECK_NOTHROW(translator(GuidanceKind::kContrast).decode(x, nodule));
  // A source that is never asked for is not missed.
  options.guidance.lowest_level = 61;
  CHECK_NOTHROW(translator(GuidanceKind::kContrast).decode(x, {toward(kNoFinding)}));
}
