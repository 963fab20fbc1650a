#pragma once
/// @file
/// Which noise levels a denoiser is trained at.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "daug/core/random.h"
#include "daug/train/trainer.h"

namespace daug {

/// Settings of LevelSampler.
struct LevelSamplerOptions {
  std::int64_t lowest = 1;      ///< levels drawn are in [lowest, highest], lowest >= 0
  std::int64_t highest = 1000;  ///< see lowest
  bool loss_aware = false;      ///< draw levels in proportion to the root mean square of their recent losses
  double uniform = 0.001;       ///< share of draws that stay uniform, so that no level is forgotten, in (0, 1]

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Uniform noise levels, or loss-aware ones (improved DDPM, arXiv 2102.09672, section 3.3): a level is drawn in
/// proportion to sqrt(mean of its last 10 squared losses) and its loss divided by that probability, which lowers the
/// variance of the variational bound's gradient and not its mean. Uniform until every level has 10 losses. As
/// LossSecondMomentResampler of openai/guided-diffusion (guided_diffusion/resample.py, MIT).
///
/// Workers draw and record concurrently, each under its own number; what they record counts from the next step on, in
/// worker order, so that results do not depend on timing.
class LevelSampler final : public TrainingState {
 public:
  /// One drawn level and the factor its loss gets: 1 when levels are uniform.
  struct Draw {
    std::int64_t level;  ///< in [lowest, highest]
    double weight;       ///< > 0
  };

  /// Uniform at first. Throws what LevelSamplerOptions::validate throws.
  LevelSampler(LevelSamplerOptions options, std::size_t workers);

  /// Takes its one random number from `stream`.
  Draw draw(RandomStream& stream) const;
  /// Notes the unweighted losses [b] of items at `levels` [b], for worker < workers; without effect unless loss-aware.
  /// Throws kInvalidArgument for a worker that there is not, and for shapes and levels.
  void record(std::size_t worker, const at::Tensor& levels, const at::Tensor& losses);

  void step_done() override;
  at::Tensor saved() const override { return history_; }
  void restore(const at::Tensor& saved) override;

 private:
  void weigh();

  LevelSamplerOptions options_;
  at::Tensor history_;              ///< [levels, 11], float64: losses kept, then how many there are
  std::vector<double> cumulative_;  ///< probability of a level or one before it; empty while uniform
  std::vector<std::vector<std::pair<std::int64_t, double>>> recorded_;  ///< by worker, since the last step
};

}  // namespace daug
