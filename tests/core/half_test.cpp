#include "daug/core/half.h"

#include <cmath>
#include <limits>

#include "support/catch.h"

using namespace daug;

namespace {

/// The value of a finite half by its definition.
double value_of(std::uint32_t half) {
  const int exponent = static_cast<int>(half >> 10 & 31U);
  const double fraction = half & 1023U;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return half & 0x8000U ? -magnitude : magnitude;
}

}  // namespace

TEST_CASE("every half has its value, and the value has the half", "[core]") {
  std::size_t wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_to_float(half);
    if ((bits & 0x7c00U) != 0x7c00U)
      wrong += value != value_of(bits) || std::signbit(value) != (bits >= 0x8000U) || float_to_half(value) != half;
    else if ((bits & 0x3ffU) == 0)
      wrong += !std::isinf(value) || std::signbit(value) != (bits >= 0x8000U) || float_to_half(value) != half;
    else
      wrong += !std::isnan(value) || !std::isnan(half_to_float(float_to_half(value)));
  }
  CHECK(wrong == 0);
}

TEST_CASE("a float goes to the nearest half, half-way cases to the even one", "[core]") {
  // Between neighbours rounding changes at the middle only, so the middles and what lies beside them tell everything.
  const float infinity = std::numeric_limits<float>::infinity();
  std::size_t wrong = 0;
  for (std::uint32_t low = 0; low < 0x7c00U; ++low) {
    const std::uint32_t high = low + 1;  // behind the largest finite half comes infinity, standing for 2^16
    const double next = high == 0x7c00U ? 65536 : value_of(high);
    const auto middle = static_cast<float>((value_of(low) + next) / 2);
    for (const float sign : {1.0F, -1.0F}) {
      const std::uint32_t bit = sign < 0 ? 0x8000U : 0;
      wrong += float_to_half(sign * middle) != (bit | (low % 2 ? high : low));
      wrong += float_to_half(sign * std::nextafter(middle, 0.0F)) != (bit | low);
      wrong += float_to_half(sign * std::nextafter(middle, infinity)) != (bit | high);
    }
  }
  CHECK(wrong == 0);
  CHECK(float_to_half(std::numeric_limits<float>::max()) == 0x7c00U);
  CHECK(float_to_half(std::numeric_limits<float>::denorm_min()) == 0);
}
