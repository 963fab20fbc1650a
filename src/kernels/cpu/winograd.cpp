#include "kernels/winograd.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/winograd.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

#ifndef DAUG_KERNELS_WINOGRAD_ONCE
#define DAUG_KERNELS_WINOGRAD_ONCE
namespace daug::kernels {

constexpr std::int64_t kEntries = 16;  ///< of a patch
constexpr std::int64_t kPanel = 32;    ///< outputs whose filters lie side by side

/// Patches in order: ceil(height / 2) rows of ceil(width / 2) an image, each of which makes 2 x 2 outputs.
struct PatchGrid {
  std::int64_t height, width;

  std::int64_t columns() const { return (width + 1) / 2; }
  std::int64_t patches() const { return (height + 1) / 2 * columns(); }
};

/// Where the first output of a patch lies.
struct PatchPlace {
  std::int64_t image, row, column;

  PatchPlace(const PatchGrid& grid, std::int64_t patch) {
    const std::int64_t within = patch % grid.patches();
    image = patch / grid.patches();
    row = within / grid.columns() * 2;
    column = within % grid.columns() * 2;
  }
  /// The pixel this many rows and columns from there, in images of so many channels.
  std::int64_t pixel(const PatchGrid& grid, std::int64_t channels, std::int64_t down, std::int64_t right) const {
    return ((image * grid.height + row + down) * grid.width + column + right) * channels;
  }
};

/// The outputs that a row of products has room for.
constexpr std::int64_t padded(std::int64_t out) { return (out + kPanel - 1) / kPanel * kPanel; }

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

/// Rows whose sums with two vectors of outputs fill the registers.
constexpr std::int64_t kRows = kLanes >= 16 ? 12 : 6;

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

/// B^T d B of a patch, its entries `stride` floats apart.
HWY_INLINE void transform_input(const WinogradConv& conv, const PatchGrid& grid, std::int64_t patch, float* out,
                                std::int64_t stride) {
  const PatchPlace place(grid, patch);
  const float* pixels[kEntries];
  bool all_inside = true;
  for (std::int64_t i = 0; i < kEntries; ++i) {
    const std::int64_t y = place.row - 1 + i / 4, x = place.column - 1 + i % 4;
    const bool inside = y >= 0 && y < grid.height && x >= 0 && x < grid.width;
    pixels[i] = inside ? conv.input + place.pixel(grid, conv.in, i / 4 - 1, i % 4 - 1) : nullptr;
    all_inside = all_inside && inside;
  }
  if (all_inside)
    transform_patch<true>(pixels, conv.in, out, stride);
  else
    transform_patch<false>(pixels, conv.in, out, stride);
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
  std::int64_t r = 0;
  const auto with = [&](auto step) HWY_ATTR {
    for (; r + step() <= count; r += step()) multiply_rows<step()>(rows + r * in, in, panel, out + r * stride, stride);
  };
  with(std::integral_constant<std::int64_t, kRows>());
  with(std::integral_constant<std::int64_t, 4>());
  with(std::integral_constant<std::int64_t, 1>());
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
    transform_input(conv, grid, block.first + i, block.inputs + i * conv.in, block.count * conv.in);
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
HWY_EXPORT(transform_inputs_here);
HWY_EXPORT(multiply_here);
HWY_EXPORT(transform_outputs_here);

/// How many patches lie in so many floats: whole rows of registers, at least one and at most `most`.
std::int64_t patches_in(std::int64_t floats, const WinogradConv& conv, std::int64_t most) {
  constexpr std::int64_t kWhole = 12;
  return std::clamp(floats / (kEntries * (conv.in + padded(conv.out))), kWhole, most) / kWhole * kWhole;
}

/// Room for a block of so many patches, this thread's until its next call.
float* workspace_of(const WinogradConv& conv, std::int64_t patches) {
  thread_local std::vector<float> workspace;
  const std::int64_t floats = kEntries * patches * (conv.in + padded(conv.out));
  if (static_cast<std::int64_t>(workspace.size()) < floats) workspace.resize(static_cast<std::size_t>(floats));
  return workspace.data();
}
}  // namespace

std::int64_t winograd_filter_floats(std::int64_t in, std::int64_t out) { return kEntries * in * padded(out); }

void winograd_filters(const float* filters, const std::int64_t strides[4], std::int64_t in, std::int64_t out,
                      float* transformed) {
  std::fill_n(transformed, winograd_filter_floats(in, out), 0.0F);
  // G of three numbers.
  const auto mixed = [](double a, double b, double c, double* to, int step) {
    to[0] = a, to[step] = (a + b + c) / 2, to[2 * step] = (a - b + c) / 2, to[3 * step] = c;
  };
  for (std::int64_t k = 0; k < out; ++k)
    for (std::int64_t c = 0; c < in; ++c) {
      const float* g = filters + k * strides[0] + c * strides[1];
      double half[12], whole[kEntries];  // G g [4, 3], G g G^T [4, 4]
      for (int x = 0; x < 3; ++x) {
        const float* column = g + x * strides[3];
        mixed(column[0], column[strides[2]], column[2 * strides[2]], half + x, 3);
      }
      for (int y = 0; y < 4; ++y) mixed(half[3 * y], half[3 * y + 1], half[3 * y + 2], whole + 4 * y, 1);
      for (std::int64_t entry = 0; entry < kEntries; ++entry)
        transformed[(entry * padded(out) + k / kPanel * kPanel) * in + c * kPanel + k % kPanel] =
            static_cast<float>(whole[entry]);
    }
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
    const std::int64_t size = patches_in(kCacheFloats, conv, 96);
    parallel((patches + size - 1) / size, 1, [&](std::int64_t begin, std::int64_t end) {
      float* const workspace = workspace_of(conv, size);
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
  const std::int64_t size = std::min(patches, patches_in(8 * kCacheFloats, conv, 240));
  float* const workspace = workspace_of(conv, size);
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
