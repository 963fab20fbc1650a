#pragma once
// Work in a process of its own, whose limits and memory are nobody else's.

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>

#include "support/catch.h"

namespace daug::test {

/// Runs `work` in a copy of this process and returns what it returned, in [0, 254]. Fails the test when the copy does
/// not get that far.
inline int in_child(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      ::_exit(work());
    } catch (const std::exception& error) {
      std::cerr << error.what() << std::endl;
    }
    ::_exit(255);
  }
  REQUIRE(child > 0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) != 255);
  return WEXITSTATUS(status);
}

/// Lets this process, a child, have no more than `more` bytes beyond those it has mapped. A sanitizer's own memory
/// counts: not under one.
inline void limit_memory(std::size_t more) {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t bytes = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + more;
  const rlimit limit{bytes, bytes};
  if (pages == 0 || ::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(255);
}

}  // namespace daug::test
