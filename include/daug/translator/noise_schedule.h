#pragma once
/// @file
/// The noise schedule of a diffusion model as float64 tables, and the subsets of timesteps samplers walk along.
/// No LibTorch needed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "daug/core/error.h"

namespace daug {

namespace detail {

/// Rounds halves to even like Python's round(), which reference code uses to place timesteps.
inline std::int64_t round_half_even(double value) {
  const double floor = std::floor(value);
  const double rest = value - floor;
  const auto low = static_cast<std::int64_t>(floor);
  if (rest < 0.5) return low;
  if (rest > 0.5) return low + 1;
  return low % 2 == 0 ? low : low + 1;
}

}  // namespace detail

/// Timesteps kept out of `total` for a section string, sorted, as guided-diffusion's `space_timesteps` does.
///
/// "ddimN" takes the smallest integer stride that yields exactly N steps; "a,b,c" divides the range into as many equal
/// sections and takes that many evenly spaced steps from each; "N" is one section. Numbers may have blanks around them.
/// Throws kInvalidArgument when the request cannot be met. Source: openai/guided-diffusion, guided_diffusion/respace.py
/// (MIT).
inline std::vector<std::int64_t> space_timesteps(std::int64_t total, std::string_view sections) {
  constexpr const char* kFunction = "daug::space_timesteps";
  require(total >= 1, kFunction, "total", "at least 1", total);
  const auto parse = [&](std::string_view text) {
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
    while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
    require(!text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string_view::npos,
            kFunction, "sections", "\"ddimN\" or counts like \"10,15,20\"", sections);
    return static_cast<std::int64_t>(std::stoll(std::string(text)));
  };
  std::vector<std::int64_t> steps;
  if (sections.substr(0, 4) == "ddim") {
    const std::int64_t wanted = parse(sections.substr(4));
    for (std::int64_t stride = 1; stride < total; ++stride) {
      if ((total + stride - 1) / stride != wanted) continue;
      for (std::int64_t t = 0; t < total; t += stride) steps.push_back(t);
      return steps;
    }
    fail(ErrorCode::kInvalidArgument, kFunction, "sections",
         detail::concat("a step count reachable by an integer stride over ", total, " steps"), sections);
  }
  std::vector<std::int64_t> counts;
  for (std::size_t begin = 0; begin <= sections.size();) {
    const std::size_t end = std::min(sections.find(',', begin), sections.size());
    counts.push_back(parse(sections.substr(begin, end - begin)));
    begin = end + 1;
  }
  const auto section_count = static_cast<std::int64_t>(counts.size());
  std::int64_t start = 0;
  for (std::int64_t i = 0; i < section_count; ++i) {
    const std::int64_t size = total / section_count + (i < total % section_count ? 1 : 0);
    const std::int64_t count = counts[static_cast<std::size_t>(i)];
    require(count <= size, kFunction, "sections", detail::concat("at most ", size, " steps in section ", i), count);
    const double stride = count <= 1 ? 1.0 : static_cast<double>(size - 1) / static_cast<double>(count - 1);
    double position = 0;
    for (std::int64_t k = 0; k < count; ++k, position += stride)
      steps.push_back(start + detail::round_half_even(position));
    start += size;
  }
  std::sort(steps.begin(), steps.end());
  steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
  return steps;
}

/// Float64 tables of a variance-preserving diffusion `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps`.
///
/// Two index conventions meet here. A *level* n counts noise steps: level 0 is the clean image, level `steps()` the
/// noisiest. A *timestep* t = n - 1 is what tables of published code and the networks count. `abar(level)` uses
/// levels; the named tables (`betas()`, ...) are indexed by timestep. Immutable; deterministic.
class NoiseSchedule {
 public:
  /// Linear betas from 1e-4 to 2e-2, both scaled by 1000 / steps (DDPM, arXiv 2006.11239). steps in [20, 100000]:
  /// below 20 the last beta would exceed 1.
  static NoiseSchedule linear(std::int64_t steps = 1000) {
    require_range(steps, 20, 100000, "daug::NoiseSchedule::linear", "steps");
    const double scale = 1000.0 / static_cast<double>(steps);
    const double low = scale * 1e-4;
    const double high = scale * 2e-2;
    std::vector<double> betas(static_cast<std::size_t>(steps));
    for (std::size_t i = 0; i < betas.size(); ++i)
      betas[i] = low + (high - low) * static_cast<double>(i) / static_cast<double>(steps - 1);
    return NoiseSchedule("linear", std::move(betas));
  }

  /// Betas whose square roots are evenly spaced, from 1e-4 to 2e-2 scaled by 1000 / steps (latent diffusion, arXiv
  /// 2112.10752). steps in [20, 100000].
  static NoiseSchedule scaled_linear(std::int64_t steps = 1000) {
    require_range(steps, 20, 100000, "daug::NoiseSchedule::scaled_linear", "steps");
    const double scale = 1000.0 / static_cast<double>(steps);
    const double low = std::sqrt(scale * 1e-4), high = std::sqrt(scale * 2e-2);
    std::vector<double> betas(static_cast<std::size_t>(steps));
    for (std::size_t i = 0; i < betas.size(); ++i) {
      const double root = low + (high - low) * static_cast<double>(i) / static_cast<double>(steps - 1);
      betas[i] = root * root;
    }
    return NoiseSchedule("scaled_linear", std::move(betas));
  }

  /// Cosine schedule of improved DDPM (arXiv 2102.09672, equation 17), betas capped at 0.999. steps in [1, 100000].
  static NoiseSchedule cosine(std::int64_t steps = 1000) {
    require_range(steps, 1, 100000, "daug::NoiseSchedule::cosine", "steps");
    constexpr double kHalfPi = 1.57079632679489661923;
    const auto f = [](double t) { return std::pow(std::cos((t + 0.008) / 1.008 * kHalfPi), 2); };
    std::vector<double> betas(static_cast<std::size_t>(steps));
    const auto total = static_cast<double>(steps);
    for (std::size_t i = 0; i < betas.size(); ++i)
      betas[i] = std::min(1 - f(static_cast<double>(i + 1) / total) / f(static_cast<double>(i) / total), 0.999);
    return NoiseSchedule("cosine", std::move(betas));
  }

  /// The schedule of a model trained elsewhere (diffusers' `trained_betas`, or other ends of a linear one): betas by
  /// timestep, 1 to 100000 of them, each in (0, 1) but the last, which may be 1 and then leaves no signal. Called
  /// "custom", which `named` does not take. Throws kInvalidArgument.
  static NoiseSchedule from_betas(std::vector<double> betas) {
    constexpr const char* kFunction = "daug::NoiseSchedule::from_betas";
    require_range(betas.size(), std::size_t{1}, std::size_t{100000}, kFunction, "betas: number");
    for (std::size_t i = 0; i < betas.size(); ++i)
      require(betas[i] > 0 && (betas[i] < 1 || (betas[i] == 1 && i + 1 == betas.size())), kFunction, "betas",
              "values in (0, 1), or 1 as the last", betas[i]);
    return NoiseSchedule("custom", std::move(betas));
  }

  /// By name, as settings files give it: "linear", "scaled_linear" or "cosine", and each with "zero_snr_" before it.
  /// Throws kInvalidArgument for another name, and for steps out of the schedule's range.
  static NoiseSchedule named(std::string_view name, std::int64_t steps = 1000) {
    if (name.substr(0, kZeroSnr.size()) == kZeroSnr)
      return named(name.substr(kZeroSnr.size()), steps).with_zero_terminal_snr();
    if (name == "linear") return linear(steps);
    if (name == "scaled_linear") return scaled_linear(steps);
    if (name == "cosine") return cosine(steps);
    fail(ErrorCode::kInvalidArgument, "daug::NoiseSchedule::named", "name",
         "\"linear\", \"scaled_linear\", \"cosine\" or one of them after \"zero_snr_\"", name);
  }

  /// This schedule with its signal shifted and scaled so that the last level has none and the first keeps its own
  /// (arXiv 2305.08891, algorithm 1). A network must then predict v or x0. Throws kInvalidArgument for a respaced
  /// schedule, one of fewer than two steps, and one whose last level has no signal already.
  NoiseSchedule with_zero_terminal_snr() const {
    constexpr const char* kFunction = "daug::NoiseSchedule::with_zero_terminal_snr";
    require(steps() >= 2 && abar(steps()) > 0 && timestep_map_.back() == steps() - 1, kFunction, "*this",
            "a full schedule that ends with some signal", name_);
    const double first = signal(1), last = signal(steps());
    std::vector<double> betas = betas_;
    double previous = abar(1);
    for (std::int64_t level = 2; level <= steps(); ++level) {
      const double root = (signal(level) - last) * first / (first - last);
      betas[static_cast<std::size_t>(level) - 1] = 1 - root * root / previous;
      previous = root * root;
    }
    return NoiseSchedule(std::string(kZeroSnr) + name_, std::move(betas));
  }

  /// Keeps only some timesteps of this schedule; the abar of the kept ones are unchanged. Throws kInvalidArgument
  /// unless they are at least one, sorted, unique and in range.
  NoiseSchedule respaced(const std::vector<std::int64_t>& kept) const {
    constexpr const char* kFunction = "daug::NoiseSchedule::respaced";
    require(!kept.empty(), kFunction, "kept", "at least one timestep", "none");
    std::vector<double> betas;
    std::vector<std::int64_t> map;
    double previous = 1;
    std::int64_t last = -1;
    for (std::int64_t t : kept) {
      require(t > last && t < steps(), kFunction, "kept", detail::concat("rising timesteps below ", steps()), t);
      const double now = abar_[static_cast<std::size_t>(t) + 1];
      betas.push_back(1 - now / previous);
      map.push_back(timestep_map_[static_cast<std::size_t>(t)]);
      previous = now;
      last = t;
    }
    NoiseSchedule result(name_, std::move(betas));
    result.timestep_map_ = std::move(map);
    return result;
  }

  /// Whether a level is the same in both: as much noise, and the same timestep for the network.
  friend bool operator==(const NoiseSchedule& a, const NoiseSchedule& b) {
    return a.betas_ == b.betas_ && a.timestep_map_ == b.timestep_map_;
  }

  /// As `named` takes it; a respaced schedule keeps the name.
  const std::string& name() const { return name_; }
  /// T, the noisiest level.
  std::int64_t steps() const { return static_cast<std::int64_t>(betas_.size()); }

  /// Remaining signal power at a level in [0, steps()] (kInvalidArgument); abar(0) = 1.
  double abar(std::int64_t level) const {
    require_range(level, 0, steps(), "daug::NoiseSchedule::abar", "level");
    return abar_[static_cast<std::size_t>(level)];
  }
  /// sqrt(abar): factor of the clean image at a level.
  double signal(std::int64_t level) const { return std::sqrt(abar(level)); }
  /// sqrt(1 - abar): standard deviation of the noise at a level.
  double noise(std::int64_t level) const { return std::sqrt(1 - abar(level)); }

  /// Timestep to hand to the network at a level; level 0 uses that of level 1, so no off-by-one can exist.
  std::int64_t timestep(std::int64_t level) const {
    require_range(level, 0, steps(), "daug::NoiseSchedule::timestep", "level");
    return timestep_map_[static_cast<std::size_t>(std::max<std::int64_t>(level, 1) - 1)];
  }

  /// Variance added by each step, indexed by timestep; in [0, 1].
  const std::vector<double>& betas() const { return betas_; }
  /// What the network is asked at each timestep: itself, or, after `respaced`, the timestep of the full schedule.
  const std::vector<std::int64_t>& timestep_map() const { return timestep_map_; }

  /// Variance of q(x_{t-1} | x_t, x_0) (DDPM equation 7), indexed by timestep; 0 at t = 0.
  std::vector<double> posterior_variance() const {
    return table([&](std::size_t t) { return betas_[t] * (1 - abar_[t]) / (1 - abar_[t + 1]); });
  }
  /// Its logarithm with entry 0 replaced by entry 1, since the variance at t = 0 is zero.
  std::vector<double> posterior_log_variance_clipped() const {
    auto result = posterior_variance();
    if (result.size() > 1) result[0] = result[1];
    for (double& value : result) value = std::log(value);
    return result;
  }
  /// Factor of x_0 in the posterior mean, indexed by timestep.
  std::vector<double> posterior_mean_coef1() const {
    return table([&](std::size_t t) { return betas_[t] * std::sqrt(abar_[t]) / (1 - abar_[t + 1]); });
  }
  /// Factor of x_t in the posterior mean, indexed by timestep.
  std::vector<double> posterior_mean_coef2() const {
    return table([&](std::size_t t) { return (1 - abar_[t]) * std::sqrt(1 - betas_[t]) / (1 - abar_[t + 1]); });
  }

  /// `count + 1` levels from 0 to `top`, evenly spaced and rounded; what encode and decode walk along.
  /// count in [1, top], so that the levels are distinct; top in [1, steps()]. Throws kInvalidArgument.
  std::vector<std::int64_t> level_path(std::int64_t top, std::int64_t count) const {
    constexpr const char* kFunction = "daug::NoiseSchedule::level_path";
    require_range(top, 1, steps(), kFunction, "top");
    require_range(count, 1, top, kFunction, "count");
    std::vector<std::int64_t> levels;
    for (std::int64_t i = 0; i <= count; ++i)
      levels.push_back(
          detail::round_half_even(static_cast<double>(top) * static_cast<double>(i) / static_cast<double>(count)));
    return levels;
  }

 private:
  static constexpr std::string_view kZeroSnr = "zero_snr_";

  NoiseSchedule(std::string name, std::vector<double> betas) : name_(std::move(name)), betas_(std::move(betas)) {
    abar_.assign(1, 1.0);
    for (double beta : betas_) abar_.push_back(abar_.back() * (1 - beta));
    timestep_map_.resize(betas_.size());
    std::iota(timestep_map_.begin(), timestep_map_.end(), 0);
  }

  template <class Entry>
  std::vector<double> table(const Entry& entry) const {
    std::vector<double> result(betas_.size());
    for (std::size_t t = 0; t < result.size(); ++t) result[t] = entry(t);
    return result;
  }

  std::string name_;
  std::vector<double> betas_;
  std::vector<double> abar_;
  std::vector<std::int64_t> timestep_map_;
};

}  // namespace daug
