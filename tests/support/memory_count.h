#pragma once
// The memory of LibTorch's tensors, counted.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

namespace daug::test {

/// Counts what LibTorch's tensors on the CPU hold while it lives, and grants no more than `most` bytes, as a device
/// does that has no more: beyond them it throws c10::OutOfMemoryError.
class MemoryCount final : public c10::Allocator {
 public:
  explicit MemoryCount(std::int64_t most = std::numeric_limits<std::int64_t>::max())
      : inner_(c10::GetCPUAllocator()), most_(most) {
    c10::SetCPUAllocator(this, 200);
  }
  ~MemoryCount() override { c10::SetCPUAllocator(inner_, 200); }

  c10::DataPtr allocate(std::size_t bytes) override {
    {
      const std::lock_guard<std::mutex> lock(mutex());
      if (static_cast<std::int64_t>(bytes) > most_ - now_) C10_THROW_ERROR(OutOfMemoryError, "no memory is left");
    }
    c10::DataPtr data = inner_->allocate(bytes);
    void* address = data.get();
    if (!address) return data;
    const std::lock_guard<std::mutex> lock(mutex());
    blocks()[address] = {std::move(data), this, static_cast<std::int64_t>(bytes)};
    now_ += static_cast<std::int64_t>(bytes);
    peak_ = std::max(peak_, now_);
    return {address, address, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  std::int64_t now() const { return now_; }
  std::int64_t peak() const { return peak_; }

 private:
  struct Block {
    c10::DataPtr data;
    MemoryCount* owner;
    std::int64_t bytes;
  };
  // LibTorch knows a raw block by its address alone.
  static std::map<void*, Block>& blocks() {
    static auto* all = new std::map<void*, Block>;  // blocks that others freed must not be freed at exit
    return *all;
  }
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static void release(void* address) {
    const std::lock_guard<std::mutex> lock(mutex());
    const auto found = blocks().find(address);
    if (found == blocks().end()) return;
    found->second.owner->now_ -= found->second.bytes;
    blocks().erase(found);
  }

  c10::Allocator* inner_;
  std::int64_t most_, now_ = 0, peak_ = 0;
};

}  // namespace daug::test
