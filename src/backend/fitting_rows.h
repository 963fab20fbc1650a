#pragma once
// Batches that fit into a device's memory, found out by trying.

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>

namespace daug::backend {

/// Tells LibTorch's warning handler, unless told_of_halving(), that a batch of `rows` did not fit.
void tell_of_halving(std::int64_t rows);

/// Whether it was told already, one answer for the whole process.
std::atomic<bool>& told_of_halving();

/// What an error says that tells of too little memory; null for all others. The library's own is kOutOfMemory.
/// LibTorch's, without the calls that led to it, is c10::OutOfMemoryError of its allocator; but the memory that a
/// device's runtime and its libraries take by themselves (for kernels loaded at their first launch, pinned memory,
/// cuBLAS and cuDNN) is missed in errors that only their texts tell apart: those that name memory are known, others,
/// such as of a handle that is not initialised for want of it, are not.
const char* out_of_memory(const std::exception& error);

/// For who handles `error` on the way out of a public function: throws kOutOfMemory naming that function where it tells
/// of too little memory and is none of the library's, which say so themselves; kDevice in the name of that function,
/// with what was said, where it tells that a device has failed; else the same error on.
[[noreturn]] void rethrow_typed(const std::exception& error, const char* function);

/// Makes a call, such as that of a network, in parts where the whole does not fit into memory, and remembers what did.
/// One object a network; threads may share it.
class FittingRows {
 public:
  /// Work on a part of the rows.
  using Work = std::function<void(std::int64_t begin, std::int64_t count)>;
  /// What a part of the rows gives, [count, ...].
  using Part = std::function<at::Tensor(std::int64_t begin, std::int64_t count)>;

  /// At most `most` rows at a time, >= 1. Where `most` is a multiple of `unit`, >= 1, all parts begin at multiples of
  /// it. Errors name the public function, and what a unit is, such as "one image"; both texts outlive this.
  FittingRows(const char* function, const char* smallest, std::int64_t most = std::numeric_limits<std::int64_t>::max(),
              std::int64_t unit = 1)
      : function_(function), smallest_(smallest), most_(most), unit_(unit) {}

  /// `work` on all rows, in order and as few calls as fit (one for 0 rows). A call that runs out of memory
  /// (out_of_memory), which must leave nothing behind, is made again with half its rows, in whole units, which no later
  /// call exceeds; of the first one in a process LibTorch's warning handler is told. Throws what `work` throws, but
  /// kDevice in the name of the function, with what was said, where that tells that a device has failed; and
  /// kOutOfMemory when not even one unit fits: that of `work`, if it threw one, which knows better what did not fit.
  void each(std::int64_t rows, const Work& work) const;

  /// `part` of all rows the same way, one behind the other along the first dimension; a single call's result is
  /// returned as it is.
  at::Tensor join(std::int64_t rows, const Part& part) const;

 private:
  const char* function_;
  const char* smallest_;
  mutable std::atomic<std::int64_t> most_;
  std::int64_t unit_;
};

}  // namespace daug::backend
