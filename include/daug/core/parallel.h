#pragma once
/// @file
/// Independent items over a few threads.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daug/core/progress.h"

namespace daug {

/// Calls `work(i)` once for each i < count, on `threads` threads (below 1: 1). The calling thread works too and is the
/// one that reports progress, in images. After an exception (the first is rethrown here) or a requested stop
/// (kCancelled) no further item is started.
template <class Work>
void parallel_for(std::size_t count, int threads, const std::string& stage, const RunControl& control,
                  const Work& work) {
  std::atomic<std::size_t> next{0}, done{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto run = [&](bool reports) {
    try {
      for (std::size_t i = next++; i < count; i = next++) {
        control.stop.throw_if_stopped(stage.c_str());
        work(i);
        const auto finished = static_cast<std::int64_t>(++done);
        if (reports) control.report({stage, finished, static_cast<std::int64_t>(count), "images", {}});
      }
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  const auto wanted = std::min(static_cast<std::size_t>(std::max(threads, 1)), std::max<std::size_t>(count, 1));
  for (std::size_t t = 1; t < wanted; ++t) helpers.emplace_back(run, false);
  run(true);
  for (auto& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
  control.report({stage, static_cast<std::int64_t>(count), static_cast<std::int64_t>(count), "images", {}});
}

}  // namespace daug
