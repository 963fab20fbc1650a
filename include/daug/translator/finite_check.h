#pragma once
/// @file
/// require_finite for loops that a device runs ahead of the program.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace daug {

/// Watches the states of a sampler. On the CPU a value that is not finite is an error at once. A device's verdicts stay
/// there, so that no step waits for it, and are read together by `settle`.
class FiniteCheck {
 public:
  /// `function` is what errors name; it has to outlive this.
  explicit FiniteCheck(const char* function) : function_(function) {}

  /// What errors call a row of x.
  using RowName = std::function<std::string(std::int64_t row)>;

  /// Takes note of x, of any shape; see require_finite. With `name` x has rows, [N, ...], and an error goes on, after
  /// `where`, with the name of the first one that is not finite.
  void see(const at::Tensor& x, const std::string& where, const RowName& name = {});

  /// Throws kNumeric naming the first place at which a value was not finite, kDevice where the device failed and
  /// kOutOfMemory. Called when the loop is over.
  void settle();

 private:
  struct Seen {
    std::string where;
    RowName name;
    at::Tensor sums;  ///< [N], of each row; [1], of all, without a name
  };
  void require_finite_sums(const Seen& seen, const at::Tensor& sums) const;  ///< sums on the CPU

  const char* function_;
  std::vector<Seen> seen_;
};

}  // namespace daug
