#include <algorithm>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

namespace daug::kernels {
namespace cuda {
namespace {

/// The factors of SolverUpdate in float32, the same as on the CPU.
struct Factors {
  float weight, base, gradient_weight, keep, add, previous_weight;
  float to_clean, clean_from_x, to_noise, noise_from_x;  ///< of clip
};

template <int kWidth>
__device__ Floats<kWidth> clipped(const Floats<kWidth>& x, Floats<kWidth> estimate, const Factors& f) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float clean = fmaf(-estimate[i], f.to_clean, x[i] * f.clean_from_x);
    // Written so that a NaN stays one.
    const float held = clean < -1.0F ? -1.0F : clean > 1.0F ? 1.0F : clean;
    if (held != clean) estimate[i] = fmaf(-held, f.to_noise, x[i] * f.noise_from_x);
  }
  return estimate;
}

template <class T, int kWidth, bool kSecond, bool kGradient, bool kPrevious, bool kClip>
__global__ void __launch_bounds__(kThreads)
    update(const T* x, const T* __restrict__ first, const T* __restrict__ second, const T* __restrict__ gradient,
           const T* __restrict__ previous, const float* __restrict__ strengths, T* output, std::int64_t packs_per_lane,
           Factors f) {
  const std::int64_t lane = blockIdx.y;
  const float strength = strengths ? strengths[lane] : 1.0F;
  const float apart = f.weight * strength - f.base, uphill = f.gradient_weight * strength;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t pack = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; pack < packs_per_lane;
       pack += step) {
    const std::int64_t at = (lane * packs_per_lane + pack) * kWidth;
    const Floats<kWidth> state = load<kWidth>(x + at);
    Floats<kWidth> noise = load<kWidth>(first + at);
    if constexpr (kClip) noise = clipped(state, noise, f);
    if constexpr (kSecond) {
      Floats<kWidth> other = load<kWidth>(second + at);
      if constexpr (kClip) other = clipped(state, other, f);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) noise[i] = fmaf(noise[i] - other[i], apart, noise[i]);
    }
    if constexpr (kGradient) {
      const Floats<kWidth> slope = load<kWidth>(gradient + at);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) noise[i] = fmaf(-slope[i], uphill, noise[i]);
    }
    Floats<kWidth> result;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) result[i] = fmaf(noise[i], f.add, f.keep == 0.0F ? 0.0F : state[i] * f.keep);
    if constexpr (kPrevious) {
      const Floats<kWidth> remembered = load<kWidth>(previous + at);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) result[i] = fmaf(remembered[i], f.previous_weight, result[i]);
    }
    store<kWidth>(output + at, result);
  }
}

template <class T, int kWidth, unsigned kParts>
void launch(const SolverUpdateOf<void>& u, const Factors& factors, dim3 grid, std::int64_t packs, Launches& launches) {
  const auto typed = [](const void* pointer) { return static_cast<const T*>(pointer); };
  update<T, kWidth, (kParts & 1) != 0, (kParts & 2) != 0, (kParts & 4) != 0, (kParts & 8) != 0>
      <<<grid, kThreads, 0, launches.next("update")>>>(typed(u.x), typed(u.first), typed(u.second), typed(u.gradient),
                                                       typed(u.previous), u.strength, static_cast<T*>(u.output), packs,
                                                       factors);
}

template <class T, int kWidth, unsigned kParts = 0>
void launch_parts(unsigned parts, const SolverUpdateOf<void>& u, const Factors& factors, dim3 grid, std::int64_t packs,
                  Launches& launches) {
  if (parts == kParts)
    launch<T, kWidth, kParts>(u, factors, grid, packs, launches);
  else if constexpr (kParts < 15)
    launch_parts<T, kWidth, kParts + 1>(parts, u, factors, grid, packs, launches);
}

}  // namespace
}  // namespace cuda

LaunchError solver_update_device(const SolverUpdateOf<void>& u, Element element, const DeviceStream& where) {
  using namespace cuda;
  if (u.lanes == 0 || u.elements == 0) return nullptr;
  if (u.lanes > kMostInGrid) return "more lanes than a launch takes";
  Launches launches(where);
  if (launches.error()) return launches.error();
  Factors f{};
  f.weight = static_cast<float>(u.weight);
  f.base = u.from_second ? 1.0F : 0.0F;
  f.gradient_weight = static_cast<float>(u.gradient_weight);
  f.keep = static_cast<float>(u.keep);
  f.add = static_cast<float>(u.add);
  f.previous_weight = static_cast<float>(u.previous_weight);
  f.to_clean = static_cast<float>(u.deviation / u.signal);
  f.clean_from_x = static_cast<float>(1 / u.signal);
  f.to_noise = static_cast<float>(u.signal / u.deviation);
  f.noise_from_x = static_cast<float>(1 / u.deviation);
  // Two widths are enough: whole 16 bytes, or single elements for odd sizes.
  const int whole = 16 / bytes_of(element);
  const int width =
      vector_width(u.elements, bytes_of(element), {u.x, u.first, u.second, u.gradient, u.previous, u.output}) == whole
          ? whole
          : 1;
  const std::int64_t packs = u.elements / width;
  const std::int64_t blocks = std::min<std::int64_t>((packs + kThreads - 1) / kThreads, 1 << 20);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(u.lanes));
  const unsigned parts = (u.second ? 1U : 0U) | (u.gradient ? 2U : 0U) | (u.previous ? 4U : 0U) | (u.clip ? 8U : 0U);
  const auto start = [&](auto* type, auto of_width) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = decltype(of_width)::value;
    if constexpr (kWidth == 1 || kWidth * sizeof(T) == 16) launch_parts<T, kWidth>(parts, u, f, grid, packs, launches);
  };
  with_element(element, width, start);
  return launches.error();
}

}  // namespace daug::kernels
