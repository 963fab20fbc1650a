#include "daug/translator/diffusion_translator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/data/labels.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

const std::vector<std::string> kFindings = {"Edema", "Nodule", "Device"};

std::shared_ptr<const LinearPredictor> linear_predictor() {
  return std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11});
}

/// grad = pull * x + the sum of the states, per row; remembers the states it was asked for.
class ToyClassifier : public GuidanceClassifier {
 public:
  explicit ToyClassifier(double pull = 0) : pull_(pull) {}
  std::int64_t num_findings() const override { return static_cast<std::int64_t>(kFindings.size()); }
  at::Tensor gradient(const at::Tensor& x, std::int64_t, const at::Tensor& condition) const override {
    rows += x.size(0);
    largest_batch = std::max(largest_batch, x.size(0));
    asked = condition;
    return pull_ * x + condition.sum(1).reshape({-1, 1, 1, 1}).to(x.scalar_type());
  }
  std::int64_t bytes_per_item(std::int64_t height, std::int64_t width) const override {
    return bytes_per_pixel * height * width;
  }
  std::int64_t bytes_per_pixel = 0;
  mutable std::int64_t rows = 0, largest_batch = 0;
  mutable at::Tensor asked;

 private:
  double pull_;
};

/// The deterministic DDIM transition written out for one pixel: x0_hat first, then x_b.
double step_by_hand(const NoiseSchedule& schedule, double x, double noise, std::int64_t from, std::int64_t to) {
  const double clean = (x - std::sqrt(1 - schedule.abar(from)) * noise) / std::sqrt(schedule.abar(from));
  return std::sqrt(schedule.abar(to)) * clean + std::sqrt(1 - schedule.abar(to)) * noise;
}

/// Decodes one pixel from level L with `noise_at(x, level)` as the guided estimate.
double decode_by_hand(const NoiseSchedule& schedule, double x, const TranslatorOptions& options,
                      const std::function<double(double, std::int64_t)>& noise_at) {
  const auto path = schedule.level_path(options.level, options.steps);
  for (std::size_t i = path.size() - 1; i > 0; --i)
    x = step_by_hand(schedule, x, noise_at(x, path[i]), path[i], path[i - 1]);
  return x;
}

at::Tensor test_images(std::int64_t batch, std::uint64_t seed) {
  return (0.4 * random_tensor({batch, 1, 3, 4}, seed)).clamp(-1, 1);
}

}  // namespace

TEST_CASE("a transition follows the two-line formula between any levels", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = random_tensor({2, 1, 2, 2}, 1), noise = random_tensor({2, 1, 2, 2}, 2);
  for (const auto& [from, to] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}, {0, 500}, {500, 0}, {137, 940}, {700, 20}}) {
    const auto result = to_doubles(transition(schedule, x, noise, from, to));
    const auto xs = to_doubles(x), es = to_doubles(noise);
    for (std::size_t i = 0; i < xs.size(); ++i)
      CHECK(result[i] == Approx(step_by_hand(schedule, xs[i], es[i], from, to)).epsilon(1e-12));
    // Known noise, there and back.
    CHECK(largest_difference(transition(schedule, transition(schedule, x, noise, from, to), noise, to, from), x) <
          1e-10);
  }
  CHECK(largest_difference(transition(schedule, x, noise, 40, 40), x) < 1e-15);
  // From the clean image it is the forward process.
  CHECK(largest_difference(transition(schedule, x, noise, 0, 300),
                           schedule.signal(300) * x + schedule.noise(300) * noise) < 1e-14);
  CHECK(transition(schedule, x.to(at::kFloat), noise.to(at::kFloat), 5, 6).scalar_type() == at::kFloat);
  CHECK_THROWS_AS(transition(schedule, x, noise, 0, 1001), Error);
}

TEST_CASE("round trips of a Gaussian lose as much as a reference computation says", "[translator]") {
  // Data N(0.2, 0.25^2) with its exact denoiser; figures are means of |error| over the data.
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, 0.2, 0.25);
  const at::Tensor x = (0.2 + 0.25 * random_tensor({1, 1, 200, 200}, 33)).clamp(-1, 1);  // 1 in 1,500 is moved
  struct Row {
    std::int64_t steps;
    double errors[4];
    double half_digit[4];  // half a unit of the last digit stated: what 5 per cent cannot express of "5e-8"
  };
  const Row rows[] = {{500, {2.0e-3, 9e-6, 5e-8, 3e-10}, {5e-5, 5e-7, 5e-9, 5e-11}},
                      {50, {2.0e-2, 1.0e-3, 5.4e-5, 3.0e-6}, {5e-4, 5e-5, 5e-7, 5e-8}},
                      {25, {3.8e-2, 4.4e-3, 4.8e-4, 5.5e-5}, {5e-4, 5e-5, 5e-6, 5e-7}}};
  for (const Row& row : rows)
    for (int evaluations = 1; evaluations <= 4; ++evaluations) {
      const DiffusionTranslator translator(predictor, schedule, kFindings, path_options(500, row.steps, evaluations));
      const double error = (translator.reconstruct(translator.encode(x)) - x).abs().mean().item<double>();
      const double stated = row.errors[evaluations - 1];
      INFO(row.steps << " steps, " << evaluations << " evaluations: " << error << " against " << stated);
      CHECK(std::abs(error - stated) <= std::max(0.05 * stated, row.half_digit[evaluations - 1]));
    }
}

TEST_CASE("many evaluations invert the decoder exactly", "[translator]") {
  const auto schedule = NoiseSchedule::cosine(400);
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, -0.1, 0.4);
  const at::Tensor x = test_images(3, 4);
  double before = std::numeric_limits<double>::infinity();
  for (const std::int64_t evaluations : {1, 2, 4, 8, 20}) {
    const DiffusionTranslator translator(predictor, schedule, kFindings, path_options(200, 20, evaluations));
    const double error = largest_difference(translator.reconstruct(translator.encode(x)), x);
    CHECK(error < before);
    before = error;
  }
  CHECK(before < 1e-10);
}

TEST_CASE("translate is encode, reconstruct and decode, and reports the residual", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  auto options = path_options(300, 6, 2);
  const DiffusionTranslator translator(linear_predictor(), schedule, kFindings, options);
  const at::Tensor x = test_images(3, 7);
  const std::vector<Target> targets = {toward("Nodule"), away_from("Edema")};
  const Translation result = translator.translate(x, targets);
  REQUIRE(result.images.sizes() == at::IntArrayRef({3, 2, 1, 3, 4}));
  CHECK(same_bits(result.latent, translator.encode(x)));
  CHECK(same_bits(result.reconstruction, translator.reconstruct(result.latent)));
  CHECK(same_bits(result.images, translator.decode(result.latent, targets)));
  REQUIRE(result.residual.sizes() == at::IntArrayRef({3}));
  for (int i = 0; i < 3; ++i) {
    double sum = 0;
    for (int p = 0; p < 12; ++p)
      sum += std::abs((result.reconstruction[i].view({-1})[p] - x[i].view({-1})[p]).item<double>());
    CHECK(result.residual[i].item<double>() == Approx(sum / 12).epsilon(1e-12));
    CHECK(result.residual[i].item<double>() > 1e-6);
  }
  CHECK(translator.options().steps == 6);
  CHECK(translator.findings() == kFindings);
  CHECK(translator.schedule().steps() == 1000);
}

TEST_CASE("encoding follows the fixed-point iteration written out", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = linear_predictor();
  const std::vector<double> known = {1, 0, -1};
  const at::Tensor x = at::full({1, 1, 1, 1}, 0.35, at::kDouble);
  const at::Tensor states = at::tensor(known, at::kDouble).unsqueeze(0);
  for (const std::int64_t evaluations : {1, 2, 3}) {
    const auto options = path_options(210, 7, evaluations);
    const auto path = schedule.level_path(210, 7);
    double expected = 0.35;
    for (std::size_t i = 0; i + 1 < path.size(); ++i) {
      double guess = expected;
      std::int64_t at_level = path[i];
      for (std::int64_t n = 0; n < evaluations; ++n) {
        guess = step_by_hand(schedule, expected, predictor->scalar(guess, at_level, known), path[i], path[i + 1]);
        at_level = path[i + 1];
      }
      expected = guess;
    }
    const DiffusionTranslator translator(predictor, schedule, kFindings, options);
    CHECK(translator.encode(x, states).item<double>() == Approx(expected).epsilon(1e-12));
  }
}

TEST_CASE("guided decoding equals the formulas written out for one pixel", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = linear_predictor();
  const auto toy = std::make_shared<ToyClassifier>(0.07);
  const double latent = -0.8, weight = 1.7, scale = 3;
  struct Case {
    Target target;
    std::vector<double> known, destination, source;
  };
  const std::vector<Case> cases = {
      {toward("Edema"), {0, 0, 0}, {1, 0, 0}, {-1, 0, 0}},
      {away_from("Nodule"), {0, 0, 0}, {0, -1, 0}, {0, 1, 0}},
      {toward(kNoFinding), {0, 0, 0}, {-1, -1, -1}, {1, 1, 1}},
      {away_from("Edema"), {1, -1, 0}, {-1, -1, 0}, {1, -1, 0}},  // known states fill what the target leaves open
      {toward("Device"), {0, 1, -1}, {0, 1, 1}, {0, 1, -1}},
  };
  for (const auto& [target, known, destination, source] : cases)
    for (const auto kind :
         {GuidanceKind::kNone, GuidanceKind::kClassifierFree, GuidanceKind::kContrast, GuidanceKind::kClassifier})
      for (const bool with_classifier : {false, true}) {
        if (kind == GuidanceKind::kClassifier && !with_classifier) continue;
        auto options = path_options(400, 5);
        options.guidance.kind = kind;
        options.guidance.weight = weight;
        options.guidance.classifier_scale = with_classifier ? scale : 0;
        const auto asked = target_condition(target, kFindings);
        double pull = 0;  // the classifier is asked for the target alone, not for what is known anyway
        for (const float state : asked) pull += state;
        const auto guided = [&, dst = destination, src = source, null = known](double x, std::int64_t level) {
          double noise = 0;
          if (kind == GuidanceKind::kNone) noise = predictor->scalar(x, level, dst);
          if (kind == GuidanceKind::kClassifier) noise = predictor->scalar(x, level, null);
          if (kind == GuidanceKind::kClassifierFree)
            noise = predictor->scalar(x, level, null) +
                    weight * (predictor->scalar(x, level, dst) - predictor->scalar(x, level, null));
          if (kind == GuidanceKind::kContrast)
            noise = predictor->scalar(x, level, dst) +
                    weight * (predictor->scalar(x, level, dst) - predictor->scalar(x, level, src));
          if (with_classifier) noise -= scale * std::sqrt(1 - schedule.abar(level)) * (0.07 * x + pull);
          return noise;
        };
        const DiffusionTranslator translator(predictor, schedule, kFindings, options, toy);
        const at::Tensor x = at::full({1, 1, 1, 1}, latent, at::kDouble);
        const at::Tensor states = at::tensor(known, at::kDouble).unsqueeze(0);
        INFO("kind " << static_cast<int>(kind) << ", target " << target.finding);
        CHECK(translator.decode(x, {target}, states).item<double>() ==
              Approx(decode_by_hand(schedule, latent, options, guided)).epsilon(1e-11));
        if (std::all_of(known.begin(), known.end(), [](double state) { return state == 0; }))
          CHECK(same_bits(translator.decode(x, {target}), translator.decode(x, {target}, states)));
        const auto plain = [&, null = known](double value, std::int64_t level) {
          return predictor->scalar(value, level, null);
        };
        CHECK(translator.reconstruct(x, states).item<double>() ==
              Approx(decode_by_hand(schedule, latent, options, plain)).epsilon(1e-11));
      }
}

TEST_CASE("several targets and images decode as if each were alone", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  auto options = path_options(250, 8, 3);
  options.guidance.classifier_scale = 2;
  const auto toy = std::make_shared<ToyClassifier>(0.1);
  const DiffusionTranslator translator(linear_predictor(), schedule, kFindings, options, toy);
  const std::vector<Target> targets = {toward("Edema"), away_from("Edema"), toward(kNoFinding), toward("Device")};
  const at::Tensor x = test_images(3, 17);
  const at::Tensor known = at::tensor({1.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0}, at::kDouble).reshape({3, 3});
  const Translation all = translator.translate(x, targets, known);
  for (std::int64_t k = 0; k < 4; ++k) {
    const Translation one = translator.translate(x, {targets[static_cast<std::size_t>(k)]}, known);
    CHECK(largest_difference(all.images.select(1, k), one.images.select(1, 0)) < 1e-9);
    CHECK(same_bits(all.latent, one.latent));
  }
  for (std::int64_t i = 0; i < 3; ++i) {
    const Translation one = translator.translate(x.narrow(0, i, 1), targets, known.narrow(0, i, 1));
    CHECK(largest_difference(all.images.narrow(0, i, 1), one.images) < 1e-9);
  }
}

TEST_CASE("network calls are counted as they are made", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = test_images(3, 2);
  const std::vector<Target> all = {toward("Edema"), away_from("Nodule"), toward(kNoFinding)};
  for (const auto kind :
       {GuidanceKind::kNone, GuidanceKind::kClassifierFree, GuidanceKind::kContrast, GuidanceKind::kClassifier})
    for (const std::int64_t evaluations : {1, 3})
      for (const std::size_t count : {1U, 3U})
        for (const double scale : {0.0, 1.0}) {
          if (kind == GuidanceKind::kClassifier && scale == 0) continue;
          auto options = path_options(90, 9, evaluations);
          options.guidance.kind = kind;
          options.guidance.classifier_scale = scale;
          const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
          const auto toy = std::make_shared<ToyClassifier>();
          const DiffusionTranslator translator(watched, schedule, kFindings, options, toy);
          const Translation result = translator.translate(x, {all.begin(), all.begin() + static_cast<long>(count)});
          const NetworkCalls calls = translator.calls_per_image(count);
          CHECK(watched->rows == 3 * (calls.denoiser + calls.reconstruction));
          CHECK(toy->rows == 3 * calls.classifier_gradients);
          CHECK(result.calls.denoiser == calls.denoiser);
          CHECK(result.calls.classifier_gradients == calls.classifier_gradients);
          CHECK(result.calls.reconstruction == calls.reconstruction);
          const bool two = kind == GuidanceKind::kClassifierFree || kind == GuidanceKind::kContrast;
          const auto lanes = static_cast<std::int64_t>(count);
          CHECK(calls.denoiser == 9 * evaluations + lanes * 9 * (two ? 2 : 1));
          CHECK(calls.classifier_gradients == (scale > 0 ? lanes * 9 : 0));
          CHECK(calls.reconstruction == 9);
          // Without a reconstruction nothing of it is paid for.
          watched->rows = 0;
          translator.decode(translator.encode(x), {all.begin(), all.begin() + static_cast<long>(count)});
          CHECK(watched->rows == 3 * calls.denoiser);
        }
}

TEST_CASE("the network is asked at the levels of the path, both ends included", "[translator]") {
  const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
  auto options = path_options(100, 4, 2);
  options.guidance.kind = GuidanceKind::kNone;
  const DiffusionTranslator translator(watched, NoiseSchedule::linear(1000), kFindings, options);
  translator.translate(test_images(1, 1), {toward("Edema")});
  CHECK(watched->levels == std::vector<std::int64_t>{0, 25, 25, 50, 50, 75, 75, 100,  // encode: near end, far end
                                                     100, 75, 50, 25,                 // reconstruct
                                                     100, 75, 50, 25});               // decode
}

TEST_CASE("max_batch bounds every call and changes nothing", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  auto options = path_options(120, 5, 2);
  options.guidance.classifier_scale = 1.5;
  const std::vector<Target> targets = {toward("Edema"), away_from("Nodule"), toward(kNoFinding)};
  const at::Tensor x = test_images(5, 3);
  const at::Tensor known = (random_tensor({5, 3}, 9) > 0).to(at::kDouble);
  const DiffusionTranslator whole(linear_predictor(), schedule, kFindings, options,
                                  std::make_shared<ToyClassifier>(0.2));
  const Translation expected = whole.translate(x, targets, known);
  for (const std::int64_t max_batch : {1, 4, 7}) {
    options.max_batch = max_batch;
    const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
    const auto toy = std::make_shared<ToyClassifier>(0.2);
    const DiffusionTranslator split(watched, schedule, kFindings, options, toy);
    const Translation result = split.translate(x, targets, known);
    CHECK(watched->largest_batch <= max_batch);
    CHECK(toy->largest_batch <= max_batch);
    CHECK(largest_difference(result.images, expected.images) < 1e-12);
    CHECK(largest_difference(result.reconstruction, expected.reconstruction) < 1e-12);
  }
}

TEST_CASE("a batch of no images takes no network call", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
  const auto guide = std::make_shared<ToyClassifier>(0.1);
  const at::Tensor none = test_images(0, 1);
  for (const char* solver : {"ddim", "dpm", "bdia"})
    for (const auto kind :
         {GuidanceKind::kNone, GuidanceKind::kClassifierFree, GuidanceKind::kContrast, GuidanceKind::kClassifier}) {
      INFO(solver << ", kind " << static_cast<int>(kind));
      TranslatorOptions options = path_options(60, 3);
      options.solver = make_solver(solver);
      options.guidance.kind = kind, options.guidance.classifier_scale = 2;
      const DiffusionTranslator translator(watched, schedule, kFindings, options, guide);
      const Translation t = translator.translate(none, {toward("Edema"), {"Nodule", false, 0.5}});
      CHECK(t.images.sizes() == at::IntArrayRef({0, 2, 1, 3, 4}));
      CHECK(t.reconstruction.sizes() == none.sizes());
      CHECK(t.residual.sizes() == at::IntArrayRef({0}));
      CHECK(watched->rows == 0);
      CHECK(watched->levels.empty());
      CHECK(guide->rows == 0);
    }
}

TEST_CASE("a memory budget bounds every call by its network's bytes an item", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  auto options = path_options(120, 5, 2);
  const at::Tensor x = test_images(5, 3);
  const std::vector<Target> targets = {toward("Edema"), away_from("Nodule")};
  options.guidance.classifier_scale = 1;
  const Translation expected =
      DiffusionTranslator(linear_predictor(), schedule, kFindings, options, std::make_shared<ToyClassifier>(0.2))
          .translate(x, targets);
  const std::int64_t each = 100 * x.size(2) * x.size(3);
  // 20 rows in the denoiser's widest call: 5 images, 2 targets, 2 conditions. A row of the classifier takes three times
  // as much.
  struct Row {
    std::int64_t budget, denoiser, classifier;
  };
  for (const auto& [budget, rows, pulled] : std::vector<Row>{
           {0, 20, 10}, {1, 1, 1}, {3 * each, 3, 1}, {7 * each - 1, 6, 2}, {12 * each, 8, 4}, {100 * each, 8, 8}}) {
    const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
    watched->bytes_per_pixel = 100;
    options.memory_budget = budget, options.max_batch = budget > 10 * each ? 8 : 256;
    const auto toy = std::make_shared<ToyClassifier>(0.2);
    toy->bytes_per_pixel = 300;
    const Translation result = DiffusionTranslator(watched, schedule, kFindings, options, toy).translate(x, targets);
    CHECK(watched->largest_batch == rows);
    CHECK(toy->largest_batch == pulled);
    CHECK(largest_difference(result.images, expected.images) < 1e-12);
  }
}

TEST_CASE("bad input is refused before any work", "[translator]") {
  const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
  const auto schedule = NoiseSchedule::linear(1000);
  const DiffusionTranslator translator(watched, schedule, kFindings, path_options(100, 4));
  const at::Tensor x = test_images(2, 1);
  const std::vector<Target> target = {toward("Edema")};
  const auto refused = [&](const char* part, const std::function<void()>& action) {
    INFO(part);
    CHECK(mentions(caught(action), part));
    CHECK(watched->rows == 0);
  };
  refused("Fracture", [&] { translator.translate(x, {toward("Edema"), toward("Fracture")}); });
  refused("at least one target", [&] { translator.translate(x, {}); });
  refused("at least one target", [&] { translator.decode(x, {}); });
  watched->known_channels = 1;
  for (const auto& [images, part] : not_images(x)) {
    refused(part.c_str(), [&, images = images] { translator.translate(images, target); });
    refused(part.c_str(), [&, images = images] {
      translator.translate_inside(at::ones({1, 1, 3, 4}), images, target);
    });
    refused(part.c_str(), [&, images = images] { translator.encode(images); });
  }
  for (const auto& known : {at::zeros({2, 2}), at::zeros({1, 3}), at::zeros({3})}) {
    refused("known: expected shape [2, 3]", [&] { translator.translate(x, target, known); });
    refused("known: expected shape [2, 3]", [&] { translator.encode(x, known); });
    refused("known: expected shape [2, 3]", [&] { translator.decode(x, target, known); });
    refused("known: expected shape [2, 3]", [&] { translator.reconstruct(x, known); });
  }
  for (const double state : {5.0, 0.5, -2.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    at::Tensor known = at::zeros({2, 3}, at::kDouble);
    known[1][2] = state;
    const char* part = "known: expected 1 (present), -1 (absent) or 0 (unknown)";
    refused(part, [&] { translator.translate(x, target, known); });
    refused(part, [&] { translator.translate_inside(at::ones({1, 1, 3, 4}), x, target, known); });
    refused(part, [&] { translator.encode(x, known); });
    refused(part, [&] { translator.decode(x, target, known); });
    refused(part, [&] { translator.reconstruct(x, known); });
  }
  for (const auto& latent : {at::cat({x, x}, 1), x[0], x.to(at::kLong), at::Tensor()}) {
    refused("latent: expected floating point [B, 1, H, W]", [&] { translator.decode(latent, target); });
    refused("latent: expected floating point [B, 1, H, W]", [&] { translator.reconstruct(latent); });
  }
  TranslatorOptions reversible = path_options(100, 4);
  reversible.solver = make_solver("bdia");
  const DiffusionTranslator two_states(watched, schedule, kFindings, reversible);
  refused("latent: expected floating point [B, 2, H, W]", [&] { two_states.decode(x, target); });

  DenoiserUNetOptions network;
  network.image_size = 4;
  network.model_channels = 4;
  network.norm_groups = 2;
  network.channel_mult = {1};
  network.num_findings = 3;
  const auto unet = make_noise_predictor(DenoiserUNet(network), schedule, Prediction::kV);
  const DiffusionTranslator with_unet(unet, schedule, kFindings, path_options(100, 4));
  watched->rows = 0;
  CHECK(translator.decode(3 * x, target).defined());  // a latent lies where noise takes it
  CHECK(watched->rows > 0);
  CHECK(unet->channels() == 1);
  CHECK(make_clipping_predictor(unet, schedule)->channels() == 1);
  const at::Tensor colour = at::zeros({1, 3, 4, 4});
  CHECK(mentions(caught([&] { with_unet.translate(colour, target); }), "[B, 1, H, W]"));
  CHECK(with_unet.translate(at::zeros({1, 1, 4, 4}), target).images.sizes() == at::IntArrayRef({1, 1, 1, 4, 4}));
}

TEST_CASE("a region keeps what lies outside it", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2});
  const std::vector<std::string> findings = {"Edema", "Nodule"};
  const std::vector<Target> targets = {toward("Edema"), away_from("Nodule")};
  const at::Tensor x = (0.4 * random_tensor({3, 1, 4, 5}, 8)).clamp(-1, 1);
  at::Tensor region = at::zeros({3, 1, 4, 5}, at::kDouble);
  region.slice(3, 0, 2).fill_(1);
  for (const char* solver : {"ddim", "dpm", "bdia"}) {
    INFO(solver);
    TranslatorOptions options;
    options.level = 200;
    options.steps = 8;
    options.solver = make_solver(solver);
    const DiffusionTranslator translator(predictor, schedule, findings, options);
    const Translation all = translator.translate(x, targets);
    const Translation part = translator.translate_inside(region, x, targets);
    const at::Tensor outside = region.eq(0).unsqueeze(1).expand_as(part.images);
    CHECK(same_bits(part.images.masked_select(outside), x.unsqueeze(1).expand_as(part.images).masked_select(outside)));
    // This predictor treats every pixel alone, so that inside nothing depends on what is around it.
    CHECK(largest_difference(part.images.masked_select(outside.logical_not()),
                             all.images.masked_select(outside.logical_not())) < 1e-12);
    CHECK(largest_difference(part.images, all.images) > 1e-3);
    CHECK(same_bits(translator.translate_inside(at::ones({1, 1, 4, 5}), x, targets).images, all.images));
    CHECK(part.calls.denoiser == all.calls.denoiser);
  }
  const DiffusionTranslator translator(predictor, schedule, findings);
  const auto refused = [&](const at::Tensor& wrong) {
    return mentions(caught([&] { translator.translate_inside(wrong, x, targets); }), "region");
  };
  CHECK(refused(at::ones({3, 1, 5, 5})));
  CHECK(refused(at::ones({2, 1, 4, 5})));
  CHECK(refused(at::Tensor()));
  CHECK(refused(at::full({3, 1, 4, 5}, 1.5)));
  CHECK(refused(at::full({3, 1, 4, 5}, std::nan(""))));
}

TEST_CASE("nothing is encoded at a level without signal", "[translator]") {
  const auto predictor = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5});
  TranslatorOptions options;
  options.level = 1000;
  const auto schedule = NoiseSchedule::named("zero_snr_linear");
  CHECK(mentions(caught([&] { DiffusionTranslator(predictor, schedule, {"Edema"}, options); }), "options.level"));
  options.level = 999;
  const DiffusionTranslator translator(predictor, schedule, {"Edema"}, options);
  CHECK(translator.translate(0.1 * at::ones({1, 1, 2, 2}, at::kDouble), {toward("Edema")})
            .images.isfinite()
            .all()
            .item<bool>());
}

TEST_CASE("options out of range are refused by name", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto refused = [&](const char* option, const std::function<void(TranslatorOptions&)>& spoil) {
    auto options = path_options(100, 4);
    spoil(options);
    INFO(option);
    check_refused(ErrorCode::kInvalidArgument, option,
                  [&] { DiffusionTranslator(linear_predictor(), schedule, kFindings, options); });
  };
  refused("level", [](auto& o) { o.level = 0; });
  refused("level", [](auto& o) { o.level = 1001; });
  refused("steps", [](auto& o) { o.steps = 0; });
  refused("steps", [](auto& o) { o.steps = 101; });
  refused("evaluations", [](auto& o) { o.evaluations = 0; });
  refused("evaluations", [](auto& o) { o.evaluations = 21; });
  refused("max_batch", [](auto& o) { o.max_batch = 0; });
  refused("memory_budget", [](auto& o) { o.memory_budget = -1; });
  refused("weight", [](auto& o) { o.guidance.weight = -1; });
  refused("weight", [](auto& o) { o.guidance.weight = std::nan(""); });
  refused("classifier_scale", [](auto& o) { o.guidance.classifier_scale = -1; });
  refused("classifier", [](auto& o) { o.guidance.classifier_scale = 1; });  // and no classifier given
  refused("classifier", [](auto& o) { o.guidance.kind = GuidanceKind::kClassifier; });
  auto options = path_options(100, 4);
  options.guidance.kind = GuidanceKind::kClassifier;
  const auto toy = std::make_shared<ToyClassifier>();
  CHECK(mentions(caught([&] { DiffusionTranslator(linear_predictor(), schedule, kFindings, options, toy); }),
                 "classifier_scale"));
  CHECK_THROWS_AS(DiffusionTranslator(nullptr, schedule, kFindings, path_options(100, 4)), Error);
  options.guidance.classifier_scale = 1;
  for (const auto& findings : {std::vector<std::string>{"Edema"}, {"Edema", "Nodule", "Device", "Fracture"}}) {
    check_refused(ErrorCode::kMismatch, "one of 3",
                  [&] { DiffusionTranslator(linear_predictor(), schedule, findings, options, toy); });
  }
  CHECK(guidance_kind("contrast") == GuidanceKind::kContrast);
  CHECK(guidance_kind("classifier_free") == GuidanceKind::kClassifierFree);
  CHECK(guidance_kind("classifier") == GuidanceKind::kClassifier);
  CHECK(guidance_kind("none") == GuidanceKind::kNone);
  CHECK_THROWS_AS(guidance_kind("both"), Error);
}

TEST_CASE("a value that turns non-finite is reported with step, level and scales", "[translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
  const DiffusionTranslator translator(watched, schedule, kFindings, path_options(100, 4));
  const at::Tensor x = test_images(2, 1);
  const auto poisoned = [&](std::int64_t level, const std::function<void()>& action) {
    watched->poisoned_level = level;
    const Error error = caught(action);
    CHECK(error.code() == ErrorCode::kNumeric);
    return error;
  };
  const std::vector<Target> target = {toward("Edema")};
  Error error = poisoned(50, [&] { translator.encode(x); });  // third step, 50 -> 75
  CHECK(mentions(error, "encode"));
  CHECK(mentions(error, "step 3, level 75"));
  error = poisoned(50, [&] { translator.decode(x, target); });  // third step, 50 -> 25
  CHECK(mentions(error, "decode"));
  CHECK(mentions(error, "step 3, level 25, guidance weight 2, classifier scale 0"));
  error = poisoned(100, [&] { translator.translate(x, target); });
  CHECK(mentions(error, "step 1, level 75"));
}

TEST_CASE("progress counts steps and a stop request ends the work at a step", "[translator]") {
  const auto watched = std::make_shared<WatchedPredictor>(linear_predictor());
  auto options = path_options(100, 4);
  options.guidance.kind = GuidanceKind::kNone;
  const DiffusionTranslator translator(watched, NoiseSchedule::linear(1000), kFindings, options);
  const at::Tensor x = test_images(2, 1);
  std::vector<std::int64_t> done;
  StopSource source;
  std::size_t stop_after = 100;
  const RunControl control = {[&](const Progress& progress) {
                                CHECK(progress.total == 4);
                                done.push_back(progress.done);
                                if (done.size() == stop_after) source.request_stop();
                              },
                              source.token()};
  translator.translate(x, {toward("Edema")}, {}, control);
  CHECK(done == std::vector<std::int64_t>{1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4});
  const std::int64_t complete = watched->rows;
  for (const std::size_t reports : {2U, 6U, 11U}) {
    StopSource fresh;
    std::swap(source, fresh);
    done.clear();
    stop_after = reports;
    watched->rows = 0;
    const RunControl stoppable = {control.progress, source.token()};
    CHECK(caught([&] { translator.translate(x, {toward("Edema")}, {}, stoppable); }).code() == ErrorCode::kCancelled);
    CHECK(done.size() == reports);
    CHECK(watched->rows == complete * static_cast<std::int64_t>(reports) / 12);
  }
}
