#pragma once
// Noise predictors with answers known in closed form, and the helpers the tests around them share.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/nn/module.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/noise_predictor.h"
#include "support/catch.h"
#include "support/tensor.h"

namespace daug::test {

/// Networks of these sizes gain nothing from a second intra-op thread, and lose seconds where processors are busy.
inline const bool kOneThread = (at::set_num_threads(1), true);

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) { return a.sizes() == b.sizes() && at::equal(a, b); }

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return a.numel() == 0 ? 0 : (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

/// Gives every parameter seeded normal values, so that layers that start at zero take part.
inline void randomise(torch::nn::Module& module, std::uint64_t seed, double deviation = 0.2) {
  at::NoGradGuard no_grad;
  for (auto& parameter : module.parameters())
    parameter.copy_(deviation * random_tensor(parameter.sizes().vec(), seed++));
}

/// Exact noise estimate for pixels drawn from N(mean, deviation^2): x_t is N(s m, s^2 d^2 + n^2) with signal s and
/// noise n, and E[eps | x_t] = n (x_t - s m) / (s^2 d^2 + n^2). Level 0 is answered as level 1, as documented.
class GaussianPredictor : public NoisePredictor {
 public:
  GaussianPredictor(NoiseSchedule schedule, double mean, double deviation)
      : schedule_(std::move(schedule)), mean_(mean), deviation_(deviation) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor&) const override {
    const std::int64_t asked = std::max<std::int64_t>(level, 1);
    const double s = schedule_.signal(asked), n = schedule_.noise(asked);
    return (x - s * mean_) * (n / (s * s * deviation_ * deviation_ + n * n));
  }

 private:
  NoiseSchedule schedule_;
  double mean_, deviation_;
};

/// eps = slope x + 0.001 level + sum over findings of weights[f] * condition[f], plus 0.01 f for a known state.
/// Linear in x; a state's sign and being known both matter.
class LinearPredictor : public NoisePredictor {
 public:
  LinearPredictor(double slope, std::vector<double> weights) : slope_(slope), weights_(std::move(weights)) {}

  double scalar(double x, std::int64_t level, const std::vector<double>& condition) const {
    double value = slope_ * x + 0.001 * static_cast<double>(level);
    for (std::size_t f = 0; f < condition.size(); ++f)
      value += weights_[f] * condition[f] + 0.01 * static_cast<double>(f) * std::abs(condition[f]);
    return value;
  }
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    at::Tensor value = slope_ * x + 0.001 * static_cast<double>(level);
    if (!condition.defined()) return value;
    const at::Tensor states = condition.to(at::kDouble);
    const auto count = static_cast<std::int64_t>(weights_.size());
    const at::Tensor shift =
        states.matmul(at::tensor(weights_, at::kDouble)) + states.abs().matmul(0.01 * at::arange(count, at::kDouble));
    return value + shift.reshape({-1, 1, 1, 1}).to(x.scalar_type());
  }

 private:
  double slope_;
  std::vector<double> weights_;
};

/// Options of a path of `steps` steps to a level.
inline TranslatorOptions path_options(std::int64_t level, std::int64_t steps, std::int64_t evaluations = 1) {
  TranslatorOptions options;
  options.level = level;
  options.steps = steps;
  options.evaluations = evaluations;
  return options;
}

/// Batches that stand for no images: each with a part of what require_images says of it. `x` is in [-1, 1].
inline std::vector<std::pair<at::Tensor, std::string>> not_images(const at::Tensor& x) {
  const auto with = [&](double value) {
    at::Tensor spoiled = x.clone();
    spoiled[-1][0][-1][0].fill_(value);
    return spoiled;
  };
  return {{127.5 * (x + 1), "like pixels in 0..255"},
          {with(1.01), "finite values in [-1, 1]"},
          {with(-1.01), "finite values in [-1, 1]"},
          {with(std::nan("")), "finite values in [-1, 1]"},
          {with(std::numeric_limits<double>::infinity()), "finite values in [-1, 1]"},
          {(127.5 * (x + 1)).to(at::kByte), "like pixels in 0..255"},
          {x.to(at::kLong), "floating-point values"},
          {x.to(at::kComplexDouble), "floating-point values"},
          {at::Tensor(), "H, W]"},
          {x[0], "H, W]"},
          {at::cat({x, x}, 1), detail::concat("shape [B, ", x.size(1), ", H, W]")}};
}

/// Counts what reaches another predictor, and can turn one level's answer into NaN. Single-threaded.
class WatchedPredictor : public NoisePredictor {
 public:
  explicit WatchedPredictor(std::shared_ptr<const NoisePredictor> inner) : inner_(std::move(inner)) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    rows += x.size(0);
    largest_batch = std::max(largest_batch, x.size(0));
    levels.push_back(level);
    const at::Tensor answer = inner_->noise(x, level, condition);
    return poisoned_level == level ? answer * std::nan("") : answer;
  }

  at::Tensor prepared(const at::Tensor& condition) const override {
    ++preparations;
    return inner_->prepared(condition);
  }

  std::int64_t bytes_per_item(std::int64_t height, std::int64_t width) const override {
    return bytes_per_pixel * height * width;
  }

  std::int64_t channels() const override { return known_channels; }

  const NoiseSchedule* schedule() const override { return inner_->schedule(); }

  std::int64_t bytes_per_pixel = 0, known_channels = 0;
  mutable std::int64_t rows = 0, largest_batch = 0, preparations = 0;
  mutable std::vector<std::int64_t> levels;
  std::optional<std::int64_t> poisoned_level;

 private:
  std::shared_ptr<const NoisePredictor> inner_;
};

}  // namespace daug::test
