#pragma once
/// @file
/// `resize` of a batch of pictures, on any device. Its code is part of `daug::daug`, as it needs LibTorch; the header
/// does not.

#include <cstdint>

namespace at {
class Tensor;
}

namespace daug {

/// How many times a side may shrink with antialiasing on a device, where LibTorch's threads share 48 KB of weights.
inline constexpr std::int64_t kLargestDeviceShrink = 40;

/// Images [B, C, H, W], in [-1, 1] or any other unit, resampled bilinearly to [B, C, height, width], both sides in
/// [1, 16384]: every plane as `resize` resamples it, within 1e-6 of its largest value in float32. Without `antialias`
/// the filter is not widened where a side shrinks. Floating point; dtype and device are the images'. Images of that
/// size already are returned as they are, not copied.
///
/// LibTorch's operators on float64 copies of images and result: they make weights from positions, and near pixel 1000
/// float32 has steps of 6e-5 pixels. Nothing is read back from a device; not yet run on one. Deterministic; an image
/// does not depend on the batch around it; differentiable, on a device with gradients that are added up in any order.
/// Throws kInvalidArgument, and kUnsupported for antialiasing of sides that shrink more than kLargestDeviceShrink times
/// on another device than the CPU.
at::Tensor resized(const at::Tensor& images, std::int64_t height, std::int64_t width, bool antialias = true);

}  // namespace daug
