#pragma once
// What LibTorch's profiler sees of a device while something is done there.

#include <torch/csrc/autograd/profiler_kineto.h>

#include <cstdint>
#include <functional>
#include <iostream>
#include <set>
#include <string>

#include "support/catch.h"

namespace daug::test {

/// Calls to a device, counted.
struct DeviceCalls {
  std::int64_t launches = 0;  ///< of kernels and graphs
  std::int64_t waits = 0;     ///< for a stream, an event or all of a device, and copies to the CPU
  std::int64_t of_ours = 0;   ///< kernels of src/kernels/cuda that ran, whatever launched them
};

inline DeviceCalls profiled(const std::function<void()>& work) {
  namespace profiler = torch::autograd::profiler;
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  const std::set<profiler::ActivityType> activities = {profiler::ActivityType::CPU, profiler::ActivityType::CUDA};
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  work();
  const auto result = profiler::disableProfiler();
  DeviceCalls calls;
  for (const auto& event : result->events()) {
    const std::string name = event.name();
    const auto begins = [&](const char* with) { return name.rfind(with, 0) == 0; };
    if (begins("cudaLaunchKernel") || begins("cuLaunchKernel") || begins("cudaGraphLaunch")) ++calls.launches;
    for (const char* place : {"daug::kernels::", "4daug7kernels"})  // with its name or the linker's
      if (event.deviceType() == c10::DeviceType::CUDA && name.find(place) != std::string::npos) ++calls.of_ours;
    if (name.find("Synchronize") != std::string::npos || begins("Memcpy DtoH") || name == "cudaMemcpy") ++calls.waits;
  }
  return calls;
}

inline constexpr std::int64_t kFewSteps = 4, kManySteps = 12;

/// walk(steps) makes so many steps on a device: it is waited for and read as often, however many they are. Says so.
inline void check_no_waits(const std::string& what, const std::function<void(std::int64_t)>& walk) {
  INFO(what);
  for (const std::int64_t steps : {kManySteps, kManySteps, kFewSteps}) walk(steps);  // libraries and graphs get ready
  const DeviceCalls few = profiled([&] { walk(kFewSteps); }), many = profiled([&] { walk(kManySteps); });
  std::cout << what << ": " << many.waits - few.waits << " waits or read-backs and " << many.launches - few.launches
            << " launches in " << kManySteps - kFewSteps << " steps more\n";
  CHECK(many.launches >= few.launches + (kManySteps - kFewSteps));
  CHECK(many.waits == few.waits);
}

}  // namespace daug::test
