#include "distance_kernel.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "distance_kernel.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace daug::detail::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Sum of term(a[i], b[i]) in four vectors at once, because each addition waits for the one before.
template <class Add>
float sum_over(const float* a, const float* b, std::size_t size, const Add& add) {
  const hn::ScalableTag<float> tag;
  const std::size_t lanes = hn::Lanes(tag);
  auto sum0 = hn::Zero(tag);
  auto sum1 = sum0;
  auto sum2 = sum0;
  auto sum3 = sum0;
  std::size_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    sum0 = add(hn::LoadU(tag, a + i), hn::LoadU(tag, b + i), sum0);
    sum1 = add(hn::LoadU(tag, a + i + lanes), hn::LoadU(tag, b + i + lanes), sum1);
    sum2 = add(hn::LoadU(tag, a + i + 2 * lanes), hn::LoadU(tag, b + i + 2 * lanes), sum2);
    sum3 = add(hn::LoadU(tag, a + i + 3 * lanes), hn::LoadU(tag, b + i + 3 * lanes), sum3);
  }
  for (; i + lanes <= size; i += lanes) sum0 = add(hn::LoadU(tag, a + i), hn::LoadU(tag, b + i), sum0);
  float sum = hn::GetLane(hn::SumOfLanes(tag, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  const hn::CappedTag<float, 1> one;
  for (; i < size; ++i) sum += hn::GetLane(add(hn::LoadU(one, a + i), hn::LoadU(one, b + i), hn::Zero(one)));
  return sum;
}

float dot_here(const float* a, const float* b, std::size_t size) {
  return sum_over(a, b, size, [](auto x, auto y, auto sum) HWY_ATTR { return hn::MulAdd(x, y, sum); });
}

float squared_distance_here(const float* a, const float* b, std::size_t size) {
  return sum_over(a, b, size, [](auto x, auto y, auto sum) HWY_ATTR {
    const auto difference = hn::Sub(x, y);
    return hn::MulAdd(difference, difference, sum);
  });
}

}  // namespace daug::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::detail {
HWY_EXPORT(dot_here);
HWY_EXPORT(squared_distance_here);

float dot_product(const float* a, const float* b, std::size_t size) {
  return HWY_DYNAMIC_DISPATCH(dot_here)(a, b, size);
}
float squared_distance(const float* a, const float* b, std::size_t size) {
  return HWY_DYNAMIC_DISPATCH(squared_distance_here)(a, b, size);
}

}  // namespace daug::detail
#endif
