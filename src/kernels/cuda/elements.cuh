#pragma once
// Loads and stores of several elements at once, arithmetic in float32.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/launch_check.h"
#include "kernels/device.h"

namespace daug::kernels::cuda {

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

/// kWidth neighbouring elements.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];
};

/// Neighbouring elements as float32.
template <int kWidth>
struct Floats {
  float value[kWidth];
  __device__ float& operator[](int i) { return value[i]; }
  __device__ float operator[](int i) const { return value[i]; }
};

template <int kWidth, class T>
__device__ Floats<kWidth> load(const T* from) {
  const Pack<T, kWidth> pack = *reinterpret_cast<const Pack<T, kWidth>*>(from);
  Floats<kWidth> result;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) result[i] = to_float(pack.value[i]);
  return result;
}

template <int kWidth, class T>
__device__ void store(T* to, const Floats<kWidth>& values) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) pack.value[i] = from_float<T>(values[i]);
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

/// One of the few numbers that stand beside many values of type T: of that type too, or float32 where they are `wide`.
/// It costs less to ask at each than to compile every kernel twice.
template <class T>
__device__ float number_at(const void* numbers, std::int64_t at, bool wide) {
  return wide ? static_cast<const float*>(numbers)[at] : to_float(static_cast<const T*>(numbers)[at]);
}

constexpr const char* kOtherElements = "parameters of a type that is neither the values' nor float32";

/// Whether kernels read such elements together.
inline bool fits_elements(const MixedElements& elements) {
  return elements.parameters == elements.values || elements.parameters == Element::kFloat32;
}

/// Calls function(T*{}, integral_constant width) for an element type and a vector width of it.
template <int kWidth>
struct Width {
  static constexpr int value = kWidth;
};

template <class T, class Function>
void with_width(int width, const Function& function) {
  switch (width) {
    case 8:
      // float32 has at most four in a load.
      if constexpr (sizeof(T) == 2) function(static_cast<T*>(nullptr), Width<8>{});
      break;
    case 4:
      function(static_cast<T*>(nullptr), Width<4>{});
      break;
    case 2:
      function(static_cast<T*>(nullptr), Width<2>{});
      break;
    default:
      function(static_cast<T*>(nullptr), Width<1>{});
  }
}

template <class Function>
void with_element(Element element, int width, const Function& function) {
  switch (element) {
    case Element::kFloat32:
      return with_width<float>(width, function);
    case Element::kFloat16:
      return with_width<__half>(width, function);
    case Element::kBfloat16:
      return with_width<__nv_bfloat16>(width, function);
  }
}

inline int bytes_of(Element element) { return element == Element::kFloat32 ? 4 : 2; }

/// Makes a device the current one of this thread, for the life of this object.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    status_ = cudaGetDevice(&before_);
    if (status_ == cudaSuccess && before_ != device) {
      status_ = cudaSetDevice(device);
      changed_ = status_ == cudaSuccess;
    }
  }
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  cudaError_t status() const { return status_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t status_;
};

/// The launches of a call on a stream. While this object lives, the stream's device is the current one of this thread.
/// Where kernels are checked, each is waited for, and so is what was queued before the first one; a stream that is
/// being captured cannot be waited for, and is not.
class Launches {
 public:
  explicit Launches(const DeviceStream& where)
      : device_(where.device), stream_(static_cast<cudaStream_t>(where.stream)), checked_(checks_kernels()) {
    const cudaError_t left = cudaGetLastError();  // by whatever came before, or by the switch to the device
    if (device_.status() != cudaSuccess)
      note(device_.status(), blame_of(device_.status()));
    else
      note(left, is_fault(left) ? Blame::kEarlier : Blame::kLeftBehind);
    if (checked_ && !error_) note(waited(), Blame::kEarlier);
  }

  /// The stream, for a launch of the kernel of this name, which stays where it is.
  cudaStream_t next(const char* kernel) {
    check();
    kernel_ = kernel;
    return stream_;
  }

  /// Lets launches of the kernel of this name ask for so many bytes of a block's memory on this device, more than every
  /// block has. Comes before the first launch.
  template <class Kernel>
  void allow_shared(Kernel* kernel, const char* name, std::int64_t bytes) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status == cudaSuccess) return;
    (void)cudaGetLastError();  // which would refuse the next call once more
    note(status, blame_of(status));
    if (!error_.kernel) error_.kernel = name;
  }

  /// What went wrong so far.
  LaunchError error() {
    check();
    if (!checked_ && !error_) {
      const cudaError_t status = cudaGetLastError();
      note(status, blame_of(status));
    }
    return error_;
  }

 private:
  static Blame blame_of(cudaError_t status) { return is_fault(status) ? Blame::kEarlier : Blame::kCall; }

  /// Keeps the first error.
  void note(cudaError_t status, Blame blame) {
    if (status == cudaSuccess || error_) return;
    error_.problem = cudaGetErrorString(status);
    error_.blame = blame;
    error_.kernel = kernel_;
    error_.of_memory = is_shortage(status);
  }

  void check() {
    if (!checked_ || !kernel_) return;
    const cudaError_t launched = cudaGetLastError();
    if (launched == cudaSuccess)
      note(waited(), Blame::kKernel);
    else
      note(launched, is_fault(launched) ? Blame::kKernel : Blame::kCall);
    kernel_ = nullptr;
  }

  cudaError_t waited() const {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t status = cudaStreamIsCapturing(stream_, &capture);
    if (status == cudaSuccess && capture == cudaStreamCaptureStatusNone) status = cudaStreamSynchronize(stream_);
    if (status != cudaSuccess) (void)cudaGetLastError();  // which would refuse the next call once more
    return status;
  }

  CurrentDevice device_;
  cudaStream_t stream_;
  bool checked_;
  const char* kernel_ = nullptr;  ///< that was launched last
  LaunchError error_;
};

}  // namespace daug::kernels::cuda
