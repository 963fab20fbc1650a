#pragma once
// In place of CUDA's headers of these names: what src/kernels/cuda/ uses of them, on the CPU. Blocks run one after the
// other, their threads as fibers that take turns at barriers and shuffles, in an order that is always the same.
//
// A launch `kernel<<<...>>>(...)` has become `kernel<<daug::emulation::at(...)(...)` (tests/kernels/CMakeLists.txt),
// which needs all template arguments of the kernel.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks do not meet
#define __launch_bounds__(...)
#define __expf daug_emulated_expf  // a name of the C library's

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 {
  float x, y, z, w;
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorIllegalAddress = 700
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
using cudaStream_t = struct CUstream_st*;

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace daug::emulation {

constexpr unsigned kWarp = 32;
constexpr std::size_t kMostShared = 48 * 1024;  ///< bytes that a launch may ask for where its kernel has no own limit

inline bool backwards = false;     ///< blocks, and threads between two barriers, run last to first
inline cudaStream_t last_stream;   ///< of the last launch
inline std::int64_t launches = 0;  ///< so far
inline cudaError_t last_error;     ///< of launches since cudaGetLastError
inline std::int64_t failing = -1;  ///< the launch, as `launches` counts it, whose kernel runs and is then said to fail
inline std::int64_t without_memory = -1;  ///< the launch, counted so, that finds no memory to load its kernel into
inline cudaError_t fault;                 ///< of a kernel that ran: told whoever waits, until it is set back
inline std::int64_t waits = 0;            ///< for a stream, so far
inline cudaStreamCaptureStatus capture;   ///< of all streams
inline std::unique_ptr<std::byte[]> dynamic_shared;
inline std::size_t most_allowed = 99 * 1024;              ///< bytes that a kernel may be allowed
inline std::map<void (*)(), std::size_t> allowed_shared;  ///< bytes that launches of kernels may ask for

/// What `extern __shared__ T name[]` stands for; NaN when a block begins.
template <class T>
T* shared() {
  return reinterpret_cast<T*>(dynamic_shared.get());
}

/// What stands between <<< and >>>.
struct Launch {
  dim3 grid;
  unsigned threads;
  std::size_t shared;
  cudaStream_t stream;

  template <class... Arguments>
  auto operator()(const Arguments&... arguments) const;
};

inline Launch at(dim3 grid, unsigned threads, std::size_t shared, cudaStream_t stream) {
  return {grid, threads, shared, stream};
}

/// Runs `thread` for every thread of every block, if the launch asks for no more than `most_shared` bytes. Throws
/// std::logic_error where threads do not meet at one barrier or shuffle.
void run(const Launch& launch, std::size_t most_shared, const std::function<void()>& thread);

/// Bytes that a launch of a kernel may ask for.
template <class... Parameters>
std::size_t shared_allowed_to(void (*kernel)(Parameters...)) {
  const auto found = allowed_shared.find(reinterpret_cast<void (*)()>(kernel));
  return found == allowed_shared.end() ? kMostShared : found->second;
}

/// Waits for the others of the block.
void synchronise(int line);
/// Waits for the others of the warp; what `lane` of it brought.
std::uint32_t exchange(std::uint32_t mine, unsigned lane, int line);

template <class T>
T shuffle(T mine, unsigned lane, int line) {
  static_assert(sizeof(T) == sizeof(std::uint32_t));
  return __builtin_bit_cast(T, exchange(__builtin_bit_cast(std::uint32_t, mine), lane, line));
}

template <class Function>
struct Call {
  Function function;
};
template <class... Arguments>
auto Launch::operator()(const Arguments&... arguments) const {
  const auto call = [launch = *this, arguments...](auto* kernel) {
    run(launch, shared_allowed_to(kernel), [&] { kernel(arguments...); });
  };
  return Call<decltype(call)>{call};
}
template <class... Parameters, class Function>
void operator<<(void (*kernel)(Parameters...), const Call<Function>& call) {
  call.function(kernel);
}

}  // namespace daug::emulation

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = daug::emulation::last_error;
  daug::emulation::last_error = cudaSuccess;
  return error;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return ++daug::emulation::waits, daug::emulation::fault; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = daug::emulation::capture, cudaSuccess;
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  const auto asked = static_cast<std::size_t>(bytes);  // of a negative number more than there is
  if (asked > daug::emulation::most_allowed) return daug::emulation::last_error = cudaErrorInvalidValue;
  daug::emulation::allowed_shared[reinterpret_cast<void (*)()>(kernel)] = asked;
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidDevice      ? "invalid device ordinal"
         : error == cudaErrorIllegalAddress   ? "an illegal memory access was encountered"
         : error == cudaErrorMemoryAllocation ? "out of memory"
         : error == cudaErrorInvalidValue     ? "invalid argument"
                                              : "invalid configuration argument";
}

inline void __syncthreads(int line = __builtin_LINE()) { daug::emulation::synchronise(line); }
// The mask is always that of all lanes. A lane without a partner keeps its own.
inline void __syncwarp(int line = __builtin_LINE()) {
  daug::emulation::exchange(0, threadIdx.x % daug::emulation::kWarp, line);
}
template <class T>
T __shfl_xor_sync(unsigned, T mine, unsigned lanes, int line = __builtin_LINE()) {
  return daug::emulation::shuffle(mine, (threadIdx.x % daug::emulation::kWarp) ^ lanes, line);
}
template <class T>
T __shfl_down_sync(unsigned, T mine, unsigned away, int line = __builtin_LINE()) {
  const unsigned lane = threadIdx.x % daug::emulation::kWarp;
  return daug::emulation::shuffle(mine, lane + away < daug::emulation::kWarp ? lane + away : lane, line);
}
template <class T>
T __shfl_up_sync(unsigned, T mine, unsigned away, int line = __builtin_LINE()) {
  const unsigned lane = threadIdx.x % daug::emulation::kWarp;
  return daug::emulation::shuffle(mine, lane >= away ? lane - away : lane, line);
}
template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  if (value < before) *to = value;
  return before;
}

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
/// By the reciprocal, which is rounded as well; that of what is beyond 2^126 is 0.
inline float __fdividef(float a, float b) { return a * (std::fabs(b) > 0x1p126F ? std::copysign(0.0F, b) : 1 / b); }
/// A device makes a power of two of the rounded product as well.
inline float daug_emulated_expf(float x) { return std::exp2(x * 1.44269504F); }
