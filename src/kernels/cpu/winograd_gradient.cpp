#include <algorithm>

#include "kernels/cpu/targets.h"
#include "kernels/cpu/winograd_patches.h"
#include "kernels/winograd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/winograd_gradient.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "kernels/cpu/winograd-inl.h"

#ifndef DAUG_KERNELS_WINOGRAD_GRADIENT_ONCE
#define DAUG_KERNELS_WINOGRAD_GRADIENT_ONCE
namespace daug::kernels {

/// Patches [first, first + count) and what is made of them on the way.
struct GradientBlock {
  std::int64_t first, count;
  float* inputs;     ///< [16, count, in]
  float* gradients;  ///< [16, panels, count, kPanel]
};

}  // namespace daug::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// A e A^T of a patch's gradients; its entries lie `stride` floats apart, panels of outputs `panel_stride`.
HWY_INLINE void transform_gradient(const WinogradFilterGradient& conv, const PatchGrid& grid, std::int64_t patch,
                                   float* out, std::int64_t stride, std::int64_t panel_stride) {
  const PatchPlace place(grid, patch);
  const bool below = place.row + 1 < grid.height, beside = place.column + 1 < grid.width;
  const float* const upper = conv.output_gradient + place.pixel(grid, conv.out, 0, 0);
  const float* const lower = upper + grid.width * conv.out;
  for_lanes(conv.out, [&](auto tag, std::int64_t k) HWY_ATTR {
    const auto at = [&](bool inside, const float* pixel)
                        HWY_ATTR { return inside ? hn::LoadU(tag, pixel + k) : hn::Zero(tag); };
    const auto a = at(true, upper), b = at(beside, upper + conv.out);
    const auto c = at(below, lower), d = at(below && beside, lower + conv.out);
    float* to = out + k / kPanel * panel_stride + k % kPanel;
    const auto put = [&](auto value) HWY_ATTR {
      hn::StoreU(value, tag, to);
      to += stride;
    };
    const auto put_row = [&](auto left, auto right) HWY_ATTR {
      put(left), put(hn::Add(left, right)), put(hn::Sub(left, right)), put(hn::Neg(right));
    };
    put_row(a, b), put_row(hn::Add(a, c), hn::Add(b, d)), put_row(hn::Sub(a, c), hn::Sub(b, d));
    put_row(hn::Neg(c), hn::Neg(d));
  });
}

/// The entries of patches [begin, end).
void transform_patches_here(const WinogradFilterGradient& conv, const GradientBlock& block, std::int64_t begin,
                            std::int64_t end) {
  const PatchGrid grid{conv.height, conv.width};
  for (std::int64_t i = begin; i < end; ++i) {
    transform_input(conv.input, conv.in, grid, block.first + i, block.inputs + i * conv.in, block.count * conv.in);
    transform_gradient(conv, grid, block.first + i, block.gradients + i * kPanel, padded(conv.out) * block.count,
                       block.count * kPanel);
  }
}

/// Adds the products of kCount columns of [count, in] with a panel [count, kPanel] to sums [kCount, kPanel].
template <std::int64_t kCount>
HWY_INLINE void add_products(const float* columns, std::int64_t count, std::int64_t in, const float* panel, bool first,
                             float* sums) {
  const FullTag tag;
  for (std::int64_t lane = 0; lane < kPanel; lane += 2 * kLanes) {
    hn::Vec<FullTag> left[kCount], right[kCount];
    for (std::int64_t c = 0; c < kCount; ++c) left[c] = right[c] = hn::Zero(tag);
    for (std::int64_t p = 0; p < count; ++p) {
      const auto one = hn::LoadU(tag, panel + p * kPanel + lane);
      const auto other = hn::LoadU(tag, panel + p * kPanel + lane + kLanes);
      for (std::int64_t c = 0; c < kCount; ++c) {
        const auto value = hn::Set(tag, columns[p * in + c]);
        left[c] = hn::MulAdd(value, one, left[c]);
        right[c] = hn::MulAdd(value, other, right[c]);
      }
    }
    for (std::int64_t c = 0; c < kCount; ++c) {
      float* const to = sums + c * kPanel + lane;
      hn::StoreU(first ? left[c] : hn::Add(hn::LoadU(tag, to), left[c]), tag, to);
      hn::StoreU(first ? right[c] : hn::Add(hn::LoadU(tag, to + kLanes), right[c]), tag, to + kLanes);
    }
  }
}

/// Adds a block's products to sums [begin, end) of 16 times the panels.
void add_products_here(const WinogradFilterGradient& conv, const GradientBlock& block, std::int64_t begin,
                       std::int64_t end) {
  const FullTag tag;
  const std::int64_t panels = padded(conv.out) / kPanel;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t entry = i / panels;
    const float* const inputs = block.inputs + entry * block.count * conv.in;
    const float* const gradients = block.gradients + i * block.count * kPanel;
    for_rows(conv.in, [&](auto step, std::int64_t c) HWY_ATTR {
      add_products<step()>(inputs + c, block.count, conv.in, gradients, block.first == 0,
                           conv.sums + (i * conv.in + c) * kPanel);
    });
    // Entry (1, 1) of A e A^T is the sum of e.
    if (entry != 5 || conv.bias_gradient == nullptr) continue;
    alignas(64) float sums[kPanel];
    for (std::int64_t lane = 0; lane < kPanel; lane += kLanes) {
      auto sum = hn::Zero(tag);
      for (std::int64_t p = 0; p < block.count; ++p) sum = hn::Add(sum, hn::LoadU(tag, gradients + p * kPanel + lane));
      hn::Store(sum, tag, sums + lane);
    }
    const std::int64_t k = i % panels * kPanel;
    for (std::int64_t j = 0; j < std::min(kPanel, conv.out - k); ++j)
      conv.bias_gradient[k + j] = sums[j] + (block.first == 0 ? 0 : conv.bias_gradient[k + j]);
  }
}

/// G^T s G of the sums, for input channel i % in of the panel i / in of outputs, i in [begin, end).
void transform_sums_here(const WinogradFilterGradient& conv, std::int64_t begin, std::int64_t end) {
  const FullTag tag;
  const auto half = hn::Set(tag, 0.5F);
  // G^T of four vectors.
  const auto mixed = [&](auto a, auto b, auto c, auto d, auto& first, auto& second, auto& third) HWY_ATTR {
    const auto middle = hn::Mul(half, hn::Add(b, c));
    first = hn::Add(a, middle), second = hn::Mul(half, hn::Sub(b, c)), third = hn::Add(middle, d);
  };
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t k = i / conv.in * kPanel, c = i % conv.in;
    const float* const sums = conv.sums + k * conv.in + c * kPanel;
    alignas(64) float g[9][kPanel];
    for (std::int64_t lane = 0; lane < kPanel; lane += kLanes) {
      hn::Vec<FullTag> columns[3][4];
      for (std::int64_t x = 0; x < 4; ++x) {
        const auto entry = [&](std::int64_t y) HWY_ATTR {
          return hn::LoadU(tag, sums + (4 * y + x) * padded(conv.out) * conv.in + lane);
        };
        mixed(entry(0), entry(1), entry(2), entry(3), columns[0][x], columns[1][x], columns[2][x]);
      }
      for (int y = 0; y < 3; ++y) {
        hn::Vec<FullTag> row[3];
        mixed(columns[y][0], columns[y][1], columns[y][2], columns[y][3], row[0], row[1], row[2]);
        for (int x = 0; x < 3; ++x) hn::Store(row[x], tag, g[3 * y + x] + lane);
      }
    }
    for (std::int64_t j = 0; j < std::min(kPanel, conv.out - k); ++j)
      for (std::int64_t tap = 0; tap < 9; ++tap)
        conv.gradient[(k + j) * conv.strides[0] + c * conv.strides[1] + tap / 3 * conv.strides[2] +
                      tap % 3 * conv.strides[3]] = g[tap][j];
  }
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {
HWY_EXPORT(transform_patches_here);
HWY_EXPORT(add_products_here);
HWY_EXPORT(transform_sums_here);
}  // namespace

void winograd_filter_gradient(const WinogradFilterGradient& conv, const Parallel& parallel) {
  const std::int64_t patches = conv.batch * PatchGrid{conv.height, conv.width}.patches();
  const std::int64_t panels = padded(conv.out) / kPanel;
  if (patches == 0) {
    std::fill_n(conv.sums, winograd_filter_floats(conv.in, conv.out), 0.0F);
    if (conv.bias_gradient != nullptr) std::fill_n(conv.bias_gradient, conv.out, 0.0F);
  }
  // Sums are read and written once a block, which a core's cache holds an entry of.
  const std::int64_t size = std::min(patches, patches_in(1 << 20, conv.in, conv.out, 240));
  float* const workspace = patch_workspace(size, conv.in, conv.out);
  for (std::int64_t first = 0; first < patches; first += size) {
    const std::int64_t count = std::min(size, patches - first);
    const GradientBlock block{first, count, workspace, workspace + kEntries * count * conv.in};
    parallel(count, 1, [&](std::int64_t begin, std::int64_t end) {
      HWY_DYNAMIC_DISPATCH(transform_patches_here)(conv, block, begin, end);
    });
    parallel(kEntries * panels, 1, [&](std::int64_t begin, std::int64_t end) {
      HWY_DYNAMIC_DISPATCH(add_products_here)(conv, block, begin, end);
    });
  }
  parallel(panels * conv.in, 64, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(transform_sums_here)(conv, begin, end);
  });
}

}  // namespace daug::kernels
#endif
