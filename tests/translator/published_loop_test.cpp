#include "daug/translator/published_loop.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "daug/heatmap/maps.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden_device.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

class NoPull : public GuidanceClassifier {
 public:
  std::int64_t num_findings() const override { return 1; }
  at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor&) const override {
    levels.push_back(level);
    return at::zeros_like(x);
  }
  mutable std::vector<std::int64_t> levels;
};

/// Remembers the levels at which another guide is asked.
class WatchedGuide : public GuidanceClassifier {
 public:
  explicit WatchedGuide(std::shared_ptr<const GuidanceClassifier> inner) : inner_(std::move(inner)) {}
  std::int64_t num_findings() const override { return inner_->num_findings(); }
  at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    levels.push_back(level);
    return inner_->gradient(x, level, condition);
  }
  mutable std::vector<std::int64_t> levels;

 private:
  std::shared_ptr<const GuidanceClassifier> inner_;
};

/// Finds infinite noise in everything.
class Endless : public NoisePredictor {
 public:
  at::Tensor noise(const at::Tensor& x, std::int64_t, const at::Tensor&) const override {
    return at::full_like(x, std::numeric_limits<double>::infinity());
  }
};

}  // namespace

TEST_CASE("clipping holds the implied clean image in [-1, 1] and changes nothing inside", "[noise_predictor]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto plain = std::make_shared<LinearPredictor>(0.3, std::vector<double>{});
  const auto clipped = make_clipping_predictor(plain, schedule);
  const at::Tensor x = 2 * random_tensor({2, 1, 4, 4}, 1);
  for (const std::int64_t level : {1, 300, 900}) {
    const at::Tensor eps = plain->noise(x, level, {}), held = clipped->noise(x, level, {});
    const at::Tensor before = (x - schedule.noise(level) * eps) / schedule.signal(level);
    const at::Tensor after = (x - schedule.noise(level) * held) / schedule.signal(level);
    CHECK(largest_difference(after, before.clamp(-1, 1)) < 1e-9);
    CHECK(before.abs().max().item<double>() > 1);
  }
  CHECK(same_bits(clipped->noise(x, 0, {}), plain->noise(x, 0, {})));
  CHECK_THROWS_AS(make_clipping_predictor(nullptr, schedule), Error);
  // A level without signal: the noise is all of x, whatever the clean image is.
  const auto ends_without = make_clipping_predictor(plain, schedule.with_zero_terminal_snr());
  CHECK(same_bits(ends_without->noise(x, 1000, {}), plain->noise(x, 1000, {})));
  // float32 has a kernel, which leaves what is in range its bits.
  const at::Tensor narrow = x.to(at::kFloat);
  for (const std::int64_t level : {1, 300}) {
    const at::Tensor eps = plain->noise(narrow, level, {}), held = clipped->noise(narrow, level, {});
    const at::Tensor clean = (narrow - schedule.noise(level) * eps) / schedule.signal(level),
                     inside = clean.abs() < 0.99;
    CHECK(inside.any().item<bool>());
    CHECK(same_bits(held.masked_select(inside), eps.masked_select(inside)));
    CHECK(largest_difference(held, clipped->noise(narrow.to(at::kDouble), level, {})) < 1e-3);
  }
  for (const auto type : {at::kFloat, at::kDouble}) {
    const auto held = make_clipping_predictor(std::make_shared<Endless>(), schedule)->noise(x.to(type), 300, {});
    CHECK(largest_difference(held, (x + schedule.signal(300)) / schedule.noise(300)) < 1e-5);
  }
}

TEST_CASE("the published loop skips and repeats levels as published", "[published_loop]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const WatchedPredictor watched(std::make_shared<LinearPredictor>(0.3, std::vector<double>{}));
  const NoPull guide;
  PublishedLoopOptions options;
  options.noise_level = 4;
  std::vector<std::int64_t> reached;
  const at::Tensor x = at::zeros({1, 1, 2, 2}, at::kDouble);
  published_translation(watched, schedule, guide, x, at::ones_like(x), at::zeros({1, 1}), options,
                        [&](std::int64_t step, std::int64_t level, const at::Tensor&) {
                          reached.push_back(level);
                          CHECK(step == static_cast<std::int64_t>(reached.size()));
                        });
  CHECK(watched.levels == std::vector<std::int64_t>{2, 3, 4, 3, 2, 1});
  CHECK(reached == std::vector<std::int64_t>{3, 4, 5, 2, 1, 0});
  CHECK(guide.levels == std::vector<std::int64_t>{3, 2, 1});

  options.noise_level = 1;
  CHECK_THROWS_AS(published_translation(watched, schedule, guide, x, x, {}, options), Error);
  options.noise_level = 1000;
  CHECK_THROWS_AS(published_translation(watched, schedule, guide, x, x, {}, options), Error);
  options.noise_level = 4;
  CHECK_THROWS_AS(published_translation(watched, schedule, guide, x, x[0], {}, options), Error);
  CHECK(mentions(caught([&] { published_translation(watched, schedule, guide, x, {}, {}, options); }), "fresh"));
  WatchedPredictor grey(std::make_shared<LinearPredictor>(0.3, std::vector<double>{}));
  grey.known_channels = 1;
  for (const auto& [images, part] : not_images(x)) {
    INFO(part);
    CHECK(
        mentions(caught([&, images = images] { published_translation(grey, schedule, guide, images, x, {}, options); }),
                 "daug::published_translation", part));
    CHECK(grey.rows == 0);
  }
}

namespace {

/// The tolerances of sets are wide enough for sums in another order, those of a device.
void check_published_loop_sets(const at::Device& device) {
  for_each_golden("diffusion_compat", [&device](const GoldenSet& set) {
    const auto& config = set.settings.at("config");
    const std::int64_t level = config.at("noise_level");
    const auto full = NoiseSchedule::named(config.at("schedule").get<std::string>(), config.at("steps"));
    const auto schedule = golden_schedule(config);
    if (level < 2 || level >= schedule.steps()) throw Skip{"noise_level: encoding would leave the schedule"};
    const GoldenSet unet = load_golden(config.at("unet")), classifier = load_golden(config.at("classifier"));
    const std::int64_t logits = classifier.settings.at("config").at("model").at("out_channels");
    StateClasses classes;  // a class-conditional network is told the target itself
    for (std::int64_t f = 0; golden_classes(unet) > 0 && f < logits; ++f)
      classes.present.push_back(std::min(f, golden_classes(unet) - 1));
    // Upstream's class of respaced schedules shows rescaled timesteps to the network alone, its base class to both: to
    // the classifier their whole part.
    const double unet_scale = golden_timestep_scale(config), told = set.at("t_classifier").to_double().front();
    const double rescaled = seen_timesteps(full, {level - 1}, unet_scale).front();
    if (told != rescaled && told != static_cast<double>(level - 2)) {
      CHECK(told == std::floor(rescaled));
      throw Skip{"a classifier that is shown rounded timesteps"};
    }
    const double guide_scale = told == rescaled ? unet_scale : 1;
    require_known_scale(config.at("scale"));
    const double whole = set.settings.at("tolerance").at("whole_chain");
    const double single = set.settings.at("tolerance").at("single_step");
    double worst = 0;
    const auto close = [&](const at::Tensor& actual, const at::Tensor& expected, double largest,
                           const std::string& what) {
      worst = std::max(worst, check_close(actual, expected, largest, what));
    };
    for (const auto type : {at::kFloat, at::kDouble}) {
      auto predictor = make_noise_predictor(moved(golden_unet(unet, type, Execution::kAuto, unet_scale), device),
                                            schedule, Prediction::kEps, classes);
      if (config.value("clip_denoised", false)) predictor = make_clipping_predictor(predictor, schedule);
      const WatchedPredictor watched(predictor);
      const WatchedGuide guide(make_guidance_classifier(moved(golden_classifier(classifier, type, guide_scale), device),
                                                        full, GuidanceHead::kSoftmax));
      const at::Tensor x = to_tensor(set.at("x")).to(device, type), fresh = to_tensor(set.at("noise")).to(device, type);
      const auto labels = set.at("y").to_int64();
      at::Tensor condition = at::zeros({x.size(0), logits});
      for (std::size_t i = 0; i < labels.size(); ++i) condition[static_cast<std::int64_t>(i)][labels[i]] = 1;
      PublishedLoopOptions options;
      options.noise_level = level;
      options.classifier_scale = config.at("scale");
      const at::Tensor encode = to_tensor(set.at("encode")), decode = to_tensor(set.at("decode"));
      const auto walk = [&](bool from_stored) {  // every step, or from where the loop itself came to
        const StepDone done = [&](std::int64_t step, std::int64_t, at::Tensor& state) {
          const at::Tensor stored = step < level ? encode[step - 1] : decode[step - level];
          close(state, stored, from_stored ? single : whole,
                (from_stored ? "single step " : "step ") + std::to_string(step));
          if (from_stored) state = stored.to(device, type);
        };
        return published_translation(watched, schedule, guide, x, fresh, condition, options, done,
                                     classes.present.empty() ? at::Tensor() : condition);
      };
      if (type == at::kFloat) walk(true);
      watched.levels.clear(), guide.levels.clear();
      const at::Tensor image = walk(false);
      close(schedule.signal(1) * x + schedule.noise(1) * fresh, to_tensor(set.at("x_noisy")), whole, "x_noisy");
      close(difference_map(x, image.unsqueeze(1)).squeeze(1), to_tensor(set.at("heat_sum")), whole, "heat_sum");
      const auto scaled = [](const at::Tensor& planes) { return min_max_scaled(planes.select(1, 0)); };
      close((scaled(x) - scaled(image)).abs(), to_tensor(set.at("heat_normalised")), whole, "heat_normalised");
      CHECK(seen_timesteps(schedule, watched.levels, unet_scale) == set.at("t_model").to_double());
      CHECK(seen_timesteps(full, guide.levels, guide_scale) == set.at("t_classifier").to_double());
    }
    check_outputs_read(set);
    return worst;
  });
}

}  // namespace

TEST_CASE("golden: the published anomaly-detection loop", "[published_loop][golden]") {
  check_published_loop_sets(at::kCPU);
}

TEST_CASE("golden published loop on a device", "[gpu]") {
  if (!no_golden_on_device()) check_published_loop_sets(at::Device(at::kCUDA, 0));
}
