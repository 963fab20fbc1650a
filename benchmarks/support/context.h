#pragma once
// What a figure is worth nothing without: the processor's instruction sets and the number of threads.

#include <benchmark/benchmark.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <string>
#include <thread>

namespace daug::bench {

inline std::string instruction_sets() {
  std::string sets;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) sets += "avx2 ";
  if (__builtin_cpu_supports("fma")) sets += "fma ";
  if (__builtin_cpu_supports("avx512f")) sets += "avx512f ";
  if (__builtin_cpu_supports("avx512bf16")) sets += "avx512bf16 ";
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1)) sets += "amx_bf16 ";
#endif
  return sets.empty() ? "baseline" : sets.substr(0, sets.size() - 1);
}

inline void add_context() {
  benchmark::AddCustomContext("instruction_sets", instruction_sets());
  benchmark::AddCustomContext("hardware_threads", std::to_string(std::thread::hardware_concurrency()));
}

}  // namespace daug::bench

/// main() of a benchmark without LibTorch.
#define DAUG_BENCHMARK_MAIN()                                         \
  int main(int argc, char** argv) {                                   \
    daug::bench::add_context();                                       \
    benchmark::Initialize(&argc, argv);                               \
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2; \
    benchmark::RunSpecifiedBenchmarks();                              \
  }
