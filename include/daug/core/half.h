#pragma once
/// @file
/// Numbers of IEEE 754's binary16 format ("half", float16), held as their bits.

#include <cstdint>
#include <cstring>

namespace daug {

/// The value of a half, exactly; infinities and NaN stay what they are.
inline float half_to_float(std::uint16_t half) noexcept {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 31U;
  const std::uint32_t fraction = half & 1023U;
  if (exponent == 0) {  // zero and subnormal numbers: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * (1.0F / 16777216.0F);
    return sign ? -magnitude : magnitude;
  }
  const std::uint32_t widened = exponent == 31 ? 255 : exponent + 112;  // bias 127 - 15; infinity and NaN stay
  const std::uint32_t bits = sign | widened << 23 | fraction << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// The half nearest to a value, ties to the even one. From 65520 on that is infinity; NaN stays NaN.
inline std::uint16_t float_to_half(float value) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;
  } else if (magnitude >= 0x477ff000U) {  // 65520
    half = 0x7c00U;
  } else if (magnitude < 0x38800000U) {
    // Below 2^-14 halves are multiples of 2^-24, which is what the last bit of a float near 0.5 is worth: adding 0.5
    // lets the processor round.
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += 0.5F;
    std::memcpy(&magnitude, &shifted, sizeof magnitude);
    half = magnitude - 0x3f000000U;
  } else {
    magnitude += 0xfffU + ((magnitude >> 13) & 1U);  // a carry into the exponent is right
    half = (magnitude - (112U << 23)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace daug
