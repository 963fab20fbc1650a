#include "daug/translator/reverse_process.h"

#include <ATen/ATen.h>

#include "schedule_factors.h"

namespace daug {

namespace {

using detail::noise_at;
using detail::posterior_mean;
using detail::signal_at;
using detail::table_at;

/// The bounds between which a learned variance lies.
std::vector<double> log_of(std::vector<double> table) {
  for (double& value : table) value = std::log(value);
  return table;
}

/// Upstream's upper bound: the decoder's first step would have beta_0, far more than its posterior.
std::vector<double> large_variance(const NoiseSchedule& schedule) {
  std::vector<double> table = schedule.betas();
  if (table.size() > 1) table[0] = schedule.posterior_variance()[1];
  return table;
}

at::Tensor clean_estimate(const NoiseSchedule& schedule, Prediction prediction, const at::Tensor& output,
                          const at::Tensor& x, const at::Tensor& levels) {
  switch (prediction) {
    case Prediction::kEps:
      return (x - noise_at(schedule, levels, x) * output) / signal_at(schedule, levels, x);
    case Prediction::kV:
      return signal_at(schedule, levels, x) * x - noise_at(schedule, levels, x) * output;
    case Prediction::kPreviousX: {
      const at::Tensor factor = table_at(schedule.posterior_mean_coef1(), levels, x);
      return (output - table_at(schedule.posterior_mean_coef2(), levels, x) * x) / factor;
    }
    case Prediction::kX0:
      break;
  }
  return output;
}

}  // namespace

VarianceKind variance_kind(std::string_view name) {
  if (name == "fixed_small") return VarianceKind::kFixedSmall;
  if (name == "fixed_large") return VarianceKind::kFixedLarge;
  if (name == "learned") return VarianceKind::kLearned;
  if (name == "learned_range") return VarianceKind::kLearnedRange;
  fail(ErrorCode::kInvalidArgument, "daug::variance_kind", "name",
       "\"fixed_small\", \"fixed_large\", \"learned\" or \"learned_range\"", name);
}

bool is_learned(VarianceKind kind) { return kind == VarianceKind::kLearned || kind == VarianceKind::kLearnedRange; }

ReverseDistribution reverse_distribution(const NoiseSchedule& schedule, const at::Tensor& output, const at::Tensor& x,
                                         const at::Tensor& levels, Prediction prediction, VarianceKind variance,
                                         bool clip) {
  constexpr const char* kFunction = "daug::reverse_distribution";
  detail::require_levels(schedule, levels, x, kFunction);
  const std::int64_t channels = is_learned(variance) ? 2 * x.size(1) : x.size(1);
  require(output.sizes() == at::IntArrayRef({x.size(0), channels, x.size(2), x.size(3)}), kFunction, "output",
          detail::concat("[B, ", channels, ", H, W] beside x of ", x.sizes()), output.sizes());
  const at::Tensor centre = output.narrow(1, 0, x.size(1));
  ReverseDistribution p;
  p.clean = clean_estimate(schedule, prediction, centre, x, levels);
  if (clip) p.clean = p.clean.clamp(-1, 1);
  p.mean = prediction == Prediction::kPreviousX ? centre : posterior_mean(schedule, p.clean, x, levels);
  switch (variance) {
    case VarianceKind::kFixedSmall:
      p.variance = table_at(schedule.posterior_variance(), levels, x).expand_as(x);
      p.log_variance = table_at(schedule.posterior_log_variance_clipped(), levels, x).expand_as(x);
      return p;
    case VarianceKind::kFixedLarge:
      p.variance = table_at(large_variance(schedule), levels, x).expand_as(x);
      p.log_variance = p.variance.log();
      return p;
    case VarianceKind::kLearned:
      p.log_variance = output.narrow(1, x.size(1), x.size(1));
      break;
    case VarianceKind::kLearnedRange: {
      const at::Tensor low = table_at(schedule.posterior_log_variance_clipped(), levels, x);
      const at::Tensor high = table_at(log_of(schedule.betas()), levels, x);
      const at::Tensor share = (output.narrow(1, x.size(1), x.size(1)) + 1) / 2;
      p.log_variance = share * high + (1 - share) * low;
      break;
    }
  }
  p.variance = p.log_variance.exp();
  return p;
}

ReverseDistribution guided_by_mean(ReverseDistribution p, const at::Tensor& gradient) {
  p.mean = p.mean + p.variance * gradient;
  return p;
}

at::Tensor implied_noise(const NoiseSchedule& schedule, const ReverseDistribution& p, const at::Tensor& x,
                         const at::Tensor& levels) {
  detail::require_levels(schedule, levels, x, "daug::implied_noise");
  return (x - signal_at(schedule, levels, x) * p.clean) / noise_at(schedule, levels, x);
}

ReverseDistribution guided_by_score(const NoiseSchedule& schedule, ReverseDistribution p, const at::Tensor& x,
                                    const at::Tensor& levels, const at::Tensor& gradient) {
  const at::Tensor deviation = noise_at(schedule, levels, x);
  const at::Tensor eps = implied_noise(schedule, p, x, levels) - deviation * gradient;
  p.clean = clean_estimate(schedule, Prediction::kEps, eps, x, levels);
  p.mean = posterior_mean(schedule, p.clean, x, levels);
  return p;
}

at::Tensor ancestral_step(const ReverseDistribution& p, const at::Tensor& levels, const at::Tensor& fresh) {
  const at::Tensor noisy = levels.gt(1).to(fresh.options()).reshape({-1, 1, 1, 1});
  return p.mean + noisy * (0.5 * p.log_variance).exp() * fresh;
}

}  // namespace daug
