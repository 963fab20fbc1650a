#pragma once
// Batches that fit into a device's memory, found out by trying.

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>

namespace daug::backend {

/// Tells LibTorch's warning handler, at the first of all calls in a process, that a batch of `rows` did not fit.
void tell_of_halving(std::int64_t rows);

/// Makes the call of a network in parts where the whole does not fit into memory, and remembers what did. One object a
/// network; threads may share it.
class FittingRows {
 public:
  /// What a part of the rows gives, [count, ...].
  using Part = std::function<at::Tensor(std::int64_t begin, std::int64_t count)>;

  /// At most `most` rows at a time, >= 1.
  explicit FittingRows(std::int64_t most = std::numeric_limits<std::int64_t>::max()) : most_(most) {}

  /// `part` of all rows, in order and as few calls as fit, one behind the other along the first dimension; a single
  /// call's result is returned as it is (one call for 0 rows). A call that runs out of memory (c10::OutOfMemoryError)
  /// is made again with half its rows, which no later call exceeds; of the first one in a process LibTorch's warning
  /// handler is told. Throws what `part` throws, and c10::OutOfMemoryError when not even one row fits.
  at::Tensor join(std::int64_t rows, const Part& part) const;

 private:
  mutable std::atomic<std::int64_t> most_;
};

}  // namespace daug::backend
