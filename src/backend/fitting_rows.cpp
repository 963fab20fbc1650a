#include "backend/fitting_rows.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

namespace daug::backend {

void tell_of_halving(std::int64_t rows) {
  static std::atomic<bool> told{false};
  if (!told.exchange(true))
    TORCH_WARN("daug: a batch of ", rows,
               " did not fit into the memory of its device. It is halved until it does, and so are others from here on "
               "without a word; a smaller batch size, or maps.memory_budget, saves the attempts.");
}

at::Tensor FittingRows::join(std::int64_t rows, const Part& part) const {
  std::vector<at::Tensor> parts;
  std::int64_t begin = 0;
  do {
    const std::int64_t count = std::min(most_.load(), rows - begin);
    at::Tensor made;
    try {
      made = part(begin, count);
    } catch (const c10::OutOfMemoryError&) {
      if (count <= 1) throw;
    }
    // Not where it was caught: what the failed call held is freed by now.
    if (!made.defined()) {
      tell_of_halving(count);
      std::int64_t known = most_;
      while (count / 2 < known && !most_.compare_exchange_weak(known, count / 2)) {
      }
      continue;
    }
    parts.push_back(std::move(made));
    begin += count;
  } while (begin < rows);
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

}  // namespace daug::backend
