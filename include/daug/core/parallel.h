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

namespace detail {

/// So many threads; 0: as many as the processor runs.
inline std::size_t thread_count(int threads) {
  return threads > 0 ? static_cast<std::size_t>(threads)
                     : std::max<std::size_t>(1, std::thread::hardware_concurrency());
}

/// Calls work(worker, task) once for every task below `count`, on at most `threads` threads numbered from 0, the
/// caller's first; on fewer where the system has no more to give. After an exception (the first is rethrown here) no
/// further task is started.
template <class Work>
void for_each_task(std::size_t count, std::size_t threads, const Work& work) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto run = [&](std::size_t worker) {
    try {
      for (std::size_t task = next++; task < count; task = next++) work(worker, task);
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(std::min(count, threads));  // nothing but a start may fail below
  try {
    for (std::size_t worker = 1; worker < std::min(count, threads); ++worker) others.emplace_back(run, worker);
  } catch (const std::exception&) {  // those that run do the work of all
  }
  run(0);
  for (auto& thread : others) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace detail

/// Calls `work(i)` once for each i < count, on `threads` threads (below 1: 1). The calling thread works too and is the
/// one that reports progress, in images. After an exception (the first is rethrown here) or a requested stop
/// (kCancelled) no further item is started.
template <class Work>
void parallel_for(std::size_t count, int threads, const std::string& stage, const RunControl& control,
                  const Work& work) {
  std::atomic<std::size_t> done{0};
  detail::for_each_task(count, static_cast<std::size_t>(std::max(threads, 1)), [&](std::size_t worker, std::size_t i) {
    control.stop.throw_if_stopped(stage.c_str());
    work(i);
    const auto finished = static_cast<std::int64_t>(++done);
    if (worker == 0) control.report({stage, finished, static_cast<std::int64_t>(count), "images", {}});
  });
  control.report({stage, static_cast<std::int64_t>(count), static_cast<std::int64_t>(count), "images", {}});
}

}  // namespace daug
