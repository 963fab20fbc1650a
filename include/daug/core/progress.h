#pragma once
/// @file
/// Progress reports and cooperative cancellation for long work.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "daug/core/error.h"

namespace daug {

/// One report from long work. `done` and `total` count `unit`s.
struct Progress {
  std::string stage;           ///< what is running, e.g. "train translator"
  std::int64_t done = 0;       ///< units finished, in [0, total]
  std::int64_t total = 0;      ///< units there are, >= 0
  std::string unit = "steps";  ///< what is counted, in the plural
  std::string detail;          ///< free text, e.g. "loss 0.123"
};

/// Called from the thread that does the work; must not throw. Empty means no reports.
using ProgressCallback = std::function<void(const Progress&)>;

/// Asks for a stop; like C++20's std::stop_token, for C++17 headers. Default constructed it never stops.
class StopToken {
 public:
  /// Never stops.
  StopToken() = default;
  /// Stops when `flag` becomes true; null: never.
  explicit StopToken(std::shared_ptr<const std::atomic<bool>> flag) : flag_(std::move(flag)) {}

  /// Whether a stop was requested.
  bool stop_requested() const noexcept { return flag_ && flag_->load(std::memory_order_relaxed); }

  /// Throws kCancelled when a stop was requested; `function` names the interrupted work.
  void throw_if_stopped(const char* function) const {
    if (stop_requested()) throw Error(ErrorCode::kCancelled, std::string(function) + ": stopped on request");
  }

 private:
  std::shared_ptr<const std::atomic<bool>> flag_;
};

/// Owns the flag behind StopToken. `request_stop` is one atomic store, so a signal handler may call it.
class StopSource {
 public:
  /// A token that sees this source's request; it may outlive the source.
  StopToken token() const { return StopToken(flag_); }
  /// Asks for a stop, which cannot be taken back.
  void request_stop() noexcept { flag_->store(true, std::memory_order_relaxed); }
  /// Whether a stop was requested.
  bool stop_requested() const noexcept { return flag_->load(std::memory_order_relaxed); }

 private:
  std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

/// What long work takes besides its data.
struct RunControl {
  ProgressCallback progress;  ///< may be empty
  StopToken stop;             ///< looked at between two units of work

  /// Hands a report to `progress`, if there is one.
  void report(Progress report) const {
    if (progress) progress(report);
  }
};

}  // namespace daug
