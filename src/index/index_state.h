#pragma once
// What a RetrievalIndex holds: its newest snapshot, and what all of its snapshots have in common.

#include <memory>
#include <mutex>
#include <utility>

#include "snapshot.h"

namespace daug::detail {

class IndexState {
 public:
  explicit IndexState(std::shared_ptr<const Snapshot> first)
      : settings_(first->shared_settings()), newest_(std::move(first)) {}

  /// The same object for as long as this lives: a snapshot may be freed as soon as the next is there, and one that was
  /// read from a file anew has equal settings of its own.
  const IndexSettings& settings() const { return *settings_; }

  /// The lock is held for as long as a pointer takes to be copied.
  std::shared_ptr<const Snapshot> snapshot() const {
    const std::lock_guard lock(newest_mutex_);
    return newest_;
  }

  /// Calls work(next) on a copy of the newest snapshot and publishes it. One at a time; when it throws, nothing
  /// changes.
  template <class Work>
  void change(const Work& work) {
    const std::lock_guard lock(change_mutex_);
    auto next = std::make_shared<Snapshot>(*snapshot());
    work(*next);
    std::shared_ptr<const Snapshot> published = std::move(next);
    {
      const std::lock_guard newest(newest_mutex_);
      newest_.swap(published);
    }
    // What is no longer in use is freed here, outside of the lock that readers wait for.
  }

 private:
  const std::shared_ptr<const IndexSettings> settings_;
  std::mutex change_mutex_;
  mutable std::mutex newest_mutex_;
  std::shared_ptr<const Snapshot> newest_;
};

}  // namespace daug::detail
