#include "daug/backend/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <mutex>
#include <unordered_map>
#include <vector>

#include "backend/large_pages.h"
#include "daug/core/error.h"

namespace daug {

namespace {

/// Sizes that share blocks: eight to each power of two, whole multiples of 64 bytes.
std::size_t block_size(std::size_t bytes) {
  constexpr std::size_t kLine = 64, kSmallest = 8 * kLine;
  if (bytes <= kSmallest) return (bytes + kLine - 1) / kLine * kLine;
  std::size_t step = kLine;
  while (step * 16 <= bytes) step *= 2;
  return bytes > SIZE_MAX - step ? bytes : (bytes + step - 1) / step * step;
}

class MemoryPool final : public c10::Allocator {
 public:
  /// Never destroyed: tensors with static storage may outlive everything else.
  static MemoryPool& instance() {
    static auto* pool = new MemoryPool;
    return *pool;
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    const c10::Device cpu(c10::kCPU);
    if (bytes == 0) return {nullptr, cpu};
    const std::size_t size = block_size(bytes);
    void* block = take(size);
    if (!block) {
      block = c10::alloc_cpu(size);
      backend::prefer_large_pages(block, size);
      const std::lock_guard<std::mutex> lock(mutex_);
      sizes_[block] = size;
    }
    return {block, block, &release, cpu};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  void limit(std::size_t most_bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    most_ = most_bytes;
    if (kept_ > most_) drop_kept();
  }

  TensorMemory counts() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {requests_, fresh_, kept_};
  }

 private:
  /// Also told of blocks from before the pool was there: oneDNN frees what it holds by what is current then.
  static void release(void* block) {
    if (block && !instance().keep(block)) c10::free_cpu(block);
  }

  void* take(std::size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++requests_;
    const auto found = free_.find(size);
    if (found == free_.end() || found->second.empty()) {
      ++fresh_;
      return nullptr;
    }
    void* block = found->second.back();
    found->second.pop_back();
    kept_ -= size;
    return block;
  }

  bool keep(void* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = sizes_.find(block);
    if (known == sizes_.end()) return false;
    const std::size_t size = known->second;
    if (size > most_ || kept_ > most_ - size) {
      sizes_.erase(known);
      return false;
    }
    free_[size].push_back(block);
    kept_ += size;
    return true;
  }

  void drop_kept() {
    for (auto& [size, blocks] : free_)
      for (void* block : blocks) {
        sizes_.erase(block);
        c10::free_cpu(block);
      }
    free_.clear();
    kept_ = 0;
  }

  std::mutex mutex_;
  std::unordered_map<void*, std::size_t> sizes_;              ///< of every block, whether kept or in use
  std::unordered_map<std::size_t, std::vector<void*>> free_;  ///< kept blocks by size
  std::size_t most_ = 0, kept_ = 0;
  std::int64_t requests_ = 0, fresh_ = 0;
};

}  // namespace

void reuse_tensor_memory(std::size_t most_bytes) {
  auto& pool = MemoryPool::instance();
  pool.limit(most_bytes);
  constexpr std::uint8_t kPriority = 200;
  static std::once_flag once;
  std::call_once(once, [&] { c10::SetCPUAllocator(&pool, kPriority); });
  if (c10::GetCPUAllocator() != &pool)
    fail(ErrorCode::kUnsupported, "daug::reuse_tensor_memory", "LibTorch's CPU allocator",
         "none of a higher priority than 200", "another one");
}

TensorMemory tensor_memory() { return MemoryPool::instance().counts(); }

}  // namespace daug
