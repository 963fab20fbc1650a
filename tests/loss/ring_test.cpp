// Blocks go round a ring of ranks even where every call waits for the one that matches it.

#include "loss/ring.h"

#include <ATen/ATen.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <tuple>
#include <vector>

#include "support/catch.h"

namespace {

/// Where the ranks of one group, each a thread, hand tensors over.
struct HandOver {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::tuple<int, int, int>, at::Tensor> offered;  ///< by sender, receiver and tag

  /// Waits for `condition`, under the lock; throws where nothing will come of it.
  template <class Condition>
  void wait(std::unique_lock<std::mutex>& lock, const Condition& condition) {
    if (!changed.wait_for(lock, std::chrono::seconds(20), condition))
      throw std::runtime_error("ranks wait in a circle");
  }
};

class Finished final : public c10d::Work {
 public:
  bool wait(std::chrono::milliseconds) override { return true; }
};

/// A send returns when its tensor has been received, a receive when it has come.
class WaitingGroup final : public c10d::ProcessGroup {
 public:
  WaitingGroup(int rank, int size, HandOver& shared) : ProcessGroup(rank, size), shared_(shared) {}

  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int tag) override {
    std::unique_lock<std::mutex> lock(shared_.mutex);
    const std::tuple<int, int, int> key{getRank(), to, tag};
    shared_.offered[key] = tensors.at(0);
    shared_.changed.notify_all();
    shared_.wait(lock, [&] { return shared_.offered.count(key) == 0; });
    return c10::make_intrusive<Finished>();
  }

  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int tag) override {
    std::unique_lock<std::mutex> lock(shared_.mutex);
    const std::tuple<int, int, int> key{from, getRank(), tag};
    shared_.wait(lock, [&] { return shared_.offered.count(key) > 0; });
    tensors.at(0).copy_(shared_.offered.at(key));
    shared_.offered.erase(key);
    shared_.changed.notify_all();
    return c10::make_intrusive<Finished>();
  }

 private:
  HandOver& shared_;
};

/// Rank r's block: as many rows as `rows` says, all of the number r.
at::Tensor block_of(std::int64_t rank, const std::vector<std::int64_t>& rows) {
  return at::full({rows[static_cast<std::size_t>(rank)], 2}, static_cast<double>(rank), at::kDouble);
}

/// What went wrong on some rank while blocks went all the way round; empty: nothing.
std::string go_round(const std::vector<std::int64_t>& rows) {
  const auto size = static_cast<std::int64_t>(rows.size());
  HandOver shared;
  std::vector<std::string> problems(rows.size());
  const auto body = [&](std::int64_t rank) {
    const auto group = c10::make_intrusive<WaitingGroup>(static_cast<int>(rank), static_cast<int>(size), shared);
    const auto ring = daug::detail::ring_of(*group);
    std::vector<at::Tensor> mine = {block_of(rank, rows), 10 * block_of(rank, rows)};
    for (std::int64_t step = 1; step <= size; ++step) {
      const std::int64_t home = (rank + size - step) % size;
      mine = ring->pass_on(mine, rows[static_cast<std::size_t>(home)]);
      const at::Tensor expected = block_of(home, rows);
      if (mine.size() != 2 || !at::equal(mine[0], expected) || !at::equal(mine[1], 10 * expected))
        throw std::runtime_error("another block than that of the rank before");
    }
  };
  std::vector<std::thread> threads;
  for (std::int64_t rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (const std::exception& error) {
        problems[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& problem : problems)
    if (!problem.empty()) return problem;
  return "";
}

}  // namespace

TEST_CASE("blocks go round a ring whose sends and receives wait for each other", "[loss][distributed]") {
  for (const auto& rows : std::vector<std::vector<std::int64_t>>{
           {3, 1}, {2, 2, 2}, {1, 4, 2, 3}, {5, 1, 1, 2, 3}, {0, 2, 3}, {2, 0, 1}, {2, 1, 0, 0, 4}}) {
    INFO(rows.size() << " ranks, the first with " << rows[0] << " rows");
    CHECK(go_round(rows) == "");
  }
}
