// Where the system gives no more threads.

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <fstream>
#include <thread>
#include <vector>

#include "daug/core/parallel.h"
#include "support/catch.h"
#include "support/long_tests.h"

using namespace daug;

namespace {

/// Lets this process start about three threads more: their stacks have to fit into what memory it may still have.
void allow_three_threads() {
  constexpr std::size_t kStack = std::size_t{256} << 20U;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  pthread_setattr_default_np(&attributes);
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t bytes = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + 7 * kStack / 2;
  const rlimit limit{bytes, bytes};
  if (pages == 0 || ::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(3);
}

/// Whether every task was done once, by more than one worker and fewer than were asked for.
bool works_with_few_threads() {
  constexpr std::size_t kTasks = 400, kThreads = 64;
  std::vector<std::atomic<int>> calls(kTasks);
  std::vector<std::atomic<int>> by_worker(kThreads);
  allow_three_threads();
  detail::for_each_task(kTasks, kThreads, [&](std::size_t worker, std::size_t task) {
    ++calls[task];
    ++by_worker[worker];
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  const auto workers = std::count_if(by_worker.begin(), by_worker.end(), [](const auto& each) { return each > 0; });
  return workers >= 2 && workers <= 5 &&
         std::all_of(calls.begin(), calls.end(), [](const auto& each) { return each == 1; });
}

}  // namespace

TEST_CASE("where the system gives no more threads, those that run do the work of all", "[core]") {
  if (test::kSanitized) return;  // its own memory would count
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      ::_exit(works_with_few_threads() ? 0 : 1);
    } catch (const std::exception&) {
      ::_exit(2);
    }
  }
  REQUIRE(child > 0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
