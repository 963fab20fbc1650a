#pragma once
// The memory of LibTorch's tensors, counted.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

namespace daug::test {

/// Counts what LibTorch's tensors on the CPU hold while it lives.
class MemoryCount final : public c10::Allocator {
 public:
  MemoryCount() : inner_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 200); }
  ~MemoryCount() override { c10::SetCPUAllocator(inner_, 200); }

  c10::DataPtr allocate(std::size_t bytes) override {
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
  std::int64_t now_ = 0, peak_ = 0;
};

}  // namespace daug::test
