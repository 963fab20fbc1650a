#pragma once
/// @file
/// Processes that train encoders together (EncoderTrainerOptions::group).

#include <cstdint>
#include <memory>
#include <string>

namespace c10d {
class ProcessGroup;
}

namespace daug {

/// Settings of make_process_group, the same on every rank but for `rank`.
struct ProcessGroupOptions {
  std::int64_t ranks = 1;  ///< processes, in [1, 4096]
  std::int64_t rank = 0;   ///< number of this one, in [0, ranks)
  /// HOST:PORT: rank 0's machine as the others reach it, and a port in [1, 65535] that is free there.
  std::string meeting = "127.0.0.1:29500";
  double timeout = 1800;  ///< seconds that ranks wait for each other, to come and in every exchange, in [1, 1e6]

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Waits for the other ranks, of which rank 0 answers at the meeting, and returns their group: LibTorch's Gloo backend
/// for tensors on the CPU. With a loopback `meeting` all are on this machine; otherwise each listens on the address
/// that its host's name resolves to. Nothing is encrypted and nobody is asked who he is: for a network that one trusts.
///
/// Throws what ProcessGroupOptions::validate throws, kIo naming the meeting when the ranks do not find each other, and
/// kUnsupported in a build without Gloo (DAUG_GLOO).
std::shared_ptr<c10d::ProcessGroup> make_process_group(const ProcessGroupOptions& options);

}  // namespace daug
