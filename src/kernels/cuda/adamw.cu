#include <cmath>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// Two launches: one thread counts the step and works out what depends on numbers that the device alone knows; every
// element then takes its step.

namespace daug::kernels {
namespace cuda {
namespace {

/// What the device alone knows.
struct Found {
  float gradient_factor;
  float rate;       ///< over 1 - beta1^t
  float deviation;  ///< factor on sqrt(v): 1 / sqrt(1 - beta2^t)
  float applied;    ///< 0: nothing changes
};
static_assert(sizeof(Found) == kAdamwWorkspace * sizeof(float), "the caller's workspace");

/// What the host knows, in float32.
struct Shares {
  float kept;           ///< of a weight
  float first, second;  ///< of the gradient and its square in the moments
  float beta2;
  float epsilon;
  float average;  ///< of a weight in the average
};

__global__ void count_step(AdamwStep s, Found* found) {
  const bool applied = !s.applied || *s.applied;
  if (applied) *s.steps += 1.0F;
  const double steps = *s.steps;
  found->gradient_factor = s.factor ? static_cast<float>(*s.factor) : 1.0F;
  found->rate = static_cast<float>(s.rate / (1 - pow(s.beta1, steps)));
  found->deviation = static_cast<float>(1 / sqrt(1 - pow(s.beta2, steps)));
  found->applied = applied ? 1.0F : 0.0F;
}

/// The step of kWidth neighbouring elements.
template <int kWidth, bool kAverage>
__device__ void take_step(const AdamwStep& s, const Shares& shares, const Found& found, std::int64_t at) {
  const Floats<kWidth> slope = load<kWidth>(s.gradient + at);
  Floats<kWidth> weight = load<kWidth>(s.weights + at);
  Floats<kWidth> first = load<kWidth>(s.first_moment + at);
  Floats<kWidth> second = load<kWidth>(s.second_moment + at);
  Floats<kWidth> average = weight;
  if constexpr (kAverage) average = load<kWidth>(s.average + at);  // before anything is stored, so that no load waits
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float g = slope[i] * found.gradient_factor;
    first[i] = fmaf(g - first[i], shares.first, first[i]);
    second[i] = fmaf(shares.second * g, g, shares.beta2 * second[i]);
    const float deviation = fmaf(sqrtf(second[i]), found.deviation, shares.epsilon);
    weight[i] = fmaf(-found.rate, first[i] / deviation, shares.kept * weight[i]);
    average[i] = fmaf(weight[i] - average[i], shares.average, average[i]);
  }
  store<kWidth>(s.weights + at, weight);
  store<kWidth>(s.first_moment + at, first);
  store<kWidth>(s.second_moment + at, second);
  if constexpr (kAverage) store<kWidth>(s.average + at, average);
}

template <int kWidth, bool kAverage>
__global__ void __launch_bounds__(kThreads) adamw(AdamwStep s, Shares shares, const Found* known, std::int64_t packs) {
  const Found found = *known;
  if (found.applied == 0) return;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t pack = thread; pack < packs; pack += threads)
    take_step<kWidth, kAverage>(s, shares, found, pack * kWidth);
  if constexpr (kWidth > 1) {  // fewer than a pack are left
    const std::int64_t at = packs * kWidth + thread;
    if (at < s.elements) take_step<1, kAverage>(s, shares, found, at);
  }
}

template <int kWidth>
void launch(const AdamwStep& s, const Shares& shares, const Found* found, const AdamwPlan& plan, Launches& launches) {
  if (s.average)
    adamw<kWidth, true><<<plan.blocks, kThreads, 0, launches.next("adamw")>>>(s, shares, found, plan.packs);
  else
    adamw<kWidth, false><<<plan.blocks, kThreads, 0, launches.next("adamw")>>>(s, shares, found, plan.packs);
}

}  // namespace
}  // namespace cuda

LaunchError adamw_device(const AdamwStep& s, float* workspace, const DeviceStream& where) {
  using namespace cuda;
  Launches launches(where);
  if (launches.error()) return launches.error();
  Shares shares{};
  shares.kept = static_cast<float>(1 - s.rate * s.decay);
  shares.first = static_cast<float>(1 - s.beta1);
  shares.second = static_cast<float>(1 - s.beta2);
  shares.beta2 = static_cast<float>(s.beta2);
  shares.epsilon = static_cast<float>(s.epsilon);
  shares.average = static_cast<float>(1 - s.average_decay);
  auto* found = reinterpret_cast<Found*>(workspace);
  count_step<<<1, 1, 0, launches.next("count_step")>>>(s, found);
  const AdamwPlan plan = adamw_plan(s.elements, {s.gradient, s.weights, s.first_moment, s.second_moment, s.average});
  if (plan.width == kAdamwWidth)
    launch<kAdamwWidth>(s, shares, found, plan, launches);
  else
    launch<1>(s, shares, found, plan, launches);
  return launches.error();
}

}  // namespace daug::kernels
