#pragma once
// Processes that are killed in the middle of something.

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <iostream>
#include <new>

#include "support/catch.h"

namespace daug::test {

/// A number that a child process and its parent see alike.
class SharedCounter {
 public:
  SharedCounter()
      : place_(::mmap(nullptr, sizeof(std::atomic<std::uint64_t>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                      -1, 0)) {
    REQUIRE(place_ != MAP_FAILED);
    value_ = new (place_) std::atomic<std::uint64_t>(0);
  }
  ~SharedCounter() { ::munmap(place_, sizeof(std::atomic<std::uint64_t>)); }
  SharedCounter(const SharedCounter&) = delete;
  SharedCounter& operator=(const SharedCounter&) = delete;

  std::atomic<std::uint64_t>& operator*() const { return *value_; }

 private:
  void* place_;
  std::atomic<std::uint64_t>* value_;
};

/// Lets the kernel kill -9 this process in so many microseconds, below a second, whatever it is doing then.
inline void kill_after(double microseconds) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGKILL;
  timer_t timer;
  itimerspec when{};
  when.it_value.tv_nsec = 1 + static_cast<long>(1000 * std::min(microseconds, 9e5));
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 || ::timer_settime(timer, 0, &when, nullptr) != 0)
    ::_exit(2);
}

/// Runs `work`, which goes on until it has itself killed, in a process of its own.
inline void run_until_killed(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
    } catch (const std::exception& error) {
      std::cerr << error.what() << std::endl;
    }
    ::_exit(1);
  }
  REQUIRE(child > 0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));  // it did not end by an error of its own
}

}  // namespace daug::test
