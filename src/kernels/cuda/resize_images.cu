#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// A block resamples, along the rows, all source rows that its part of the result is made of into its memory, and then
// these along the columns. Blocks above and below share but a filter's width of source rows.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kWarp = 32, kWarps = kThreads / kWarp;

struct Work {
  std::int64_t height, width, out_height, out_width;
  int row_taps, column_taps, block_rows;
  const float *row_first, *row_weights, *column_first, *column_weights;  ///< see ResizeTables
};

/// The result: grid (tiles of block_rows x kWarp, planes).
template <class T>
__global__ void __launch_bounds__(kThreads) resize_planes(Work w, const T* images, T* output) {
  extern __shared__ float along[];  // [source rows, kWarp]
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int across = blocks_of(w.out_width, kWarp), tile = static_cast<int>(blockIdx.x);
  const int width = static_cast<int>(w.out_width), height = static_cast<int>(w.out_height);
  const int x = tile % across * kWarp + lane, top = tile / across * w.block_rows;
  const int end = top + w.block_rows < height ? top + w.block_rows : height;
  const bool inside = x < width;
  const int left = inside ? static_cast<int>(w.column_first[x]) : 0;
  const int first = static_cast<int>(w.row_first[top]);
  const int count = static_cast<int>(w.row_first[end - 1]) + w.row_taps - first;
  const T* from = images + (blockIdx.y * w.height + first) * w.width + left;
  for (int r = warp; r < count; r += kWarps) {
    const T* pixels = from + r * w.width;
    float sum = 0;
    for (int j = 0; inside && j < w.column_taps; ++j)
      sum = fmaf(w.column_weights[static_cast<std::int64_t>(j) * width + x], to_float(pixels[j]), sum);
    along[r * kWarp + lane] = sum;
  }
  __syncthreads();
  T* to = output + blockIdx.y * w.out_height * w.out_width + x;
  for (int y = top + warp; inside && y < end; y += kWarps) {
    const float* column = along + (static_cast<int>(w.row_first[y]) - first) * kWarp + lane;
    const float* weights = w.row_weights + static_cast<std::int64_t>(y) * w.row_taps;
    float sum = 0;
    for (int i = 0; i < w.row_taps; ++i) sum = fmaf(weights[i], column[i * kWarp], sum);
    to[static_cast<std::int64_t>(y) * width] = from_float<T>(sum);
  }
}

struct ResizeLaunch {
  dim3 grid;
  std::size_t shared;
  Launches& launches;
};

template <class T>
void launch_resize_planes(const ResizeLaunch& l, const Work& w, const ResizeImages& p) {
  resize_planes<T><<<l.grid, kThreads, l.shared, l.launches.next("resize_planes")>>>(w, static_cast<const T*>(p.images),
                                                                                     static_cast<T*>(p.output));
}

}  // namespace
}  // namespace cuda

LaunchError resize_images_device(const ResizeImages& p, const ResizeTables& tables, const float* values,
                                 Element element, const DeviceStream& where) {
  using namespace cuda;
  if (p.planes == 0) return nullptr;
  if (tables.block_rows == 0 || p.planes > kMostInGrid)
    return "more planes or sides that shrink more than a launch takes";
  Launches launches(where);
  if (launches.error()) return launches.error();
  Work w{};
  w.height = p.height, w.width = p.width, w.out_height = p.out_height, w.out_width = p.out_width;
  w.row_taps = static_cast<int>(tables.row_taps), w.column_taps = static_cast<int>(tables.column_taps);
  w.block_rows = static_cast<int>(tables.block_rows);
  w.row_first = values;
  w.row_weights = w.row_first + p.out_height;
  w.column_first = w.row_weights + p.out_height * tables.row_taps;
  w.column_weights = w.column_first + p.out_width;
  const std::int64_t tiles = std::int64_t{blocks_of(p.out_height, w.block_rows)} * blocks_of(p.out_width, kWarp);
  const ResizeLaunch l{dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(p.planes)),
                       static_cast<std::size_t>(tables.source_rows * kWarp) * sizeof(float), launches};
  switch (element) {
    case Element::kFloat32:
      launch_resize_planes<float>(l, w, p);
      break;
    case Element::kFloat16:
      launch_resize_planes<__half>(l, w, p);
      break;
    case Element::kBfloat16:
      launch_resize_planes<__nv_bfloat16>(l, w, p);
      break;
  }
  return launches.error();
}

}  // namespace daug::kernels
