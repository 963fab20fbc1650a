#pragma once
/// @file
/// require_finite for loops that a device runs ahead of the program.

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace daug {

/// Watches the states of a sampler. On the CPU a value that is not finite is an error at once. A device's verdicts stay
/// there, so that no step waits for it, and are read together by `settle`.
class FiniteCheck {
 public:
  /// `function` is what errors name; it has to outlive this.
  explicit FiniteCheck(const char* function) : function_(function) {}

  /// Takes note of x, of any shape; see require_finite.
  void see(const at::Tensor& x, const std::string& where);

  /// Throws kNumeric naming the first place at which a value was not finite. Called when the loop is over.
  void settle();

 private:
  const char* function_;
  std::vector<at::Tensor> sums_;
  std::vector<std::string> where_;
};

}  // namespace daug
