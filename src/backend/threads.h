#pragma once
// LibTorch's threads for kernels that know nothing of LibTorch.

#include <cstdint>

#include "kernels/parallel.h"

namespace daug::backend {

/// LibTorch's intra-op threads; none inside a parallel region or when there is only one.
kernels::Parallel torch_threads();

/// Gives the calling thread its number of LibTorch's intra-op threads back after work in which it takes part.
class CallersThreads {
 public:
  CallersThreads();
  ~CallersThreads();
  CallersThreads(const CallersThreads&) = delete;
  CallersThreads& operator=(const CallersThreads&) = delete;

 private:
  int before_;
};

/// Leaves this thread one intra-op thread. Others keep theirs, but one that calls LibTorch for the first time meanwhile
/// begins with one as well.
void one_intra_op_thread();

/// The calling thread's intra-op threads while it calls a network in batches of at most `max_batch` rows: one for
/// single rows, whose bits are an item's own, because LibTorch takes other operators and adds up otherwise on several;
/// else those it has.
class BatchThreads {
 public:
  explicit BatchThreads(std::int64_t max_batch) {
    if (max_batch == 1) one_intra_op_thread();
  }

 private:
  CallersThreads kept_;
};

}  // namespace daug::backend
