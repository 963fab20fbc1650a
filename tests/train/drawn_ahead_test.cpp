// Batches that are drawn while the step before them is made.

#include "train/drawn_ahead.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "backend/threads.h"
#include "support/catch.h"

using namespace daug;

namespace {

/// What is drawn as a batch.
using WorkerAndStep = std::vector<std::int64_t>;

/// Counts batches, and those that are drawn at the same time as another.
struct CountedDraws {
  std::atomic<std::int64_t> done{0}, running{0}, together{0};
  std::thread::id drawn_on;
  int threads = 0;             ///< LibTorch's, of the thread that drew last
  std::int64_t fails_at = -1;  ///< a step that cannot be drawn the first time

  DrawnAhead<WorkerAndStep>::Draw draw() {
    return [this](std::size_t worker, std::int64_t step) {
      if (running.fetch_add(1) > 0) ++together;
      drawn_on = std::this_thread::get_id();
      threads = at::get_num_threads();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --running;
      ++done;
      if (step == fails_at) {
        fails_at = -1;
        throw std::runtime_error("step " + std::to_string(step) + " cannot be drawn");
      }
      return WorkerAndStep{static_cast<std::int64_t>(worker), step};
    };
  }

  /// How many are drawn, once they are at least so many or after a time in which they should be.
  std::int64_t after_waiting_for(std::int64_t count) const {
    for (int wait = 0; wait < 20000 && done < count; ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return done;
  }
};

}  // namespace

TEST_CASE("a batch is drawn while the step before it is made, one at most and none behind the last", "[trainer]") {
  constexpr std::int64_t kSteps = 12;
  CountedDraws draws;
  {
    DrawnAhead<WorkerAndStep> batches(draws.draw(), /*ahead=*/true, kSteps);
    for (std::int64_t step = 0; step < kSteps; ++step) {
      CHECK(batches.at(0, step) == WorkerAndStep{0, step});
      const std::int64_t drawn = std::min(step + 2, kSteps);
      CHECK(draws.after_waiting_for(drawn) == drawn);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));  // in which another would be drawn
      CHECK(draws.done.load() == drawn);
    }
  }
  CHECK(draws.done.load() == kSteps);
  CHECK(draws.together.load() == 0);
  CHECK(draws.drawn_on != std::this_thread::get_id());
  CHECK(draws.threads == 1);
}

TEST_CASE("a thread that has not called LibTorch keeps its intra-op threads while batches are drawn ahead",
          "[trainer]") {
  const backend::CallersThreads kept;
  at::set_num_threads(3);  // of threads to come
  int threads = 0;
  std::thread([&threads] {
    CountedDraws draws;
    DrawnAhead<WorkerAndStep> batches(draws.draw(), /*ahead=*/true, 1);
    (void)batches.at(0, 0);
    threads = at::get_num_threads();
  }).join();
  CHECK(threads == 3);
}

TEST_CASE("batches that are not drawn ahead are drawn where they are asked for", "[trainer]") {
  CountedDraws draws;
  DrawnAhead<WorkerAndStep> batches(draws.draw(), /*ahead=*/false, 4);
  for (std::int64_t step = 0; step < 3; ++step)
    for (const std::size_t worker : {0U, 1U})
      CHECK(batches.at(worker, step) == WorkerAndStep{static_cast<std::int64_t>(worker), step});
  CHECK(draws.done.load() == 6);
  CHECK(draws.drawn_on == std::this_thread::get_id());
}

TEST_CASE("what drawing a batch throws is thrown at its step, and the step may be made again", "[trainer]") {
  for (const bool ahead : {true, false}) {
    INFO("ahead " << ahead);
    CountedDraws draws;
    draws.fails_at = 3;
    DrawnAhead<WorkerAndStep> batches(draws.draw(), ahead, 10);
    for (std::int64_t step = 0; step < 3; ++step) CHECK(batches.at(0, step) == WorkerAndStep{0, step});
    std::string text;
    try {
      (void)batches.at(0, 3);
    } catch (const std::runtime_error& error) {
      text = error.what();
    }
    CHECK(text == "step 3 cannot be drawn");
    for (std::int64_t step = 3; step < 6; ++step) CHECK(batches.at(0, step) == WorkerAndStep{0, step});
  }
}

TEST_CASE("a step that is made again, or another than the next one, has its own batch", "[trainer]") {
  CountedDraws draws;
  {
    DrawnAhead<WorkerAndStep> batches(draws.draw(), /*ahead=*/true, 100);
    for (const std::int64_t step : {7, 8, 8, 8, 9, 3, 4, 99, 99, 5, 6}) {
      INFO("step " << step);
      CHECK(batches.at(0, step) == WorkerAndStep{0, step});
    }
  }  // while one is drawn that nobody asks for
  CHECK(draws.together.load() == 0);
  CHECK(draws.running.load() == 0);
}
