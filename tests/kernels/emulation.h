#pragma once
// What tests of device kernels on the CPU share (tests/support/cuda_emulation).

#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/device.h"
#include "support/catch.h"
#include "support/cuda_emulation/cuda_bf16.h"
#include "support/cuda_emulation/cuda_fp16.h"

namespace daug::test {

/// Memory of a device: bytes that begin `skipped` bytes behind an address of a multiple of 16, between others that have
/// to stay. All are 0xff at first, NaN in every type.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes, std::size_t skipped = 0)
      : bytes_(bytes), begin_(kGuard + skipped), memory_(begin_ + bytes + kGuard, 0xff) {}
  template <class T>
  explicit DeviceMemory(const std::vector<T>& values, std::size_t skipped = 0)
      : DeviceMemory(values.size() * sizeof(T), skipped) {
    if (bytes_ > 0) std::memcpy(data(), values.data(), bytes_);
  }
  DeviceMemory(DeviceMemory&&) = default;
  ~DeviceMemory() {
    for (std::size_t i = 0; i < memory_.size(); ++i)
      if ((i < begin_ || i >= begin_ + bytes_) && memory_[i] != 0xff) {
        CHECK(i - begin_ < bytes_);  // written where nothing is
        return;
      }
  }

  void* data() { return memory_.data() + begin_; }
  float* floats() { return static_cast<float*>(data()); }
  template <class T>
  std::vector<T> values() const {
    std::vector<T> values(bytes_ / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), memory_.data() + begin_, values.size() * sizeof(T));
    return values;
  }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr std::size_t kGuard = 0;  // the sanitizer finds reads as well
#else
  static constexpr std::size_t kGuard = 64;
#endif
  std::size_t bytes_, begin_;
  std::vector<unsigned char> memory_;
};

constexpr kernels::Element kElements[] = {kernels::Element::kFloat32, kernels::Element::kFloat16,
                                          kernels::Element::kBfloat16};

/// Values of all types beside parameters of the same, and of half types beside those of float32.
inline std::vector<kernels::MixedElements> mixed_elements() {
  std::vector<kernels::MixedElements> all;
  for (const kernels::Element element : kElements) {
    all.emplace_back(element);
    if (element != kernels::Element::kFloat32) all.emplace_back(element, kernels::Element::kFloat32);
  }
  return all;
}

inline std::size_t bytes_of(kernels::Element element) { return element == kernels::Element::kFloat32 ? 4 : 2; }

/// Half of the distance from 1 to the next number.
inline double rounding(kernels::Element element) {
  return element == kernels::Element::kFloat32 ? 6e-8 : element == kernels::Element::kFloat16 ? 4.9e-4 : 3.91e-3;
}

/// Numbers as elements, and back.
inline DeviceMemory on_device(const std::vector<float>& values, kernels::Element element, std::size_t skipped = 0) {
  if (element == kernels::Element::kFloat32) return DeviceMemory(values, skipped);
  std::vector<std::uint16_t> bits;
  for (const float x : values)
    bits.push_back(element == kernels::Element::kFloat16 ? __float2half_rn(x).bits : __float2bfloat16_rn(x).bits);
  return DeviceMemory(bits, skipped);
}
inline std::vector<float> from_device(const DeviceMemory& memory, kernels::Element element) {
  if (element == kernels::Element::kFloat32) return memory.values<float>();
  std::vector<float> values;
  for (const std::uint16_t bits : memory.values<std::uint16_t>())
    values.push_back(element == kernels::Element::kFloat16 ? __half2float({bits}) : __bfloat162float({bits}));
  return values;
}
/// The nearest numbers that elements can hold.
inline void round_to(kernels::Element element, std::vector<float>& values) {
  values = from_device(on_device(values, element), element);
}

/// What `run` returns, which has to be the same bits in whichever order threads and blocks run.
template <class Run>
auto in_both_orders(const Run& run) {
  struct Restore {
    ~Restore() { emulation::backwards = false; }
  } restore;
  const auto forwards = run();
  emulation::backwards = true;
  const auto backwards = run();
  REQUIRE(forwards.size() == backwards.size());
  CHECK(
      (forwards.empty() || std::memcmp(forwards.data(), backwards.data(), forwards.size() * sizeof(forwards[0])) == 0));
  return forwards;
}

/// Fails unless a kernel was launched, on the caller's stream.
struct Launched {
  int stream = 0;
  kernels::DeviceStream where{0, &stream};
  std::int64_t before = emulation::launches;

  void check(const kernels::LaunchError& error) const {
    INFO((error ? error.problem : "launched"));
    CHECK(error.problem == nullptr);
    CHECK(emulation::launches > before);
    CHECK(static_cast<const void*>(emulation::last_stream) == &stream);
  }
};

}  // namespace daug::test
