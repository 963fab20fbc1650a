#pragma once
/// @file
/// `resize` of a batch of pictures, on any device. Its code is part of `daug::daug`, as it needs LibTorch; the header
/// does not.

#include <cstdint>

#include "daug/core/execution.h"

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
/// does not depend on the batch around it; differentiable, on a device with gradients that are added up in any order
/// (refused within `deterministically`).
///
/// The kernel for CUDA devices (float32, float16 or bfloat16 without gradients, B C of at most 65535, sides below 2^24)
/// reads each image once, with weights that were made in float64, however much a side shrinks: within 1e-5 of the
/// largest value, half types rounded once. kAuto takes it once a device has run its tests; kFused on a device in any
/// case.
///
/// Throws kInvalidArgument; kUnsupported for kFused where there is no kernel for these images, and where operators on
/// another device than the CPU would antialias sides that shrink more than kLargestDeviceShrink times; kOutOfMemory for
/// what does not fit; and kDevice where the device failed.
at::Tensor resized(const at::Tensor& images, std::int64_t height, std::int64_t width, bool antialias = true,
                   Execution execution = Execution::kAuto);

}  // namespace daug
