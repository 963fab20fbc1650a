#pragma once
// What the processes of one training agree on.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "loss/ring.h"

namespace daug::detail {

/// The ranks of a process group, or this process alone. All ranks call the same functions in the same order.
class Ranks {
 public:
  /// `group` may be null: alone.
  explicit Ranks(c10d::ProcessGroup* group) : ring_(group ? ring_of(*group) : nullptr) {}

  std::int64_t rank() const { return ring_ ? ring_->rank() : 0; }
  std::int64_t size() const { return ring_ ? ring_->size() : 1; }

  /// What `mine` returns on every rank, the same bits on all. Where it throws on some ranks, all of them throw: those
  /// their own error, the others kMismatch in the name of `function`. So none waits for one that is gone.
  std::vector<double> of_all(const char* function, const std::function<double()>& mine) const;

  /// Throws kMismatch on all ranks unless `text` is the same on all.
  void require_same(const char* function, const char* argument, const std::string& text) const;

  /// Replaces the tensor by its sum over ranks, the same bits on all.
  void add_up(const at::Tensor& tensor) const {
    if (size() > 1) ring_->add_up(tensor);
  }

  /// Replaces the tensor by that of rank 0.
  void take_first(const at::Tensor& tensor) const;

 private:
  std::shared_ptr<const Ring> ring_;
};

}  // namespace daug::detail
