#pragma once
// The same with LibTorch: its version, its choice of kernels and ours, its threads (DAUG_THREADS, default all).

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#include <torch/version.h>

#include <cstdlib>

#include "kernels/instruction_set.h"
#include "support/context.h"

namespace daug::bench {

inline void add_torch_context() {
  add_context();
  if (const char* threads = std::getenv("DAUG_THREADS")) at::set_num_threads(std::atoi(threads));
  benchmark::AddCustomContext("libtorch", TORCH_VERSION);
  benchmark::AddCustomContext("libtorch_kernels", at::get_cpu_capability());
  benchmark::AddCustomContext("kernel_instruction_set", kernels::instruction_set());
  benchmark::AddCustomContext("intra_op_threads", std::to_string(at::get_num_threads()));
}

}  // namespace daug::bench

/// main() of a benchmark with LibTorch.
#define DAUG_TORCH_BENCHMARK_MAIN()                                   \
  int main(int argc, char** argv) {                                   \
    daug::bench::add_torch_context();                                 \
    benchmark::Initialize(&argc, argv);                               \
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2; \
    benchmark::RunSpecifiedBenchmarks();                              \
  }
