#pragma once
// Which kernels the time of a benchmark goes to: where DAUG_BENCH_PROFILE names a file, LibTorch's profiler watches one
// call of each benchmark that runs, and what it saw is appended there. Not yet run on a device; on the CPU operators
// stand in for kernels, to try that out.

#include <benchmark/benchmark.h>
#include <c10/core/DeviceType.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace daug::bench {

/// Where profiles go; null: nowhere.
inline const char* profile_file() { return std::getenv("DAUG_BENCH_PROFILE"); }

inline std::string g_profile;  ///< of the benchmark that runs, until its times are reported

/// What the profiler sees of `timed`, which returns its seconds: kernels and copies of the first device by their sums,
/// longest first, with parts of all such time; on the CPU operators, each with those that it calls, and parts of the
/// seconds. Names are cut to 100 characters.
inline std::string profile_of(bool on_device, const std::function<double()>& timed) {
  namespace profiler = torch::autograd::profiler;
  std::set<profiler::ActivityType> watched = {profiler::ActivityType::CPU};
  if (on_device) watched.insert(profiler::ActivityType::CUDA);
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  profiler::prepareProfiler(config, watched);
  profiler::enableProfiler(config, watched);
  const double microseconds = timed() * 1e6;
  const auto result = profiler::disableProfiler();
  struct Sum {
    std::int64_t calls = 0;
    double microseconds = 0;
  };
  std::map<std::string, Sum> sums;
  Sum all;
  for (const auto& event : result->events()) {
    if ((event.deviceType() == c10::DeviceType::CUDA) != on_device) continue;
    for (Sum* sum : {&all, &sums[event.name()]}) {
      ++sum->calls;
      sum->microseconds += static_cast<double>(event.durationNs()) / 1e3;
    }
  }
  std::vector<std::pair<std::string, Sum>> rows(sums.begin(), sums.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second.microseconds > b.second.microseconds; });
  std::string text = fmt::format("one call, watched, {:.1f} us; ", microseconds);
  text += on_device ? fmt::format("{} kernels and copies of the device, {:.1f} us\n", all.calls, all.microseconds)
                    : fmt::format("no device kernels, {} CPU operators\n", all.calls);
  text += fmt::format("{:>8} {:>14} {:>8}  name\n", "share", "us", "calls");
  const double whole = on_device ? all.microseconds : microseconds;
  for (const auto& [name, sum] : rows)
    text += fmt::format("{:>7.1f}% {:>14.1f} {:>8}  {}\n", whole > 0 ? 100 * sum.microseconds / whole : 0.0,
                        sum.microseconds, sum.calls, name.substr(0, 100));
  return text;
}

/// Google Benchmark's lines, and the profile of each benchmark under its name in the file.
class ProfileReporter : public benchmark::ConsoleReporter {
 public:
  ProfileReporter() : ConsoleReporter(OO_None) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    if (runs.empty() || g_profile.empty()) return;
    std::ofstream file(profile_file(), std::ios::app);
    file << "== " << runs.front().run_name.str() << ": " << g_profile << std::flush;
    if (!file) std::cerr << "the profile cannot be written to " << profile_file() << "\n";
    g_profile.clear();
  }
};

/// Those of the command line; with their profiles where a file is named for them.
inline void run_benchmarks() {
  if (profile_file() == nullptr) {
    benchmark::RunSpecifiedBenchmarks();
    return;
  }
  ProfileReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
}

}  // namespace daug::bench
