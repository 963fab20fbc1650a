#include "daug/translator/published_loop.h"

#include <ATen/ATen.h>

#include "daug/core/error.h"
#include "daug/translator/finite_check.h"

namespace daug {

void PublishedLoopOptions::validate(const NoiseSchedule& schedule) const {
  require_range(noise_level, 2, schedule.steps() - 1, "daug::PublishedLoopOptions", "noise_level");
  require_range(classifier_scale, 0.0, 10000.0, "daug::PublishedLoopOptions", "classifier_scale");
}

at::Tensor published_translation(const NoisePredictor& predictor, const NoiseSchedule& schedule,
                                 const GuidanceClassifier& classifier, const at::Tensor& x, const at::Tensor& fresh,
                                 const at::Tensor& condition, const PublishedLoopOptions& options, const StepDone& done,
                                 const at::Tensor& denoiser_condition) {
  constexpr const char* kFunction = "daug::published_translation";
  options.validate(schedule);
  require_images(predictor, x, kFunction);
  require(fresh.defined() && fresh.sizes() == x.sizes(), kFunction, "fresh", x.sizes(),
          fresh.defined() ? fresh.sizes() : at::IntArrayRef{});
  std::int64_t step = 0;
  FiniteCheck finite(kFunction);
  const auto finished = [&](std::int64_t level, at::Tensor& state) {
    ++step;
    finite.see(state,
               detail::concat("step ", step, ", level ", level, ", classifier scale ", options.classifier_scale));
    if (done) done(step, level, state);
  };
  // Upstream's index i is level i + 1.
  at::Tensor state = schedule.signal(1) * x + schedule.noise(1) * fresh;
  for (std::int64_t index = 1; index < options.noise_level; ++index) {
    const std::int64_t level = index + 1;
    state = transition(schedule, state, predictor.noise(state, level, denoiser_condition), level, level + 1);
    finished(level + 1, state);
  }
  for (std::int64_t index = options.noise_level - 2; index >= 0; --index) {
    const std::int64_t level = index + 1;
    const at::Tensor pull = classifier.gradient(state, level, condition);
    const at::Tensor eps = predictor.noise(state, level, denoiser_condition);
    const double scale = options.classifier_scale * schedule.noise(level);
    state = transition(schedule, state, eps - scale * pull, level, level - 1);
    finished(level - 1, state);
  }
  finite.settle();
  return state;
}

}  // namespace daug
