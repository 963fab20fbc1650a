#pragma once
// What convolutions by minimal filtering are cut into (kernels/winograd.h).

#include <algorithm>
#include <cstdint>
#include <vector>

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

/// The outputs that so many take room for.
constexpr std::int64_t padded(std::int64_t out) { return (out + kPanel - 1) / kPanel * kPanel; }

/// How many patches with so many channels in and out lie in so many floats: whole rows of registers, at least one and
/// at most `most`.
inline std::int64_t patches_in(std::int64_t floats, std::int64_t in, std::int64_t out, std::int64_t most) {
  constexpr std::int64_t kWhole = 12;
  return std::clamp(floats / (kEntries * (in + padded(out))), kWhole, most) / kWhole * kWhole;
}

/// Room for a block of so many patches, this thread's until its next call.
inline float* patch_workspace(std::int64_t patches, std::int64_t in, std::int64_t out) {
  thread_local std::vector<float> workspace;
  const std::int64_t floats = kEntries * patches * (in + padded(out));
  if (static_cast<std::int64_t>(workspace.size()) < floats) workspace.resize(static_cast<std::size_t>(floats));
  return workspace.data();
}

}  // namespace daug::kernels
