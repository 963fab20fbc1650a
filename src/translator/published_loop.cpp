#include "daug/translator/published_loop.h"

#include <ATen/ATen.h>

#include <functional>

#include "backend/conv3x3.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/translator/finite_check.h"
#include "daug/translator/translation.h"

namespace daug {

void PublishedLoopOptions::validate(const NoiseSchedule& schedule) const {
  require_range(noise_level, 2, schedule.steps() - 1, "daug::PublishedLoopOptions", "noise_level");
  require_range(classifier_scale, 0.0, 10000.0, "daug::PublishedLoopOptions", "classifier_scale");
}

namespace {

/// What the classifier adds to the estimate at a level of the way down.
using Pull = std::function<at::Tensor(const at::Tensor& state, std::int64_t level)>;

/// The loop up and down; no `pull`: none.
at::Tensor walked(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                  const at::Tensor& fresh, const PublishedLoopOptions& options, const at::Tensor& denoiser_condition,
                  const Pull& pull, const StepDone& done, const char* function) {
  const at::Tensor states = backend::upload(predictor.prepared(denoiser_condition), x.device());  // not at every step
  std::int64_t step = 0;
  FiniteCheck finite(function);
  const auto finished = [&](std::int64_t level, at::Tensor& state) {
    ++step;
    finite.see(state, detail::concat("step ", step, ", level ", level, ", classifier scale ",
                                     pull ? options.classifier_scale : 0.0));
    if (done) done(step, level, state);
  };
  // Upstream's index i is level i + 1.
  at::Tensor state = (schedule.signal(1) * x + schedule.noise(1) * fresh).to(x.scalar_type());
  for (std::int64_t index = 1; index < options.noise_level; ++index) {
    const std::int64_t level = index + 1;
    state = transition(schedule, state, predictor.noise(state, level, states), level, level + 1);
    finished(level + 1, state);
  }
  for (std::int64_t index = options.noise_level - 2; index >= 0; --index) {
    const std::int64_t level = index + 1;
    at::Tensor eps = predictor.noise(state, level, states);
    if (pull) {  // float32 beside a half network, which takes no such state
      eps = (eps - options.classifier_scale * schedule.noise(level) * pull(state, level)).to(state.scalar_type());
    }
    state = transition(schedule, state, eps, level, level - 1);
    finished(level - 1, state);
  }
  finite.settle();
  return state;
}

void require_walk(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                  const at::Tensor& fresh, const PublishedLoopOptions& options, const char* function) {
  options.validate(schedule);
  require_schedule(predictor.schedule(), schedule, function, "predictor");
  require_images(predictor, x, function);
  require(fresh.defined() && fresh.sizes() == x.sizes(), function, "fresh", x.sizes(),
          fresh.defined() ? fresh.sizes() : at::IntArrayRef{});
}

}  // namespace

at::Tensor published_translation(const NoisePredictor& predictor, const NoiseSchedule& schedule,
                                 const GuidanceClassifier& classifier, const at::Tensor& x, const at::Tensor& fresh,
                                 const at::Tensor& condition, const PublishedLoopOptions& options, const StepDone& done,
                                 const at::Tensor& denoiser_condition) {
  constexpr const char* kFunction = "daug::published_translation";
  const backend::SteadyFilters steady;
  require_walk(predictor, schedule, x, fresh, options, kFunction);
  // The classifier is not asked before the way down, half of the work later.
  require_images(x, classifier.channels(), kFunction, "x");
  require_guidable(classifier, x, kFunction);
  if (const NoiseSchedule* own = classifier.schedule(); own != nullptr && own->steps() < options.noise_level - 1)
    fail(ErrorCode::kMismatch, kFunction, "classifier",
         detail::concat("one whose schedule has the levels up to ", options.noise_level - 1, " that it is asked at"),
         detail::concat("one of ", own->steps()));
  const std::int64_t findings = classifier.num_findings();
  if (!condition.defined() || condition.sizes() != at::IntArrayRef({x.size(0), findings}))
    fail(ErrorCode::kMismatch, kFunction, "condition",
         detail::concat("shape [", x.size(0), ", ", findings, "], a state for each of the classifier's findings"),
         condition.defined() ? condition.sizes() : at::IntArrayRef{});
  require_states(condition, kFunction, "condition");
  const at::Tensor wanted = backend::upload(condition, x.device());
  const Pull pull = [&](const at::Tensor& state, std::int64_t level) {
    return classifier.gradient(state, level, wanted);
  };
  return walked(predictor, schedule, x, fresh, options, denoiser_condition, pull, done, kFunction);
}

at::Tensor published_reconstruction(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                                    const at::Tensor& fresh, const PublishedLoopOptions& options,
                                    const at::Tensor& denoiser_condition) {
  constexpr const char* kFunction = "daug::published_reconstruction";
  require_walk(predictor, schedule, x, fresh, options, kFunction);
  return walked(predictor, schedule, x, fresh, options, denoiser_condition, {}, {}, kFunction);
}

}  // namespace daug
