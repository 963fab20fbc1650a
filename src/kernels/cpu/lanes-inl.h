// Loops over arrays of any length. Included once for every instruction set, as Highway's own -inl.h files.
#if defined(DAUG_KERNELS_LANES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DAUG_KERNELS_LANES_INL_H
#undef DAUG_KERNELS_LANES_INL_H
#else
#define DAUG_KERNELS_LANES_INL_H
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FullTag = hn::ScalableTag<float>;
using OneTag = hn::CappedTag<float, 1>;
constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(FullTag()));

/// body(tag, i) for i in steps of tag's lanes: whole vectors first, then what is left one by one.
template <class Body>
HWY_INLINE void for_lanes(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(FullTag(), i);
  for (; i < count; ++i) body(OneTag(), i);
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
