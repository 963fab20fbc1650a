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

#if HWY_TARGET == HWY_SCALAR

std::int32_t code_product_here(const std::int8_t* a, const std::int8_t* b, std::size_t size) {
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

#else

std::int32_t code_product_here(const std::int8_t* a, const std::int8_t* b, std::size_t size) {
  const hn::ScalableTag<std::int32_t> sum_tag;
  const hn::RepartitionToNarrow<decltype(sum_tag)> word_tag;
  const hn::Rebind<std::int8_t, decltype(word_tag)> code_tag;
  const std::size_t lanes = hn::Lanes(word_tag);
  // Two sums, because each addition waits for the one before; some instruction sets split each in two.
  auto even = hn::Zero(sum_tag), odd = even, even_rest = even, odd_rest = even;
  for (std::size_t i = 0; i < size; i += 2 * lanes) {
    const auto words = [&](const std::int8_t* codes)
                           HWY_ATTR { return hn::PromoteTo(word_tag, hn::LoadU(code_tag, codes)); };
    even = hn::ReorderWidenMulAccumulate(sum_tag, words(a + i), words(b + i), even, even_rest);
    odd = hn::ReorderWidenMulAccumulate(sum_tag, words(a + i + lanes), words(b + i + lanes), odd, odd_rest);
  }
  return hn::GetLane(hn::SumOfLanes(sum_tag, hn::Add(hn::Add(even, even_rest), hn::Add(odd, odd_rest))));
}

#endif

}  // namespace daug::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::detail {
HWY_EXPORT(code_product_here);

std::int32_t code_product(const std::int8_t* a, const std::int8_t* b, std::size_t size) {
  return HWY_DYNAMIC_DISPATCH(code_product_here)(a, b, size);
}

}  // namespace daug::detail
#endif
