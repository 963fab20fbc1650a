#pragma once
// Graphs of a device that is not there: what they hold is run once more at each replay.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "backend/graph_cache.h"
#include "daug/core/error.h"
#include "support/host_reads.h"

namespace daug::test {

/// What a backend was asked for.
struct GraphCounts {
  std::int64_t attempts = 0, replays = 0, alive = 0;
  std::int64_t reads = 0;      ///< by what was captured, for which a device would have to be waited for
  std::int64_t room = 100;     ///< graphs that there is memory for
  std::int64_t short_at = -1;  ///< the replay, counted from 1, that runs out of memory when it has written all it does
  bool possible = true, refuses = false;
};

/// Runs what was captured once more, into the memory in which the captured run left its result, as a device does.
class RepeatedWork final : public backend::CapturedGraph {
 public:
  RepeatedWork(std::function<void()> work, GraphCounts& counts) : work_(std::move(work)), counts_(counts) {
    work_();
    ++counts_.alive;
  }
  ~RepeatedWork() override { --counts_.alive; }
  void replay() override {
    ++counts_.replays;
    work_();
    if (counts_.replays == counts_.short_at) C10_THROW_ERROR(OutOfMemoryError, "no memory is left for a replay");
  }

 private:
  std::function<void()> work_;
  GraphCounts& counts_;
};

class RepeatingBackend final : public backend::GraphBackend {
 public:
  explicit RepeatingBackend(GraphCounts& counts) : counts_(counts) {}
  bool captures(const at::Tensor&) const override { return counts_.possible; }
  std::unique_ptr<backend::CapturedGraph> capture(const c10::Device&, const std::function<void()>& work) override {
    ++counts_.attempts;
    if (counts_.refuses) throw Error(ErrorCode::kUnsupported, "the network waits for its device");
    if (counts_.alive >= counts_.room) C10_THROW_ERROR(OutOfMemoryError, "no memory is left for a graph");
    const HostReads reads(waiting_operators());
    auto graph = std::make_unique<RepeatedWork>(work, counts_);
    counts_.reads += reads.count();
    return graph;
  }

 private:
  GraphCounts& counts_;
};

}  // namespace daug::test
