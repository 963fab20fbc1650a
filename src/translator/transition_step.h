#pragma once
// The transition between two levels as the step of a solver that makes it in one pass.

#include <cstdint>

#include "backend/fused_ops.h"
#include "daug/translator/noise_schedule.h"

namespace daug::detail {

/// What `transition` keeps of x and adds of its noise estimate.
inline backend::SolverStep transition_step(const NoiseSchedule& schedule, std::int64_t from, std::int64_t to) {
  const double ratio = schedule.signal(to) / schedule.signal(from);
  return {ratio, schedule.noise(to) - ratio * schedule.noise(from)};
}

}  // namespace daug::detail
