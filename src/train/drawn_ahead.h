#pragma once
// Batches that are drawn while the step before them is queued on a device.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/threads.h"

namespace daug {

/// Draws the batches of a training where they are asked for or, with `ahead`, on a thread of its own, which draws the
/// next one meanwhile, one at most. What drawing a batch throws is thrown where that batch is asked for.
template <class Batch>
class DrawnAhead {
 public:
  /// The same for a worker and step, whatever was drawn before. Of those of one worker one runs at a time.
  using Draw = std::function<Batch(std::size_t worker, std::int64_t step)>;

  /// Of a training of `steps` steps, by one worker with `ahead`. What `draw` reads must not change then, and has to
  /// live as long as this.
  DrawnAhead(Draw draw, bool ahead, std::int64_t steps) : draw_(std::move(draw)), steps_(steps) {
    if (!ahead) return;
    const backend::CallersThreads known;  // or this thread, if new to LibTorch, would begin with as many as that one
    thread_ = std::thread([this] { work(); });
  }

  /// Waits for the batch that is being drawn.
  ~DrawnAhead() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

  DrawnAhead(const DrawnAhead&) = delete;
  DrawnAhead& operator=(const DrawnAhead&) = delete;

  /// A worker's share of a step, which may be asked for again.
  Batch at(std::size_t worker, std::int64_t step) {
    if (!thread_.joinable()) return draw_(worker, step);
    if (!next_.valid() || next_step_ != step) ask(worker, step);
    Batch batch = next_.get();
    if (step + 1 < steps_) ask(worker, step + 1);
    return batch;
  }

 private:
  /// In place of what was asked for before, unless that has begun.
  void ask(std::size_t worker, std::int64_t step) {
    std::packaged_task<Batch()> task([this, worker, step] { return draw_(worker, step); });
    next_ = task.get_future();
    next_step_ = step;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      task_ = std::move(task);
    }
    changed_.notify_one();
  }

  void work() {
    const backend::CallersThreads kept;
    backend::one_intra_op_thread();  // the others' time is the step's
    for (;;) {
      std::packaged_task<Batch()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return ends_ || task_.valid(); });
        if (ends_) return;
        task = std::move(task_);
      }
      task();
    }
  }

  Draw draw_;
  std::int64_t steps_;
  std::future<Batch> next_;
  std::int64_t next_step_ = -1;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::packaged_task<Batch()> task_;  ///< asked for and not begun
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace daug
