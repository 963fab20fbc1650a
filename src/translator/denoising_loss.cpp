#include "daug/translator/denoising_loss.h"

#include <ATen/ATen.h>

#include <cmath>

#include "backend/upload.h"
#include "schedule_factors.h"
#include "squared_error.h"

namespace daug {

namespace {

constexpr double kLn2 = 0.69314718055994530942;

at::Tensor item_means(const at::Tensor& x) { return x.flatten(1).mean(1); }

/// KL of two Gaussians, element by element, in nats.
at::Tensor gaussian_kl(const at::Tensor& mean1, const at::Tensor& log_variance1, const at::Tensor& mean2,
                       const at::Tensor& log_variance2) {
  return 0.5 * (log_variance2 - log_variance1 - 1 + at::exp(log_variance1 - log_variance2) +
                (mean1 - mean2).square() * at::exp(-log_variance2));
}

/// The tanh approximation of the normal distribution function that upstream's likelihood is made of.
at::Tensor normal_cdf(const at::Tensor& x) {
  return 0.5 * (1 + at::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x.pow(3))));
}

/// Log-probability of the grey level (a bin of width 2/255, open at both ends of the range) that holds each pixel.
at::Tensor grey_level_log_likelihood(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& log_deviation) {
  constexpr double kHalfBin = 1.0 / 255, kEnd = 0.999, kSmallest = 1e-12;
  const at::Tensor centred = x - mean, precision = at::exp(-log_deviation);
  const at::Tensor above = normal_cdf(precision * (centred + kHalfBin));
  const at::Tensor below = normal_cdf(precision * (centred - kHalfBin));
  const auto log = [&](const at::Tensor& p) { return p.clamp_min(kSmallest).log(); };
  return at::where(x < -kEnd, log(above), at::where(x > kEnd, log(1 - below), log(above - below)));
}

at::Tensor min_snr_weight(const NoiseSchedule& schedule, const DenoisingLossOptions& options, const at::Tensor& levels,
                          const at::Tensor& like) {
  return detail::values_at(levels, like,
                           [&](std::int64_t level) {
                             const double abar = schedule.abar(level), snr = abar / (1 - abar),
                                          capped = std::min(snr, options.min_snr);
                             if (options.prediction == Prediction::kX0) return capped;
                             return capped / (options.prediction == Prediction::kEps ? snr : snr + 1);
                           })
      .flatten();
}

}  // namespace

DenoisingObjective denoising_objective(std::string_view name) {
  if (name == "mse") return DenoisingObjective::kMse;
  if (name == "rescaled_mse") return DenoisingObjective::kRescaledMse;
  if (name == "kl") return DenoisingObjective::kKl;
  if (name == "rescaled_kl") return DenoisingObjective::kRescaledKl;
  fail(ErrorCode::kInvalidArgument, "daug::denoising_objective", "name",
       "\"mse\", \"rescaled_mse\", \"kl\" or \"rescaled_kl\"", name);
}

void DenoisingLossOptions::validate() const {
  constexpr const char* kName = "daug::DenoisingLossOptions";
  require_range(min_snr, 0.0, 1e6, kName, "min_snr");
  if (min_snr == 0) return;
  require(prediction != Prediction::kPreviousX, kName, "min_snr", "0 for a network that predicts the previous image",
          min_snr);
  require(objective == DenoisingObjective::kMse || objective == DenoisingObjective::kRescaledMse, kName, "min_snr",
          "0 for the variational bound, which has weights of its own", min_snr);
}

at::Tensor prediction_target(const NoiseSchedule& schedule, Prediction prediction, const at::Tensor& clean,
                             const at::Tensor& noise, const at::Tensor& levels) {
  detail::require_levels(schedule, levels, clean, "daug::prediction_target");
  const auto signal = [&] { return detail::signal_at(schedule, levels, clean); };
  const auto deviation = [&] { return detail::noise_at(schedule, levels, clean); };
  switch (prediction) {
    case Prediction::kEps:
      return noise;
    case Prediction::kV:
      return signal() * noise - deviation() * clean;
    case Prediction::kPreviousX:
      return detail::posterior_mean(schedule, clean, signal() * clean + deviation() * noise, levels);
    case Prediction::kX0:
      break;
  }
  return clean;
}

detail::ErrorTarget detail::error_target(const NoiseSchedule& schedule, const DenoisingLossOptions& options,
                                         const at::Tensor& clean, const at::Tensor& noise, const at::Tensor& levels) {
  ErrorTarget target;
  target.value = prediction_target(schedule, options.prediction, clean, noise, levels);
  if (options.min_snr > 0) target.weights = min_snr_weight(schedule, options, levels, clean);
  return target;
}

at::Tensor detail::squared_error(const at::Tensor& prediction, const at::Tensor& target) {
  return item_means((target - prediction).square());
}

at::Tensor detail::weighted(const at::Tensor& error, const at::Tensor& weights) {
  return weights.defined() ? weights * error : error;
}

bool detail::is_squared_error(const DenoisingLossOptions& options) {
  return !is_learned(options.variance) &&
         (options.objective == DenoisingObjective::kMse || options.objective == DenoisingObjective::kRescaledMse);
}

at::Tensor bound_term(const NoiseSchedule& schedule, const ReverseDistribution& p, const at::Tensor& clean,
                      const at::Tensor& noisy, const at::Tensor& levels) {
  detail::require_levels(schedule, levels, clean, "daug::bound_term");
  const at::Tensor truth = detail::posterior_mean(schedule, clean, noisy, levels);
  const at::Tensor log_variance = detail::table_at(schedule.posterior_log_variance_clipped(), levels, clean);
  const at::Tensor kl = item_means(gaussian_kl(truth, log_variance, p.mean, p.log_variance));
  const at::Tensor grey = -item_means(grey_level_log_likelihood(clean, p.mean, 0.5 * p.log_variance));
  return at::where(backend::upload(levels, clean.device()) == 1, grey, kl) / kLn2;
}

at::Tensor prior_term(const NoiseSchedule& schedule, const at::Tensor& clean) {
  const double signal = schedule.signal(schedule.steps()), variance = 1 - schedule.abar(schedule.steps());
  return item_means(0.5 * (variance - 1 - std::log(variance) + (signal * clean).square())) / kLn2;
}

DenoisingLoss denoising_loss(const NoiseSchedule& schedule, const DenoisingLossOptions& options,
                             const at::Tensor& output, const at::Tensor& clean, const at::Tensor& noisy,
                             const at::Tensor& noise, const at::Tensor& levels) {
  constexpr const char* kFunction = "daug::denoising_loss";
  options.validate();
  require_predictable(schedule, options.prediction, kFunction);
  detail::require_levels(schedule, levels, clean, kFunction);
  const bool learned = is_learned(options.variance);
  const std::int64_t channels = clean.size(1);
  require(output.dim() == 4 && output.size(1) == (learned ? 2 : 1) * channels, kFunction, "output",
          detail::concat((learned ? 2 : 1) * channels, " channels"), output.sizes());
  const auto steps = static_cast<double>(schedule.steps());
  const auto bound = [&](const at::Tensor& described) {
    const auto p = reverse_distribution(schedule, described, noisy, levels, options.prediction, options.variance);
    return bound_term(schedule, p, clean, noisy, levels);
  };
  DenoisingLoss result;
  if (options.objective == DenoisingObjective::kKl || options.objective == DenoisingObjective::kRescaledKl) {
    result.bound = bound(output);
    if (options.objective == DenoisingObjective::kRescaledKl) result.bound = result.bound * steps;
    result.loss = result.bound;
    return result;
  }
  const at::Tensor prediction = output.narrow(1, 0, channels);
  const detail::ErrorTarget target = detail::error_target(schedule, options, clean, noise, levels);
  result.error = detail::squared_error(prediction, target.value);
  result.loss = detail::weighted(result.error, target.weights);
  if (learned) {
    // The bound's gradient in the mean is noisy; the squared error is the better teacher of that half.
    result.bound = bound(at::cat({prediction.detach(), output.narrow(1, channels, channels)}, 1));
    if (options.objective == DenoisingObjective::kRescaledMse) result.bound = result.bound * (steps / 1000);
    result.loss = result.loss + result.bound;
  }
  return result;
}

}  // namespace daug
