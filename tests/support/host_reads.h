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

/// Numbers of tensors that this thread reads while one lives, or its calls of other operators, but for what other
/// operators do by themselves; one at a time.
class HostReads {
 public:
  explicit HostReads(std::vector<std::string> operators = {"aten::_local_scalar_dense"},
                     std::vector<std::string> but_within = {})
      : callback_(at::addThreadLocalCallback(at::RecordFunctionCallback(&see, &leave))) {
    operators_ = std::move(operators);
    but_within_ = std::move(but_within);
    reads_ = within_ = 0;
  }
  ~HostReads() { at::removeCallback(callback_); }
  HostReads(const HostReads&) = delete;
  HostReads& operator=(const HostReads&) = delete;
  std::int64_t count() const { return reads_; }

 private:
  static bool lists(const std::vector<std::string>& names, const at::RecordFunction& call) {
    return std::find(names.begin(), names.end(), call.name()) != names.end();
  }

  static std::unique_ptr<at::ObserverContext> see(const at::RecordFunction& call) {
    if (lists(but_within_, call)) ++within_;
    if (within_ == 0 && lists(operators_, call)) ++reads_;
    return nullptr;
  }

  static void leave(const at::RecordFunction& call, at::ObserverContext*) {
    if (lists(but_within_, call)) --within_;
  }

  static inline thread_local std::vector<std::string> operators_, but_within_;
  static inline thread_local std::int64_t reads_ = 0, within_ = 0;
  at::CallbackHandle callback_;
};

}  // namespace daug::test
