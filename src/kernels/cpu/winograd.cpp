#include "kernels/winograd.h"

#include <algorithm>

#include "kernels/cpu/targets.h"
#include "kernels/cpu/winograd_patches.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/winograd.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "kernels/cpu/winograd-inl.h"

#ifndef DAUG_KERNELS_WINOGRAD_ONCE
#define DAUG_KERNELS_WINOGRAD_ONCE
namespace daug::kernels {

/// Filters [out, in, 3, 3] and where their entries lie.
struct FilterSource {
  const float* values;
  const std::int64_t* strides;
  std::int64_t in, out;
};

/// Patches [first, first + count) and what is made of them on the way.
struct PatchBlock {
  std::int64_t first, count;
  float* inputs;    ///< [16, count, in]
  float* products;  ///< [16, count, padded(out)]

  /// floats: kEntries * most * (in + padded(out)) for blocks of up to `most` patches.
  PatchBlock(const WinogradConv& conv, std::int64_t first, std::int64_t count, float* floats)
      : first(first), count(count), inputs(floats), products(floats + kEntries * count * conv.in) {}
};

}  // namespace daug::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// G g G^T for input channel i % in of the panel i / in of outputs, i in [begin, end).
void transform_filters_here(const FilterSource& filters, float* transformed, std::int64_t begin, std::int64_t end) {
  const FullTag tag;
  const auto half = hn::Set(tag, 0.5F);
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t first = i / filters.in * kPanel, c = i % filters.in;
    alignas(64) float g[9][kPanel] = {};
    for (std::int64_t k = 0; k < std::min(kPanel, filters.out - first); ++k)
      for (std::int64_t tap = 0; tap < 9; ++tap)
        g[tap][k] = filters.values[(first + k) * filters.strides[0] + c * filters.strides[1] +
                                   tap / 3 * filters.strides[2] + tap % 3 * filters.strides[3]];
    float* const out = transformed + (first * filters.in + c * kPanel);
    for (std::int64_t lane = 0; lane < kPanel; lane += kLanes) {
      // G of three numbers, of columns and then of rows.
      hn::Vec<FullTag> columns[4][3];
      for (int x = 0; x < 3; ++x) {
        const auto a = hn::Load(tag, g[x] + lane), b = hn::Load(tag, g[3 + x] + lane),
                   d = hn::Load(tag, g[6 + x] + lane);
        const auto ends = hn::Add(a, d);
        columns[0][x] = a, columns[3][x] = d;
        columns[1][x] = hn::Mul(half, hn::Add(ends, b)), columns[2][x] = hn::Mul(half, hn::Sub(ends, b));
      }
      for (int y = 0; y < 4; ++y) {
        const auto a = columns[y][0], b = columns[y][1], d = columns[y][2], ends = hn::Add(a, d);
        const auto put = [&](int x, auto value) HWY_ATTR {
          hn::StoreU(value, tag, out + (4 * y + x) * padded(filters.out) * filters.in + lane);
        };
        put(0, a), put(1, hn::Mul(half, hn::Add(ends, b))), put(2, hn::Mul(half, hn::Sub(ends, b))), put(3, d);
      }
    }
  }
}

/// kCount rows of [rows, in] times a panel [in, kPanel].
template <std::int64_t kCount>
HWY_INLINE void multiply_rows(const float* rows, std::int64_t in, const float* panel, float* out, std::int64_t stride) {
  const FullTag tag;
  for (std::int64_t column = 0; column < kPanel; column += 2 * kLanes) {
    hn::Vec<FullTag> left[kCount], right[kCount];
    for (std::int64_t r = 0; r < kCount; ++r) left[r] = right[r] = hn::Zero(tag);
    const float* filter = panel + column;
    for (std::int64_t c = 0; c < in; ++c, filter += kPanel) {
      const auto first = hn::LoadU(tag, filter), second = hn::LoadU(tag, filter + kLanes);
      for (std::int64_t r = 0; r < kCount; ++r) {
        const auto value = hn::Set(tag, rows[r * in + c]);
        left[r] = hn::MulAdd(value, first, left[r]);
        right[r] = hn::MulAdd(value, second, right[r]);
      }
    }
    for (std::int64_t r = 0; r < kCount; ++r) {
      hn::StoreU(left[r], tag, out + r * stride + column);
      hn::StoreU(right[r], tag, out + r * stride + column + kLanes);
    }
  }
}

/// [count, in] times a panel.
void multiply(const float* rows, std::int64_t count, std::int64_t in, const float* panel, float* out,
              std::int64_t stride) {
  for_rows(count, [&](auto step, std::int64_t r)
                      HWY_ATTR { multiply_rows<step()>(rows + r * in, in, panel, out + r * stride, stride); });
}

/// A^T m A + bias, written to the patch's outputs that lie in the image.
HWY_INLINE void transform_output(const WinogradConv& conv, const PatchGrid& grid, std::int64_t patch, const float* in,
                                 std::int64_t stride) {
  const PatchPlace place(grid, patch);
  const bool below = place.row + 1 < grid.height, beside = place.column + 1 < grid.width;
  float* const upper = conv.output + place.pixel(grid, conv.out, 0, 0);
  float* const lower = upper + grid.width * conv.out;
  for_lanes(conv.out, [&](auto tag, std::int64_t c) HWY_ATTR {
    const auto entry = [&](std::int64_t i) HWY_ATTR { return hn::LoadU(tag, in + i * stride + c); };
    const auto offset = conv.bias != nullptr ? hn::LoadU(tag, conv.bias + c) : hn::Zero(tag);
    // A^T from the left, a column of entries at a time.
    const auto above = [&](std::int64_t i) HWY_ATTR { return hn::Add(hn::Add(entry(i), entry(4 + i)), entry(8 + i)); };
    const auto under = [&](std::int64_t i)
                           HWY_ATTR { return hn::Sub(hn::Sub(entry(4 + i), entry(8 + i)), entry(12 + i)); };
    const auto write = [&](auto a, auto b, auto d, auto e, float* to) HWY_ATTR {
      hn::StoreU(hn::Add(hn::Add(hn::Add(a, b), d), offset), tag, to + c);
      if (beside) hn::StoreU(hn::Add(hn::Sub(hn::Sub(b, d), e), offset), tag, to + conv.out + c);
    };
    write(above(0), above(1), above(2), above(3), upper);
    if (below) write(under(0), under(1), under(2), under(3), lower);
  });
}

/// The entries of patches [begin, end).
void transform_inputs_here(const WinogradConv& conv, const PatchBlock& block, std::int64_t begin, std::int64_t end) {
  const PatchGrid grid{conv.height, conv.width};
  for (std::int64_t i = begin; i < end; ++i)
    transform_input(conv.input, conv.in, grid, block.first + i, block.inputs + i * conv.in, block.count * conv.in);
}

/// Their products with panels [begin, end) of the filters, those of one entry behind those of another.
void multiply_here(const WinogradConv& conv, const PatchBlock& block, std::int64_t begin, std::int64_t end) {
  const std::int64_t width = padded(conv.out), panels = width / kPanel;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t entry = i / panels;
    multiply(block.inputs + entry * block.count * conv.in, block.count, conv.in, conv.filters + i * conv.in * kPanel,
             block.products + entry * block.count * width + i % panels * kPanel, width);
  }
}

/// The outputs of patches [begin, end).
void transform_outputs_here(const WinogradConv& conv, const PatchBlock& block, std::int64_t begin, std::int64_t end) {
  const PatchGrid grid{conv.height, conv.width};
  const std::int64_t width = padded(conv.out);
  for (std::int64_t i = begin; i < end; ++i)
    transform_output(conv, grid, block.first + i, block.products + i * width, block.count * width);
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {
HWY_EXPORT(transform_filters_here);
HWY_EXPORT(transform_inputs_here);
HWY_EXPORT(multiply_here);
HWY_EXPORT(transform_outputs_here);
}  // namespace

std::int64_t winograd_filter_floats(std::int64_t in, std::int64_t out) { return kEntries * in * padded(out); }

void winograd_filters(const float* filters, const std::int64_t strides[4], std::int64_t in, std::int64_t out,
                      float* transformed, const Parallel& parallel) {
  const FilterSource source{filters, strides, in, out};
  parallel(padded(out) / kPanel * in, 64, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(transform_filters_here)(source, transformed, begin, end);
  });
}

void winograd_conv(const WinogradConv& conv, const Parallel& parallel) {
  const std::int64_t patches = conv.batch * PatchGrid{conv.height, conv.width}.patches();
  const std::int64_t panels = kEntries * padded(conv.out) / kPanel;
  const auto inputs = [&](const PatchBlock& block, std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(transform_inputs_here)(conv, block, begin, end);
  };
  const auto products = [&](const PatchBlock& block, std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(multiply_here)(conv, block, begin, end);
  };
  const auto outputs = [&](const PatchBlock& block, std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(transform_outputs_here)(conv, block, begin, end);
  };

  // A core's cache holds these filters, or most of them: each thread makes blocks of its own, whose entries lie there
  // too.
  constexpr std::int64_t kCacheFloats = 1 << 17;
  if (winograd_filter_floats(conv.in, conv.out) <= 2 * kCacheFloats) {
    const std::int64_t size = patches_in(kCacheFloats, conv.in, conv.out, 96);
    parallel((patches + size - 1) / size, 1, [&](std::int64_t begin, std::int64_t end) {
      float* const workspace = patch_workspace(size, conv.in, conv.out);
      for (std::int64_t first = begin * size; first < std::min(patches, end * size); first += size) {
        const PatchBlock block(conv, first, std::min(size, patches - first), workspace);
        inputs(block, 0, block.count);
        products(block, 0, panels);
        outputs(block, 0, block.count);
      }
    });
    return;
  }
  // Larger ones are read once for many patches, each panel by one thread.
  const std::int64_t size = std::min(patches, patches_in(8 * kCacheFloats, conv.in, conv.out, 240));
  float* const workspace = patch_workspace(size, conv.in, conv.out);
  for (std::int64_t first = 0; first < patches; first += size) {
    const PatchBlock block(conv, first, std::min(size, patches - first), workspace);
    const auto shared = [&](std::int64_t count, const auto& part) {
      parallel(count, 1, [&](std::int64_t begin, std::int64_t end) { part(block, begin, end); });
    };
    shared(block.count, inputs);
    shared(panels, products);
    shared(block.count, outputs);
  }
}

}  // namespace daug::kernels
#endif
