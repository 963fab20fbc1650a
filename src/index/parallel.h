#pragma once
// Threads that share a row of tasks.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace daug::detail {

/// Calls work(worker, task) for every task in [0, count), on at most `threads` threads, the caller's among them. An
/// error stops the rest and is thrown here.
template <class Work>
void for_each_task(std::size_t count, std::size_t threads, const Work& work) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  const auto run = [&](std::size_t worker) {
    try {
      for (std::size_t task = next++; task < count; task = next++) work(worker, task);
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::jthread> pool;
  for (std::size_t worker = 1; worker < std::min(count, threads); ++worker) pool.emplace_back(run, worker);
  run(0);
  pool.clear();
  if (error) std::rethrow_exception(error);
}

}  // namespace daug::detail
