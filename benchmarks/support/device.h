#pragma once
// What benchmarks of a device share: the device (DAUG_BENCH_DEVICE, default cuda), how work on it is timed, and its
// rates of copying a large tensor and of multiplying large matrices of bfloat16, of which others are parts.

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

#include "daug/backend/cuda.h"
#include "support/device_profile.h"

namespace daug::bench {

/// The first CUDA device, or the one that DAUG_BENCH_DEVICE names: cpu is for trying programs out.
inline at::Device device() {
  static const at::Device chosen = [] {
    const char* name = std::getenv("DAUG_BENCH_DEVICE");
    const at::Device named(std::string(name ? name : "cuda"));
    return named.is_cuda() && !named.has_index() ? at::Device(at::kCUDA, 0) : named;
  }();
  return chosen;
}

/// Whether the device is there; says so where it is not. To be called first (cuda_state).
inline bool has_device(const char* program) {
  if (!device().is_cuda() || cuda_state().devices > device().index()) return true;
  std::cerr << program << ": no CUDA device: " << cuda_state().problem << "\n";
  return false;
}

/// Whether DAUG_BENCH_SMALL=1 asks for sizes with which programs can be tried out on the CPU; figures mean nothing
/// then.
inline bool is_small() {
  const char* small = std::getenv("DAUG_BENCH_SMALL");
  return small && std::string(small) == "1";
}

/// Returns when the device has done what was queued.
inline void wait() {
  if (!device().is_cuda()) return;
  const auto* guard = c10::impl::getDeviceGuardImpl(at::kCUDA);
  guard->synchronizeStream(guard->getStream(device()));
}

/// What `work` takes, the device included.
template <class Work>
double seconds_of(const Work& work) {
  wait();
  const auto start = std::chrono::steady_clock::now();
  work();
  wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Has one call of `work`, behind those that were measured, seen by the profiler where a file is named for that, once a
/// benchmark.
template <class Work>
void profile(const Work& work) {
  if (profile_file() == nullptr || !g_profile.empty()) return;
  g_profile = profile_of(device().is_cuda(), [&] { return seconds_of(work); });
}

/// How often a work is called.
struct Calls {
  int before = 3;               ///< that are not timed
  int timed = 20;               ///< that are queued together, at each iteration
  bool with_gradients = false;  ///< else in inference mode
};

/// Time of one call: what --benchmark_min_time counts is one of `timed` calls.
template <class Work>
void measure(benchmark::State& state, const Work& work, const Calls& calls = {}) {
  const c10::InferenceMode inference(!calls.with_gradients);
  for (int i = 0; i < calls.before; ++i) work();
  for (auto _ : state) {
    const double took = seconds_of([&] {
      for (int i = 0; i < calls.timed; ++i) work();
    });
    state.SetIterationTime(took / calls.timed);
  }
  profile(work);
}

inline double g_copy_rate = 0;     ///< bytes a second, read and written; 0: not measured in this process
inline double g_product_rate = 0;  ///< multiplications and additions a second; likewise

inline void copy(benchmark::State& state) {
  const at::Tensor from = at::empty({is_small() ? 1 << 16 : 1 << 28}, at::TensorOptions(at::kFloat).device(device())),
                   to = at::empty_like(from);
  measure(state, [&] { to.copy_(from); });
  const double took = seconds_of([&] {
    for (int i = 0; i < 20; ++i) to.copy_(from);
  });
  g_copy_rate = 20 * 2.0 * static_cast<double>(from.nbytes()) / took;
  state.counters["copy_GBs"] = g_copy_rate / 1e9;
}

inline void products(benchmark::State& state) {
  const std::int64_t side = is_small() ? 128 : 8192;
  const auto options = at::TensorOptions(at::kBFloat16).device(device());
  const at::Tensor a = at::randn({side, side}, options), b = at::randn({side, side}, options);
  at::Tensor product = at::empty({side, side}, options);
  measure(state, [&] { at::mm_out(product, a, b); });
  const double took = seconds_of([&] {
    for (int i = 0; i < 20; ++i) at::mm_out(product, a, b);
  });
  const auto length = static_cast<double>(side);
  g_product_rate = 20 * 2.0 * length * length * length / took;
  state.counters["products_TFLOPs"] = g_product_rate / 1e12;
}

/// Both rates; they have to run ahead of what is measured by them, in every process, so that they are measured five
/// times whatever is asked of the others.
inline void register_rates() {
  benchmark::RegisterBenchmark("copy_1GB", copy)->Repetitions(5)->UseManualTime()->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark("products_8192", products)
      ->Repetitions(5)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

/// Of an iteration whose inputs and outputs are so many bytes. What fits into the device's cache may exceed 1.
inline void report_of_copy(benchmark::State& state, double bytes) {
  if (g_copy_rate <= 0) return;
  state.counters["copy_GBs"] = g_copy_rate / 1e9;
  state.counters["of_copy"] = benchmark::Counter(bytes / g_copy_rate, benchmark::Counter::kIsIterationInvariantRate);
}

/// Of an iteration of so many multiplications and additions.
inline void report_of_products(benchmark::State& state, double operations) {
  if (g_product_rate <= 0) return;
  state.counters["of_products"] =
      benchmark::Counter(operations / g_product_rate, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace daug::bench
