#pragma once
// Schedule tables looked up for a batch in which every item has a level of its own.

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/translator/noise_predictor.h"
#include "daug/translator/noise_schedule.h"

namespace daug::detail {

/// Entries of `table` (by timestep) at `levels` [B] as [B, 1, 1, 1] in the dtype and on the device of `like`.
inline at::Tensor table_at(const std::vector<double>& table, const at::Tensor& levels, const at::Tensor& like) {
  const at::Tensor values = at::tensor(table, at::kDouble).index_select(0, levels.to(at::kCPU) - 1);
  return backend::upload(values.to(like.scalar_type()), like.device()).reshape({-1, 1, 1, 1});
}

/// `value(level)` for each of `levels` [B], as table_at.
template <class Value>
at::Tensor values_at(const at::Tensor& levels, const at::Tensor& like, const Value& value) {
  const at::Tensor rows = levels.to(at::kCPU, at::kLong).contiguous();
  std::vector<double> values;
  for (std::int64_t i = 0; i < rows.numel(); ++i) values.push_back(value(rows.data_ptr<std::int64_t>()[i]));
  return backend::upload(at::tensor(values, at::kDouble).to(like.scalar_type()), like.device()).reshape({-1, 1, 1, 1});
}

inline at::Tensor signal_at(const NoiseSchedule& schedule, const at::Tensor& levels, const at::Tensor& like) {
  return values_at(levels, like, [&](std::int64_t level) { return schedule.signal(level); });
}
inline at::Tensor noise_at(const NoiseSchedule& schedule, const at::Tensor& levels, const at::Tensor& like) {
  return values_at(levels, like, [&](std::int64_t level) { return schedule.noise(level); });
}

/// Mean of q(x_{t-1} | x_t, x_0) (DDPM equation 7).
inline at::Tensor posterior_mean(const NoiseSchedule& schedule, const at::Tensor& clean, const at::Tensor& x,
                                 const at::Tensor& levels) {
  return table_at(schedule.posterior_mean_coef1(), levels, x) * clean +
         table_at(schedule.posterior_mean_coef2(), levels, x) * x;
}

inline void require_levels(const NoiseSchedule& schedule, const at::Tensor& levels, const at::Tensor& x,
                           const char* function) {
  require(x.dim() == 4, function, "x", "shape [B, C, H, W]", x.sizes());
  require(levels.dim() == 1 && levels.size(0) == x.size(0) && levels.scalar_type() == at::kLong, function, "levels",
          concat("int64 of shape [", x.size(0), "]"), levels.sizes());
  if (levels.numel() == 0) return;
  const auto low = levels.min().item<std::int64_t>(), high = levels.max().item<std::int64_t>();
  require(low >= 1 && high <= schedule.steps(), function, "levels", concat("in [1, ", schedule.steps(), "]"),
          concat("[", low, ", ", high, "]"));
}

}  // namespace daug::detail
