#pragma once
// Ranks of a Gloo process group: as threads of this process, or as processes that run one test case of this program.

#include <functional>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace daug::test {

using RankBody = std::function<void(c10d::ProcessGroup& group)>;

/// Runs body once a rank, each in a thread of its own; rethrows what the first rank threw that threw.
void run_as_threads(int ranks, const RankBody& body);

/// Starts this program once a rank with only the (hidden) test case `name`, and waits. Returns how many ended well.
int run_as_processes(int ranks, const std::string& name);

/// In such a process: runs body as the rank it is.
void run_as_this_process(const RankBody& body);

}  // namespace daug::test
