#pragma once
// See cuda_runtime.h.

#include "cuda_runtime.h"
#include "daug/core/half.h"

struct __half {
  std::uint16_t bits;
};
inline float __half2float(__half value) { return daug::half_to_float(value.bits); }
inline __half __float2half_rn(float value) { return {daug::float_to_half(value)}; }
