#pragma once
// What the kernels' tests share: every instruction set of this machine, and threads that cut work as oddly as allowed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "daug/core/random.h"
#include "kernels/instruction_set.h"
#include "kernels/parallel.h"
#include "support/catch.h"

namespace daug::test {

/// Runs `check` with every instruction set the kernels have here, the one without vectors included.
inline void for_each_instruction_set(const std::function<void()>& check) {
  struct Restore {
    ~Restore() { kernels::use_instruction_set(""); }
  } restore;
  for (const std::string& name : kernels::instruction_sets()) {
    INFO("instruction set " << name);
    kernels::use_instruction_set(name);
    REQUIRE(kernels::instruction_set() == name);
    check();
  }
}

/// The last `count` of some values.
inline std::vector<float> end_of(const std::vector<float>& values, std::int64_t count) {
  return {values.end() - count, values.end()};
}

/// Pieces of at least `grain` items, last piece first, every other one in a thread of its own.
inline kernels::Parallel odd_threads(int threads) {
  return {threads, [threads](std::int64_t count, std::int64_t grain, const kernels::RangeBody& body) {
            const std::int64_t size = std::max(grain, (count + threads - 1) / threads);
            std::vector<std::thread> workers;
            for (std::int64_t begin = (count - 1) / size * size; begin >= 0; begin -= size) {
              const std::int64_t end = std::min(count, begin + size);
              if (begin / size % 2)
                workers.emplace_back([&body, begin, end] { body(begin, end); });
              else
                body(begin, end);
            }
            for (std::thread& worker : workers) worker.join();
          }};
}

/// Standard normal numbers times `deviation` plus `mean`.
inline std::vector<float> random_floats(std::int64_t count, std::uint64_t seed, double mean = 0, double deviation = 1) {
  RandomStream stream(seed, 0, "kernel test");
  std::vector<float> values(static_cast<std::size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return static_cast<float>(mean + deviation * stream.normal()); });
  return values;
}

/// Largest |actual - expected| / (1 + |expected|); infinite where only one of them is NaN.
inline double largest_error(const std::vector<float>& actual, const std::vector<double>& expected) {
  REQUIRE(actual.size() == expected.size());
  double largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) != std::isnan(expected[i])) return HUGE_VAL;
    if (std::isnan(actual[i]) || actual[i] == expected[i]) continue;
    largest = std::max(largest, std::abs(actual[i] - expected[i]) / (1 + std::abs(expected[i])));
  }
  return largest;
}

}  // namespace daug::test
