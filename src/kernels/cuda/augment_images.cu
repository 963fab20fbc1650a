#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// A block makes a tile of all channels of an item, image and maps: a thread works out once where its pixels come from.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kTile = 32;  ///< rows and columns, so that what a turned tile reads lies close together, too
constexpr int kWarps = kThreads / kTile;
constexpr int kPixelsOfThread = kTile / kWarps;  ///< of a channel, whose loads are under way together

/// The source position of a pixel.
struct Place {
  int column, row;    ///< of the upper left of the four pixels around it
  float right, down;  ///< from there, in [0, 1]
};

__device__ Place place_of(const ImageChange& change, int x, int y) {
  constexpr float kFraction = 0x1p-32F;
  const std::int64_t column = change.column[2] + change.column[0] * x + change.column[1] * y;
  const std::int64_t row = change.row[2] + change.row[0] * x + change.row[1] * y;
  Place place;
  place.column = static_cast<int>(column >> 32), place.row = static_cast<int>(row >> 32);
  place.right = static_cast<float>(static_cast<std::uint32_t>(column)) * kFraction;
  place.down = static_cast<float>(static_cast<std::uint32_t>(row)) * kFraction;
  return place;
}

/// How far a pixel lies above what is outside of its plane.
template <class T>
__device__ float above(const T* plane, int column, int row, int width, int height, float outside) {
  const bool inside = column >= 0 && column < width && row >= 0 && row < height;
  return inside ? to_float(plane[static_cast<std::int64_t>(row) * width + column]) - outside : 0.0F;
}

/// Grid (tiles of kTile x kTile, items).
template <class T>
__global__ void __launch_bounds__(kThreads) augment(AugmentImages p) {
  const int width = static_cast<int>(p.width), height = static_cast<int>(p.height);
  const int across = blocks_of(p.width, kTile), tile = static_cast<int>(blockIdx.x);
  const int x = tile % across * kTile + static_cast<int>(threadIdx.x) % kTile;
  const int top = tile / across * kTile + static_cast<int>(threadIdx.x) / kTile;
  const ImageChange change = p.changes[blockIdx.y];
  Place places[kPixelsOfThread];
#pragma unroll
  for (int k = 0; k < kPixelsOfThread; ++k) places[k] = place_of(change, x, top + k * kWarps);
  for (std::int64_t c = 0; c < p.image_channels + p.map_channels; ++c) {
    const bool image = c < p.image_channels;
    const std::int64_t plane =
        image ? blockIdx.y * p.image_channels + c : blockIdx.y * p.map_channels + c - p.image_channels;
    const std::int64_t first = plane * p.height * p.width;
    const T* from = static_cast<const T*>(image ? p.images : p.maps) + first;
    T* to = static_cast<T*>(image ? p.new_images : p.new_maps) + first;
    const float outside = image ? -1.0F : 0.0F;
    float values[kPixelsOfThread];
#pragma unroll
    for (int k = 0; k < kPixelsOfThread; ++k) {
      const Place& at = places[k];
      const auto pixel = [&](int right, int down) {
        return above(from, at.column + right, at.row + down, width, height, outside);
      };
      const float left = 1 - at.right, upper = fmaf(at.right, pixel(1, 0), left * pixel(0, 0)),
                  lower = fmaf(at.right, pixel(1, 1), left * pixel(0, 1));
      float value = fmaf(at.down, lower, (1 - at.down) * upper) + outside;
      if (image && p.shades) {
        value = fmaf(value, change.gain, change.offset);
        value = value < -1 ? -1.0F : value > 1 ? 1.0F : value;  // so that a NaN stays one
      }
      values[k] = value;
    }
#pragma unroll
    for (int k = 0; k < kPixelsOfThread; ++k) {
      const int y = top + k * kWarps;
      if (x < width && y < height) to[static_cast<std::int64_t>(y) * width + x] = from_float<T>(values[k]);
    }
  }
}

}  // namespace
}  // namespace cuda

LaunchError augment_images_device(const AugmentImages& p, Element element, const DeviceStream& where) {
  using namespace cuda;
  if (p.batch == 0 || p.image_channels + p.map_channels == 0) return nullptr;
  if (p.batch > kMostInGrid) return "more images than a launch takes";
  Launches launches(where);
  if (launches.error()) return launches.error();
  const std::int64_t tiles = std::int64_t{blocks_of(p.height, kTile)} * blocks_of(p.width, kTile);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.batch));
  switch (element) {
    case Element::kFloat32:
      augment<float><<<grid, kThreads, 0, launches.next("augment")>>>(p);
      break;
    case Element::kFloat16:
      augment<__half><<<grid, kThreads, 0, launches.next("augment")>>>(p);
      break;
    case Element::kBfloat16:
      augment<__nv_bfloat16><<<grid, kThreads, 0, launches.next("augment")>>>(p);
      break;
  }
  return launches.error();
}

}  // namespace daug::kernels
