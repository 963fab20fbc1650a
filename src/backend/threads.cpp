#include "backend/threads.h"

#include <ATen/Parallel.h>

namespace daug::backend {

kernels::Parallel torch_threads() {
  kernels::Parallel parallel;
  if (at::in_parallel_region() || at::get_num_threads() <= 1) return parallel;
  parallel.threads = at::get_num_threads();
  parallel.run = [](std::int64_t count, std::int64_t grain, const kernels::RangeBody& body) {
    at::parallel_for(0, count, grain, body);
  };
  return parallel;
}

CallersThreads::CallersThreads() : before_(at::get_num_threads()) {}

CallersThreads::~CallersThreads() {
  if (at::get_num_threads() != before_) at::set_num_threads(before_);
}

void one_intra_op_thread() {
  if (at::get_num_threads() > 1) at::set_num_threads(1);
}

}  // namespace daug::backend
