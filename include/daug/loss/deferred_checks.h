#pragma once
/// @file
/// Checks of numbers that a device is yet to compute: noted at once, read many steps later.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace daug {

/// What hybrid_contrastive_loss finds of its embeddings and parameters, left where they are so that no training step
/// waits for a device. For one thread at a time.
class DeferredChecks {
 public:
  /// Throws the error of a check that failed. It is called long after the check, so it holds what it reads, in tensors
  /// that nobody changes.
  using Refusal = std::function<void()>;

  /// Begins the checks of a step, whose number errors name. `counts`: a truth value [] on the device, or undefined:
  /// true. Where it is false the step has not passed, and none of its checks is an error, since whatever it says of the
  /// step is known to who gave it.
  void begin(std::int64_t step, const at::Tensor& counts = {});

  /// Takes note of a check: whether it is `good`, a truth value [] on the device.
  void see(const at::Tensor& good, Refusal refuse);

  /// Whether the step counts and all its checks have been good so far, a truth value []; undefined: nothing is known.
  const at::Tensor& passed() const { return passed_; }

  /// Reads all checks since the last time, in one transfer, and forgets them. Throws what the first one that failed
  /// throws, with the number of its step added to the message. To be called before anybody relies on those steps.
  void settle();

 private:
  struct Noted {
    std::int64_t step;
    at::Tensor good;
    Refusal refuse;
  };

  std::int64_t step_ = 0;
  at::Tensor counts_, passed_;
  std::vector<Noted> noted_;
};

}  // namespace daug
