#include "daug/heatmap/polarity_test.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "daug/core/error.h"

namespace daug {

namespace {

/// Welch's t of two samples.
double separation_of(const at::Tensor& with, const at::Tensor& without) {
  if (with.numel() < 2 || without.numel() < 2) return std::numeric_limits<double>::quiet_NaN();
  const auto error = [](const at::Tensor& sample) {
    return sample.var().item<double>() / static_cast<double>(sample.numel());
  };
  // Two constant samples that differ are infinitely far apart; two equal ones are not apart at all.
  const double difference = with.mean().item<double>() - without.mean().item<double>();
  return difference == 0 ? 0 : difference / std::sqrt(error(with) + error(without));
}

}  // namespace

PolarityTest polarity_test(const NoisePredictor& predictor, const NoiseSchedule& schedule, const at::Tensor& x,
                           const at::Tensor& states, const std::vector<std::uint64_t>& items,
                           const std::vector<std::string>& findings, const EvidenceOptions& options) {
  constexpr double kDecided = 2;
  const auto count = static_cast<std::int64_t>(findings.size());
  require(x.dim() == 4, "daug::polarity_test", "x", "shape [B, C, H, W]", x.sizes());
  require(states.sizes() == at::IntArrayRef({x.size(0), count}), "daug::polarity_test", "states",
          detail::concat("shape [", x.size(0), ", ", count, "]"), states.sizes());
  const at::Tensor scores = evidence_maps(predictor, schedule, x, items, count, options).to(at::kDouble).mean({2, 3});
  PolarityTest result;
  for (std::int64_t f = 0; f < count; ++f) {
    const at::Tensor score = scores.select(1, f), state = states.select(1, f);
    const double t = separation_of(score.index({state > 0}), score.index({state < 0}));
    result.separation.push_back(t);
    if (t < -kDecided)
      result.swapped.push_back(findings[static_cast<std::size_t>(f)]);
    else if (!(t > kDecided))
      result.undecided.push_back(findings[static_cast<std::size_t>(f)]);
  }
  return result;
}

}  // namespace daug
