// Patches of images and products of them. Included once for every instruction set, as Highway's own -inl.h files.
#if defined(DAUG_KERNELS_WINOGRAD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DAUG_KERNELS_WINOGRAD_INL_H
#undef DAUG_KERNELS_WINOGRAD_INL_H
#else
#define DAUG_KERNELS_WINOGRAD_INL_H
#endif

#include <type_traits>

#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/winograd_patches.h"

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// Rows whose sums with two vectors of outputs fill the registers.
constexpr std::int64_t kRows = kLanes >= 16 ? 12 : 6;

/// body(integral_constant, first) for groups of rows that fill the registers, then smaller ones.
template <class Body>
HWY_INLINE void for_rows(std::int64_t count, const Body& body) {
  std::int64_t r = 0;
  const auto with = [&](auto step) HWY_ATTR {
    for (; r + step() <= count; r += step()) body(step, r);
  };
  with(std::integral_constant<std::int64_t, kRows>());
  with(std::integral_constant<std::int64_t, 4>());
  with(std::integral_constant<std::int64_t, 1>());
}

/// B^T of four numbers.
template <class V>
HWY_INLINE void mix(V& a, V& b, V& c, V& d) {
  const V first = hn::Sub(a, c), sum = hn::Add(b, c), difference = hn::Sub(c, b), last = hn::Sub(b, d);
  a = first, b = sum, c = difference, d = last;
}

/// One patch; kInside: all of it lies in the image, else what does not is null.
template <bool kInside>
HWY_INLINE void transform_patch(const float* const* pixels, std::int64_t channels, float* out,
                                std::int64_t plane_stride) {
  for_lanes(channels, [&](auto tag, std::int64_t c) HWY_ATTR {
    const auto pixel = [&](int i) HWY_ATTR {
      if constexpr (!kInside)
        if (pixels[i] == nullptr) return hn::Zero(tag);
      return hn::LoadU(tag, pixels[i] + c);
    };
    auto d0 = pixel(0), d1 = pixel(1), d2 = pixel(2), d3 = pixel(3);
    auto d4 = pixel(4), d5 = pixel(5), d6 = pixel(6), d7 = pixel(7);
    auto d8 = pixel(8), d9 = pixel(9), d10 = pixel(10), d11 = pixel(11);
    auto d12 = pixel(12), d13 = pixel(13), d14 = pixel(14), d15 = pixel(15);
    mix(d0, d4, d8, d12), mix(d1, d5, d9, d13), mix(d2, d6, d10, d14), mix(d3, d7, d11, d15);
    mix(d0, d1, d2, d3), mix(d4, d5, d6, d7), mix(d8, d9, d10, d11), mix(d12, d13, d14, d15);
    float* to = out + c;
    const auto put = [&](auto value) HWY_ATTR {
      hn::StoreU(value, tag, to);
      to += plane_stride;
    };
    put(d0), put(d1), put(d2), put(d3), put(d4), put(d5), put(d6), put(d7);
    put(d8), put(d9), put(d10), put(d11), put(d12), put(d13), put(d14), put(d15);
  });
}

/// B^T d B of a patch of images [.., height, width, channels], its entries `stride` floats apart.
HWY_INLINE void transform_input(const float* images, std::int64_t channels, const PatchGrid& grid, std::int64_t patch,
                                float* out, std::int64_t stride) {
  const PatchPlace place(grid, patch);
  const float* pixels[kEntries];
  bool all_inside = true;
  for (std::int64_t i = 0; i < kEntries; ++i) {
    const std::int64_t y = place.row - 1 + i / 4, x = place.column - 1 + i % 4;
    const bool inside = y >= 0 && y < grid.height && x >= 0 && x < grid.width;
    pixels[i] = inside ? images + place.pixel(grid, channels, i / 4 - 1, i % 4 - 1) : nullptr;
    all_inside = all_inside && inside;
  }
  if (all_inside)
    transform_patch<true>(pixels, channels, out, stride);
  else
    transform_patch<false>(pixels, channels, out, stride);
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
