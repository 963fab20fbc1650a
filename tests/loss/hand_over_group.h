#pragma once
// A process group of threads that hand tensors over. It is as narrow as NCCL: it takes tensors on devices of one type
// alone, without gaps, not empty, of types that NCCL has, and holds up every call until the one that matches it.

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <tuple>
#include <vector>

#include "backend/backward_here.h"
#include "support/ranks.h"

namespace daug::test {

/// Where the ranks of one group, each a thread, hand tensors over.
struct HandOver {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::tuple<int, int, int>, at::Tensor> offered;  ///< by sender, receiver and tag
  std::map<int, at::Tensor> summands;                       ///< by rank
  at::Tensor sum;
  int takers = 0;                               ///< ranks that have not taken the sum yet
  std::map<at::ScalarType, std::int64_t> sent;  ///< numbers of each type that went from rank to rank

  /// Waits for `condition`, under the lock; throws where nothing will come of it.
  template <class Condition>
  void wait(std::unique_lock<std::mutex>& lock, const Condition& condition) {
    if (!changed.wait_for(lock, std::chrono::seconds(20), condition))
      throw std::runtime_error("ranks wait in a circle");
  }
};

/// What is over when it comes.
class Finished final : public c10d::Work {
 public:
  bool wait(std::chrono::milliseconds) override { return true; }
};

/// A send returns when its tensor has been received, a receive when it has come, a sum when all have brought theirs.
class HandOverGroup final : public c10d::ProcessGroup {
 public:
  HandOverGroup(int rank, int size, c10::DeviceType type, HandOver& shared)
      : ProcessGroup(rank, size), type_(type), shared_(shared) {
    setBackend(type, BackendType::CUSTOM, std::nullopt);
  }

  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int tag) override {
    const at::Tensor mine = taken(tensors);
    std::unique_lock<std::mutex> lock(shared_.mutex);
    const std::tuple<int, int, int> key{getRank(), to, tag};
    shared_.offered[key] = mine;
    shared_.sent[mine.scalar_type()] += mine.numel();
    shared_.changed.notify_all();
    shared_.wait(lock, [&] { return shared_.offered.count(key) == 0; });
    return c10::make_intrusive<Finished>();
  }

  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int tag) override {
    const at::Tensor mine = taken(tensors);
    std::unique_lock<std::mutex> lock(shared_.mutex);
    const std::tuple<int, int, int> key{from, getRank(), tag};
    shared_.wait(lock, [&] { return shared_.offered.count(key) > 0; });
    mine.copy_(shared_.offered.at(key));
    shared_.offered.erase(key);
    shared_.changed.notify_all();
    return c10::make_intrusive<Finished>();
  }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions&) override {
    const at::Tensor mine = taken(tensors);
    std::unique_lock<std::mutex> lock(shared_.mutex);
    shared_.wait(lock, [&] { return shared_.takers == 0; });  // of the sum before
    shared_.summands[getRank()] = mine;
    if (shared_.summands.size() == static_cast<std::size_t>(getSize())) {
      shared_.sum = at::zeros_like(mine);
      for (const auto& [rank, summand] : shared_.summands) shared_.sum.add_(summand);
      shared_.summands.clear();
      shared_.takers = getSize();
      shared_.changed.notify_all();
    } else {
      shared_.wait(lock, [&] { return shared_.takers > 0; });
    }
    mine.copy_(shared_.sum);
    --shared_.takers;
    shared_.changed.notify_all();
    return c10::make_intrusive<Finished>();
  }

 private:
  /// The one tensor of a call.
  at::Tensor taken(const std::vector<at::Tensor>& tensors) const {
    static constexpr std::array<at::ScalarType, 8> kTypes = {at::kByte, at::kChar,     at::kInt,   at::kLong,
                                                             at::kHalf, at::kBFloat16, at::kFloat, at::kDouble};
    const at::Tensor& tensor = tensors.at(0);
    const bool known = std::find(kTypes.begin(), kTypes.end(), tensor.scalar_type()) != kTypes.end();
    if (tensors.size() != 1 || tensor.device().type() != type_ || !tensor.is_contiguous() || tensor.numel() == 0 ||
        !known) {
      std::ostringstream text;
      text << "a tensor of " << tensor.scalar_type() << " on " << tensor.device() << ", shape " << tensor.sizes()
           << ", strides " << tensor.strides() << " in a group of " << type_;
      throw std::runtime_error(text.str());
    }
    return tensor;
  }

  c10::DeviceType type_;
  HandOver& shared_;
};

/// Runs body as each of so many ranks of such a group, in a thread of its own. What went wrong on each; empty: nothing.
inline std::vector<std::string> hand_over(int ranks, c10::DeviceType type, const RankBody& body,
                                          std::map<at::ScalarType, std::int64_t>* sent = nullptr) {
  HandOver shared;
  std::vector<std::string> problems(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      // LibTorch has one thread a device for backward passes, in which one rank would wait for another.
      const backend::BackwardHere here;
      try {
        body(*c10::make_intrusive<HandOverGroup>(rank, ranks, type, shared));
      } catch (const std::exception& error) {
        problems[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  for (auto& thread : threads) thread.join();
  if (sent) *sent = shared.sent;
  return problems;
}

}  // namespace daug::test
