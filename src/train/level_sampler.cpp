#include "daug/train/level_sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "daug/core/error.h"

namespace daug {

namespace {
constexpr std::int64_t kKept = 10;  // upstream's history a level
}

void LevelSamplerOptions::validate() const {
  constexpr const char* kName = "daug::LevelSamplerOptions";
  require_range(lowest, 0, highest, kName, "lowest");
  require_range(highest, 0, 1 << 20, kName, "highest");
  require(uniform > 0 && uniform <= 1, kName, "uniform", "a value in (0, 1]", uniform);
}

LevelSampler::LevelSampler(LevelSamplerOptions options, std::size_t workers) : options_(options), recorded_(workers) {
  options_.validate();
  const std::int64_t levels = options_.loss_aware ? options_.highest - options_.lowest + 1 : 0;
  history_ = at::zeros({levels, kKept + 1}, at::kDouble);
}

LevelSampler::Draw LevelSampler::draw(RandomStream& stream) const {
  const auto count = static_cast<std::uint32_t>(options_.highest - options_.lowest + 1);
  if (cumulative_.empty()) return {options_.lowest + static_cast<std::int64_t>(stream.below(count)), 1.0};
  const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end() - 1, stream.uniform());
  const double before = found == cumulative_.begin() ? 0.0 : *(found - 1);
  return {options_.lowest + (found - cumulative_.begin()), 1 / (static_cast<double>(count) * (*found - before))};
}

void LevelSampler::record(std::size_t worker, const at::Tensor& levels, const at::Tensor& losses) {
  constexpr const char* kFunction = "daug::LevelSampler::record";
  require(worker < recorded_.size(), kFunction, "worker", detail::concat("below ", recorded_.size()), worker);
  if (!options_.loss_aware) return;
  const at::Tensor rows = levels.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor values = losses.detach().to(at::kCPU, at::kDouble).contiguous();
  require(rows.dim() == 1 && values.sizes() == rows.sizes(), kFunction, "losses",
          detail::concat("shape ", rows.sizes()), values.sizes());
  recorded_[worker].clear();
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    const std::int64_t level = rows.data_ptr<std::int64_t>()[i];
    require_range(level, options_.lowest, options_.highest, kFunction, "levels");
    recorded_[worker].emplace_back(level - options_.lowest, values.data_ptr<double>()[i]);
  }
}

void LevelSampler::step_done() {
  if (!options_.loss_aware) return;
  auto history = history_.accessor<double, 2>();
  for (auto& losses : recorded_) {
    for (const auto& [row, loss] : losses) {
      auto kept = history[row];
      if (kept[kKept] == kKept)
        for (std::int64_t i = 1; i < kKept; ++i) kept[i - 1] = kept[i];
      else
        kept[kKept] += 1;
      kept[static_cast<std::int64_t>(kept[kKept]) - 1] = loss;
    }
    losses.clear();
  }
  weigh();
}

void LevelSampler::restore(const at::Tensor& saved) {
  // The counts become indices.
  const at::Tensor table = saved.to(at::kDouble), counts = table.select(1, kKept);
  if (!table.isfinite().all().item<bool>() || !counts.eq(counts.floor()).all().item<bool>() ||
      counts.lt(0).any().item<bool>() || counts.gt(kKept).any().item<bool>())
    fail(ErrorCode::kFormat, "daug::LevelSampler::restore", "saved",
         detail::concat("finite losses and counts in [0, ", kKept, "]"), "others");
  history_.copy_(table);
  if (options_.loss_aware) weigh();
}

void LevelSampler::weigh() {
  const auto history = history_.accessor<double, 2>();
  std::vector<double> weights;
  double sum = 0;
  for (std::int64_t row = 0; row < history.size(0); ++row) {
    if (history[row][kKept] < kKept) return;
    double squares = 0;
    for (std::int64_t i = 0; i < kKept; ++i) squares += history[row][i] * history[row][i];
    weights.push_back(std::sqrt(squares / kKept));
    sum += weights.back();
  }
  const auto count = static_cast<double>(weights.size());
  cumulative_.clear();
  double total = 0;
  for (const double weight : weights) {
    const double share = sum > 0 ? weight / sum : 1 / count;
    total += (1 - options_.uniform) * share + options_.uniform / count;
    cumulative_.push_back(total);
  }
}

}  // namespace daug
