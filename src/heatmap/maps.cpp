#include "daug/heatmap/maps.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "backend/conv3x3.h"
#include "backend/threads.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/finite_check.h"
#include "daug/translator/solver.h"
#include "translations.h"
#include "translator/item_noise_like.h"

namespace daug {

namespace {

/// Averages `per_level(x_t, noise, level)`, of this shape, over all levels and samples.
template <class PerLevel>
at::Tensor average_over_noise(const NoiseSchedule& schedule, const at::Tensor& x,
                              const std::vector<std::uint64_t>& items, const EvidenceOptions& options,
                              const char* function, at::IntArrayRef shape, const PerLevel& per_level) {
  require(static_cast<std::int64_t>(items.size()) == x.size(0), function, "items", x.size(0), items.size());
  const backend::SteadyFilters steady;
  FiniteCheck finite(function);
  const at::Tensor sum = at::zeros(shape, x.options());  // there from the start: no level needs more memory than it
  for (std::int64_t sample = 0; sample < options.samples; ++sample) {
    for (std::int64_t level : options.levels) {
      // Every second draw is the one before it negated: what is linear in the noise cancels.
      const std::string purpose = detail::concat("evidence/", level, "/", sample / 2);
      const at::Tensor noise = detail::item_noise_like(x, items, options.seed, purpose);
      if (sample % 2) noise.neg_();
      const at::Tensor map = per_level(noised(schedule, x, noise, level), noise, level);
      finite.see(map, detail::concat("level ", level, ", sample ", sample));
      sum.add_(map);
    }
  }
  finite.settle();
  return sum / static_cast<double>(options.samples * static_cast<std::int64_t>(options.levels.size()));
}

/// Conditions [R, F] as they are asked under at each level: each image's copy of what the predictor makes of them.
struct LaneConditions {
  std::int64_t rows;    ///< R
  LevelCondition told;  ///< B copies; undefined where the predictor reads none

  LaneConditions(const NoisePredictor& predictor, const at::Tensor& conditions, std::int64_t images,
                 const std::vector<std::int64_t>& levels)
      : rows(conditions.size(0)) {
    at::Tensor states = predictor.prepared(conditions);
    if (states.defined()) {
      std::vector<std::int64_t> times(static_cast<std::size_t>(states.dim()), 1);
      times[0] = images;
      states = states.repeat(times);
    }
    told = predictor.embedded(states, images * rows, levels);
  }
};

/// eps for every image under each of R conditions -> [B, R, C, H, W].
at::Tensor predict_all(const NoisePredictor& predictor, const at::Tensor& x, std::int64_t level,
                       const LaneConditions& conditions, const EvidenceOptions& options) {
  const backend::BatchThreads threads(options.max_batch);
  const std::int64_t max_batch =
      rows_within(options.memory_budget, predictor.bytes_per_item(x.size(2), x.size(3)), options.max_batch);
  const std::int64_t rows = conditions.rows;
  const at::Tensor states = conditions.told(level);
  const at::Tensor lanes = x.repeat_interleave(rows, 0);
  std::vector<at::Tensor> parts;
  for (std::int64_t i = 0; i < lanes.size(0); i += max_batch) {
    const std::int64_t count = std::min(max_batch, lanes.size(0) - i);
    parts.push_back(
        predictor.noise(lanes.narrow(0, i, count), level, states.defined() ? states.narrow(0, i, count) : states));
  }
  if (parts.empty()) return at::zeros({0, rows, x.size(1), x.size(2), x.size(3)}, x.options());
  return at::cat(parts).unflatten(0, {x.size(0), rows});
}

/// What the maps of images x under these conditions need.
void require_askable(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                     const at::Tensor& present, const EvidenceOptions& options, const char* function) {
  require_images(predictor, x, function);
  require(present.defined() && present.dim() == 2 && present.size(0) >= 1, function, "present",
          "shape [K, F] with K >= 1", present.defined() ? present.sizes() : at::IntArrayRef{});
  require_states(present, function, "present");
  options.validate(schedule);
  require_schedule(predictor.schedule(), schedule, function, "predictor");
}

/// [B, K, H, W] of the maps of images x under K conditions.
std::vector<std::int64_t> map_shape(const at::Tensor& x, const at::Tensor& present) {
  return {x.size(0), present.size(0), x.size(2), x.size(3)};
}

/// Rows c, then rows -c.
at::Tensor present_and_absent(const at::Tensor& present, const at::Tensor& like) {
  const at::Tensor states = present.to(like.options());
  return at::cat({states, -states});
}

/// Of eps under present_and_absent [B, 2 K, C, H, W].
at::Tensor evidence(const at::Tensor& eps, const at::Tensor& noise) {
  const std::int64_t count = eps.size(1) / 2;
  const at::Tensor error = (eps - noise.unsqueeze(1)).square().sum(2);
  return error.narrow(1, count, count) - error.narrow(1, 0, count);
}

/// Of eps with a condition [B, K, C, H, W] and without [B, 1, C, H, W].
at::Tensor score_difference(const at::Tensor& with, const at::Tensor& without) { return (with - without).abs().sum(2); }

/// Conditions in which one finding each is present and nothing else known.
at::Tensor each_alone(std::int64_t findings, const char* function) {
  require(findings >= 1, function, "findings", "at least 1", findings);
  return at::eye(findings);
}

}  // namespace

at::Tensor difference_map(const at::Tensor& x, const at::Tensor& images) {
  require_translations(x, images, "daug::difference_map");
  return (images - x.unsqueeze(1)).abs().sum(2);
}

at::Tensor min_max_scaled(const at::Tensor& planes) {
  const at::Tensor low = planes.amin({-2, -1}, true);
  const at::Tensor range = planes.amax({-2, -1}, true) - low;
  return at::where(range > 0, (planes - low) / range, at::zeros_like(planes));
}

at::Tensor image_scaled(const at::Tensor& images) {
  const at::Tensor low = images.amin({-3, -2, -1}, true);
  return (images - low) / (images.amax({-3, -2, -1}, true) - low);
}

at::Tensor reference_difference_map(const at::Tensor& x, const at::Tensor& images) {
  require_translations(x, images, "daug::reference_difference_map");
  // A constant image gives 0 / 0 as published, which the last scaling turns into a zero map.
  return min_max_scaled(difference_map(image_scaled(x), image_scaled(images)));
}

at::Tensor smoothed(const at::Tensor& planes, double sigma) {
  require_range(sigma, 0.0, 1e4, "daug::smoothed", "sigma");
  require(planes.dim() >= 2, "daug::smoothed", "planes", "shape [..., H, W]", planes.sizes());
  if (sigma == 0 || planes.numel() == 0) return planes;
  const std::int64_t height = planes.size(-2), width = planes.size(-1);
  at::Tensor result = planes.reshape({-1, 1, height, width});
  for (const bool vertical : {true, false}) {
    const std::int64_t limit = (vertical ? height : width) - 1;  // reflection cannot reach past the far border
    const std::int64_t radius = std::min(static_cast<std::int64_t>(std::ceil(3 * sigma)), limit);
    if (radius < 1) continue;
    const at::Tensor offset = at::arange(-radius, radius + 1, planes.options());
    // For the least sigma a finite number that leaves nothing of a neighbour: infinity times 0 is none.
    at::Tensor kernel = at::exp(offset * offset * std::max(-0.5 / (sigma * sigma), -1e4));
    kernel = kernel / kernel.sum();
    if (vertical)
      result = at::conv2d(at::reflection_pad2d(result, {0, 0, radius, radius}), kernel.reshape({1, 1, -1, 1}));
    else
      result = at::conv2d(at::reflection_pad2d(result, {radius, radius, 0, 0}), kernel.reshape({1, 1, 1, -1}));
  }
  return result.reshape(planes.sizes());
}

void EvidenceOptions::validate(const NoiseSchedule& schedule) const {
  constexpr const char* kName = "daug::EvidenceOptions";
  require(!levels.empty(), kName, "levels", "at least one level", "none");
  for (std::int64_t level : levels) {
    require_range(level, 1, schedule.steps(), kName, "levels");
    require(schedule.abar(level) > 0, kName, "levels", "levels with some signal left, or nothing of the image is seen",
            level);
  }
  require_range(samples, 1, 1 << 20, kName, "samples");
  require_range(max_batch, 1, 1 << 20, kName, "max_batch");
  require(memory_budget >= 0, kName, "memory_budget", "0 or more bytes", memory_budget);
}

at::Tensor evidence_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                         const std::vector<std::uint64_t>& items, const at::Tensor& present,
                         const EvidenceOptions& options) {
  constexpr const char* kFunction = "daug::evidence_maps";
  require_askable(predictor, schedule, x, present, options, kFunction);
  const LaneConditions conditions(predictor, present_and_absent(present, x), x.size(0), options.levels);
  return average_over_noise(schedule, x, items, options, kFunction, map_shape(x, present),
                            [&](const at::Tensor& noisy, const at::Tensor& noise, std::int64_t level) {
                              return evidence(predict_all(predictor, noisy, level, conditions, options), noise);
                            });
}

at::Tensor evidence_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                         const std::vector<std::uint64_t>& items, std::int64_t findings,
                         const EvidenceOptions& options) {
  return evidence_maps(predictor, schedule, x, items, each_alone(findings, "daug::evidence_maps"), options);
}

at::Tensor score_difference_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                                 const std::vector<std::uint64_t>& items, const at::Tensor& present,
                                 const EvidenceOptions& options) {
  constexpr const char* kFunction = "daug::score_difference_maps";
  require_askable(predictor, schedule, x, present, options, kFunction);
  const std::int64_t count = present.size(0);
  const at::Tensor states = at::cat({present.to(x.options()), at::zeros({1, present.size(1)}, x.options())});
  const LaneConditions conditions(predictor, states, x.size(0), options.levels);
  return average_over_noise(schedule, x, items, options, kFunction, map_shape(x, present),
                            [&](const at::Tensor& noisy, const at::Tensor&, std::int64_t level) {
                              const at::Tensor eps = predict_all(predictor, noisy, level, conditions, options);
                              return score_difference(eps.narrow(1, 0, count), eps.narrow(1, count, 1));
                            });
}

at::Tensor score_difference_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                                 const std::vector<std::uint64_t>& items, std::int64_t findings,
                                 const EvidenceOptions& options) {
  return score_difference_maps(predictor, schedule, x, items, each_alone(findings, "daug::score_difference_maps"),
                               options);
}

at::Tensor evidence_and_score_difference_maps(const NoisePredictor& predictor, const NoiseSchedule& schedule,
                                              const at::Tensor& x, const std::vector<std::uint64_t>& items,
                                              const at::Tensor& present, const EvidenceOptions& options) {
  constexpr const char* kFunction = "daug::evidence_and_score_difference_maps";
  require_askable(predictor, schedule, x, present, options, kFunction);
  const at::Tensor states = at::cat({present_and_absent(present, x), at::zeros({1, present.size(1)}, x.options())});
  const LaneConditions conditions(predictor, states, x.size(0), options.levels);
  const std::int64_t count = present.size(0);
  return average_over_noise(
      schedule, x, items, options, kFunction, {2, x.size(0), count, x.size(2), x.size(3)},
      [&](const at::Tensor& noisy, const at::Tensor& noise, std::int64_t level) {
        const at::Tensor eps = predict_all(predictor, noisy, level, conditions, options);
        return at::stack({evidence(eps.narrow(1, 0, 2 * count), noise),
                          score_difference(eps.narrow(1, 0, count), eps.narrow(1, 2 * count, 1))});
      });
}

}  // namespace daug
