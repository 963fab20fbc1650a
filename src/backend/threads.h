#pragma once
// LibTorch's threads for kernels that know nothing of LibTorch.

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

/// Leaves this thread, and it alone, one intra-op thread.
void one_intra_op_thread();

}  // namespace daug::backend
