// Where the system gives no more threads.

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

#include "daug/core/parallel.h"
#include "support/catch.h"
#include "support/child.h"
#include "support/long_tests.h"

using namespace daug;

TEST_CASE("where the system gives no more threads, those that run do the work of all", "[core]") {
  if (test::kSanitized) return;
  const auto work = [] {
    constexpr std::size_t kTasks = 400, kThreads = 64;
    std::vector<std::atomic<int>> calls(kTasks);
    std::vector<std::atomic<int>> by_worker(kThreads);
    // Room for the stacks of three threads more.
    constexpr std::size_t kStack = std::size_t{256} << 20U;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStack);
    pthread_setattr_default_np(&attributes);
    test::limit_memory(7 * kStack / 2);
    detail::for_each_task(kTasks, kThreads, [&](std::size_t worker, std::size_t task) {
      ++calls[task];
      ++by_worker[worker];
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    const auto workers = std::count_if(by_worker.begin(), by_worker.end(), [](const auto& each) { return each > 0; });
    const bool once = std::all_of(calls.begin(), calls.end(), [](const auto& each) { return each == 1; });
    return !once ? 1 : workers < 2 || workers > 5 ? 2 : 0;
  };
  CHECK(test::in_child(work) == 0);
}
