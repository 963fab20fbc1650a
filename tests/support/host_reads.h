#pragma once
// Where a program would have to wait for a device: reading numbers of tensors.

#include <ATen/record_function.h>

#include <cstdint>
#include <memory>
#include <string>

namespace daug::test {

/// Numbers of tensors that this thread reads while one lives; one at a time.
class HostReads {
 public:
  HostReads() : callback_(at::addThreadLocalCallback(at::RecordFunctionCallback(&see))) { reads_ = 0; }
  ~HostReads() { at::removeCallback(callback_); }
  HostReads(const HostReads&) = delete;
  HostReads& operator=(const HostReads&) = delete;
  std::int64_t count() const { return reads_; }

 private:
  static std::unique_ptr<at::ObserverContext> see(const at::RecordFunction& call) {
    if (std::string(call.name()) == "aten::_local_scalar_dense") ++reads_;
    return nullptr;
  }

  static inline thread_local std::int64_t reads_ = 0;
  at::CallbackHandle callback_;
};

}  // namespace daug::test
