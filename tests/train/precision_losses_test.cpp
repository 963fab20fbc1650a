// Losses of a training in bfloat16 beside those in float32.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <vector>

#include "daug/data/phantom.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/translator/noise_schedule.h"
#include "support/catch.h"
#include "support/device.h"
#include "translator/tiny_networks.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr std::size_t kCurveSteps = 400, kSmoothedSteps = 50;

/// Phantoms of 32 x 32 pixels, and which findings they have.
struct PhantomImages {
  at::Tensor images, states;

  explicit PhantomImages(std::int64_t count)
      : images(at::empty({count, 1, 32, 32})),
        states(at::empty({count, static_cast<std::int64_t>(phantom_findings().size())})) {
    float *pixel = images.mutable_data_ptr<float>(), *state = states.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < count; ++i) {
      const Phantom phantom = make_phantom({}, static_cast<std::uint64_t>(i), 0);
      pixel = std::copy(phantom.image.begin(), phantom.image.end(), pixel);
      for (const LabelState truth : phantom.truth) *state++ = truth == LabelState::kPositive ? 1.0F : -1.0F;
    }
  }
};

/// Means of losses that follow each other.
std::vector<double> smoothed_losses(const PhantomImages& set, const DenoiserTrainerOptions& options) {
  TrainingHistory history;
  (void)train_denoiser(set.images, set.states, NoiseSchedule::linear(1000), options, {}, &history);
  REQUIRE(history.loss.size() == kCurveSteps);
  CHECK(history.skipped_steps == 0);
  std::vector<double> means(kCurveSteps / kSmoothedSteps);
  for (std::size_t step = 0; step < kCurveSteps; ++step)
    means[step / kSmoothedSteps] += static_cast<double>(history.loss[step]) / kSmoothedSteps;
  return means;
}

/// Largest difference of two curves, as a share of the second.
double farthest_apart(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < b.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]) / b[i]);
  return largest;
}

}  // namespace

TEST_CASE("on a device a denoiser's losses on phantoms in bfloat16 are those in float32 within the noise of seeds",
          "[denoiser_trainer][gpu]") {
  if (no_device()) return;
  const PhantomImages set(256);
  DenoiserTrainerOptions options;
  make_tiny(options.network, 32);
  options.network.patch = 2;
  options.network.attention_downsample = {2};
  options.network.use_scale_shift_norm = true;
  options.workers = 1;
  options.device = c10::Device(at::kCUDA, 0);
  options.optimizer.steps = static_cast<std::int64_t>(kCurveSteps);
  options.optimizer.learning_rate = 2e-3;
  const auto losses = [&](TrainingPrecision precision, std::uint64_t seed) {
    options.precision = precision;
    options.seed = seed;
    return smoothed_losses(set, options);
  };
  const auto full = losses(TrainingPrecision::kFloat32, 1), half = losses(TrainingPrecision::kBfloat16, 1);
  const double noise = farthest_apart(losses(TrainingPrecision::kFloat32, 2), full), gap = farthest_apart(half, full);
  std::cout << "smoothed losses in bfloat16 are up to " << 100 * gap << " % from those in float32, those of two seeds "
            << 100 * noise << " % from each other\n";
  CHECK(full.back() < 0.7 * full.front());
  CHECK(half != full);
  CHECK(gap < noise);
  CHECK(gap < 0.05);
}
