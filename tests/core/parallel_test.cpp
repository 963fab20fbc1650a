#include "daug/core/parallel.h"

#include <stdexcept>
#include <vector>

#include "support/catch.h"

using namespace daug;

TEST_CASE("every item is worked on once, whatever the number of threads", "[core]") {
  for (const int threads : {-1, 1, 3, 20})
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{100}}) {
      std::vector<std::atomic<int>> calls(count);
      std::vector<std::int64_t> reports;
      RunControl control;
      control.progress = [&](const Progress& progress) {
        CHECK(progress.total == static_cast<std::int64_t>(count));
        reports.push_back(progress.done);
      };
      parallel_for(count, threads, "test", control, [&](std::size_t i) { ++calls[i]; });
      for (const auto& each : calls) REQUIRE(each == 1);
      CHECK(std::is_sorted(reports.begin(), reports.end()));
      REQUIRE_FALSE(reports.empty());
      CHECK(reports.back() == static_cast<std::int64_t>(count));
    }
}

TEST_CASE("after an error or a stop no further item is begun", "[core]") {
  for (const int threads : {1, 4}) {
    std::atomic<int> calls{0};
    CHECK_THROWS_AS(parallel_for(1000, threads, "test", {},
                                 [&](std::size_t) {
                                   ++calls;
                                   throw std::runtime_error("first");
                                 }),
                    std::runtime_error);
    CHECK(calls >= 1);
    CHECK(calls <= threads);

    StopSource source;
    RunControl control;
    control.stop = source.token();
    calls = 0;
    try {
      parallel_for(1000, threads, "test", control, [&](std::size_t) {
        ++calls;
        source.request_stop();
      });
      FAIL("nothing was thrown");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kCancelled);
    }
    CHECK(calls >= 1);
    CHECK(calls <= threads);
  }
}
