#pragma once
// Where a program would have to wait for a device: reading numbers of tensors.

#include <ATen/record_function.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace daug::test {

/// Operators for which a device is waited for: that read a number, and whose answer on the CPU, or its size, depends on
/// numbers (a mask as an index asks for what is not zero). Not a copy to the CPU, which cannot be told where all
/// tensors are there; while a device captures work it is an error.
inline std::vector<std::string> waiting_operators() {
  return {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2",
          "aten::unique_dim"};
}

/// Numbers of tensors that this thread reads while one lives, or its calls of other operators; one at a time.
class HostReads {
 public:
  explicit HostReads(std::vector<std::string> operators = {"aten::_local_scalar_dense"})
      : callback_(at::addThreadLocalCallback(at::RecordFunctionCallback(&see))) {
    operators_ = std::move(operators);
    reads_ = 0;
  }
  ~HostReads() { at::removeCallback(callback_); }
  HostReads(const HostReads&) = delete;
  HostReads& operator=(const HostReads&) = delete;
  std::int64_t count() const { return reads_; }

 private:
  static std::unique_ptr<at::ObserverContext> see(const at::RecordFunction& call) {
    if (std::find(operators_.begin(), operators_.end(), call.name()) != operators_.end()) ++reads_;
    return nullptr;
  }

  static inline thread_local std::vector<std::string> operators_;
  static inline thread_local std::int64_t reads_ = 0;
  at::CallbackHandle callback_;
};

}  // namespace daug::test
