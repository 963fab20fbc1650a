#pragma once
// What the machine reaches at best, measured in the same process (a large matrix product, a large copy), and the part
// of it that a benchmark reached.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "backend/threads.h"

namespace daug::bench {

/// A figure that is worked out once a process, under its name: a benchmark starts anew for every repetition.
template <class Work>
double once(const std::string& name, const Work& work) {
  static std::map<std::string, double> known;
  const auto found = known.find(name);
  return found != known.end() ? found->second : known[name] = work();
}

/// Median of nine times of `work`, in seconds.
template <class Work>
double median_seconds(const Work& work) {
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return times[4];
}

/// Operations a second of a float32 product of two matrices of 2048 x 2048 with LibTorch's present threads: what
/// convolutions and linear layers could reach.
inline double sgemm_rate() {
  return once("sgemm/" + std::to_string(at::get_num_threads()), [] {
    constexpr std::int64_t kSide = 2048;
    const at::Tensor a = at::randn({kSide, kSide}), b = at::randn({kSide, kSide});
    at::Tensor product = at::empty({kSide, kSide});
    return 2.0 * kSide * kSide * kSide / median_seconds([&] { at::mm_out(product, a, b); });
  });
}

/// Bytes a second, read and written, of copying 128 MB with LibTorch's present threads.
inline double copy_rate() {
  return once("copy/" + std::to_string(at::get_num_threads()), [] {
    constexpr std::int64_t kFloats = 32 << 20;
    const at::Tensor from = at::ones({kFloats}), to = at::zeros({kFloats});
    return 2.0 * sizeof(float) * kFloats / median_seconds([&] {
             backend::torch_threads()(kFloats, 1, [&](std::int64_t begin, std::int64_t end) {
               std::memcpy(to.data_ptr<float>() + begin, from.data_ptr<float>() + begin,
                           static_cast<std::size_t>(end - begin) * sizeof(float));
             });
           });
  });
}

/// Counters of a benchmark that makes so many multiplications and additions an iteration.
inline void report_flops(benchmark::State& state, double flops) {
  const double rate = sgemm_rate();
  state.counters["sgemm_GFLOPs"] = rate / 1e9;
  state.counters["of_sgemm"] = benchmark::Counter(flops / rate, benchmark::Counter::kIsIterationInvariantRate);
}

/// Counters of a benchmark whose inputs and outputs are so many bytes, each counted once. What fits into a cache may
/// exceed 1.
inline void report_bytes(benchmark::State& state, std::int64_t bytes) {
  const double rate = copy_rate();
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * bytes);
  state.counters["copy_GBs"] = rate / 1e9;
  state.counters["of_copy"] =
      benchmark::Counter(static_cast<double>(bytes) / rate, benchmark::Counter::kIsIterationInvariantRate);
}

/// max |a - b| / max |b|.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

}  // namespace daug::bench
