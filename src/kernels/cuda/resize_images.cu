#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// A block makes a tile of the result, a strip of source columns at a time: it resamples the strip along its columns
// into its memory, in whole loads of neighbouring pixels, and adds what the strip brings along the rows to the sums
// that its threads keep. Source rows that two rows of the result share are read by neighbouring threads at about the
// same time, so that all but one of them find a pixel in the cache. A sum takes its taps in their order, wherever
// strips begin.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kWarps = kThreads / kResizeTile;       ///< a warp adds along a row
constexpr int kRowsOfThread = kResizeTile / kWarps;  ///< whose sums share the weights of a column

struct Work {
  std::int64_t height, width, out_height, out_width;
  int row_taps, column_taps;
  const float *row_first, *row_weights, *column_first, *column_weights;  ///< see ResizeTables
};

/// Source columns [begin, end) resampled to rows [top, top + rows) of the result, each to its strip_place. `begin` is a
/// multiple of kWidth, and so is the width.
template <class T, int kWidth>
__device__ void resample_strip(const Work& w, const T* plane, int top, int rows, int begin, int end, float* strip) {
  const int packs = (end - begin + kWidth - 1) / kWidth;
  for (int i = static_cast<int>(threadIdx.x); i < rows * packs; i += kThreads) {
    const int r = i / packs, column = i % packs * kWidth;
    const float* weights = w.row_weights + static_cast<std::int64_t>(top + r) * w.row_taps;
    const T* pixels = plane + static_cast<std::int64_t>(w.row_first[top + r]) * w.width + begin + column;
    Floats<kWidth> sum;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[k] = 0;
#pragma unroll 4
    for (int j = 0; j < w.row_taps; ++j) {
      const Floats<kWidth> row = load<kWidth>(pixels + j * w.width);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum[k] = fmaf(weights[j], row[k], sum[k]);
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) strip[r * kStripColumns + strip_place(column + k)] = sum[k];
  }
}

/// The result: grid (tiles of kResizeTile x kResizeTile, planes).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) resize_planes(Work w, const T* images, T* output) {
  extern __shared__ float strip[];  // [kResizeTile, kStripColumns]
  const int lane = static_cast<int>(threadIdx.x) % kResizeTile, warp = static_cast<int>(threadIdx.x) / kResizeTile;
  const int across = blocks_of(w.out_width, kResizeTile), tile = static_cast<int>(blockIdx.x);
  const int width = static_cast<int>(w.out_width), height = static_cast<int>(w.out_height);
  const int left = tile % across * kResizeTile, top = tile / across * kResizeTile, x = left + lane;
  const int rows = top + kResizeTile < height ? kResizeTile : height - top;
  const int last = left + kResizeTile < width ? left + kResizeTile - 1 : width - 1;
  const bool inside = x < width;
  const int first = inside ? static_cast<int>(w.column_first[x]) : 0;
  const int end = static_cast<int>(w.column_first[last]) + w.column_taps;
  const T* plane = images + blockIdx.y * w.height * w.width;
  float sums[kRowsOfThread] = {};
  for (int begin = static_cast<int>(w.column_first[left]) / kWidth * kWidth; begin < end; begin += kStripColumns) {
    const int strip_end = begin + kStripColumns < end ? begin + kStripColumns : end;
    resample_strip<T, kWidth>(w, plane, top, rows, begin, strip_end, strip);
    __syncthreads();
    const int taps_end = strip_end - first < w.column_taps ? strip_end - first : w.column_taps;
    for (int j = first < begin ? begin - first : 0; inside && j < taps_end; ++j) {
      const float weight = w.column_weights[static_cast<std::int64_t>(j) * width + x];
      const float* column = strip + warp * kStripColumns + strip_place(first + j - begin);
#pragma unroll
      for (int k = 0; k < kRowsOfThread; ++k) sums[k] = fmaf(weight, column[k * kWarps * kStripColumns], sums[k]);
    }
    __syncthreads();
  }
  T* to = output + blockIdx.y * w.out_height * w.out_width + static_cast<std::int64_t>(top + warp) * width + x;
#pragma unroll
  for (int k = 0; k < kRowsOfThread; ++k)
    if (inside && warp + k * kWarps < rows) to[static_cast<std::int64_t>(k * kWarps) * width] = from_float<T>(sums[k]);
}

template <class T, int kWidth>
void launch_resize_planes(const Work& w, const ResizeImages& p, Launches& launches) {
  constexpr std::size_t kShared = kResizeTile * kStripColumns * sizeof(float);
  const std::int64_t tiles = std::int64_t{blocks_of(p.out_height, kResizeTile)} * blocks_of(p.out_width, kResizeTile);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.planes));
  resize_planes<T, kWidth><<<grid, kThreads, kShared, launches.next("resize_planes")>>>(
      w, static_cast<const T*>(p.images), static_cast<T*>(p.output));
}

}  // namespace
}  // namespace cuda

LaunchError resize_images_device(const ResizeImages& p, const ResizeTables& tables, const float* values,
                                 Element element, const DeviceStream& where) {
  using namespace cuda;
  if (p.planes == 0) return nullptr;
  if (p.planes > kMostInGrid) return "more planes than a launch takes";
  Launches launches(where);
  if (launches.error()) return launches.error();
  Work w{};
  w.height = p.height, w.width = p.width, w.out_height = p.out_height, w.out_width = p.out_width;
  w.row_taps = static_cast<int>(tables.row_taps), w.column_taps = static_cast<int>(tables.column_taps);
  w.row_first = values;
  w.row_weights = w.row_first + p.out_height;
  w.column_first = w.row_weights + p.out_height * tables.row_taps;
  w.column_weights = w.column_first + p.out_width;
  // Two widths are enough: whole 16 bytes, or single pixels for odd sizes.
  const int whole = 16 / bytes_of(element);
  const bool fits = vector_width(p.width, bytes_of(element), {p.images}) == whole;
  with_element(element, fits ? whole : 1, [&](auto* type, auto of_width) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = decltype(of_width)::value;
    if constexpr (kWidth == 1 || kWidth * sizeof(T) == 16) launch_resize_planes<T, kWidth>(w, p, launches);
  });
  return launches.error();
}

}  // namespace daug::kernels
