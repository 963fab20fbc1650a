#pragma once
/// @file
/// The loop that fills a heatmap store. No LibTorch.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/heatmap/heatmap_store.h"

namespace daug {

/// Settings of precompute_heatmaps.
struct PrecomputeOptions {
  std::size_t batch = 1;                ///< most images a call, at least 1
  int threads = 1;                      ///< calls at the same time, at least 1
  std::string stage = "make heatmaps";  ///< name in progress reports

  /// Throws kInvalidArgument.
  void validate() const;
};

/// Computes the maps of `images` (positions in the list of keys) into `maps` [n, K, H, W], which is zero at first.
/// Called from several threads when PrecomputeOptions::threads is more than 1.
using ComputeMaps = std::function<void(const std::vector<std::size_t>& images, float* maps)>;

/// What precompute_heatmaps did, in images.
struct PrecomputeReport {
  std::size_t computed = 0;  ///< maps made and added in this call
  std::size_t skipped = 0;   ///< in the store before, or the same key once more
  double seconds = 0;        ///< wall-clock time of the computing
};

/// Adds to a store the maps of all images, `keys` in order, that it does not have; so a run that was stopped or killed
/// goes on where it was. A call gets those that are missing of `batch` neighbours in the list (positions 0 to
/// batch - 1, then the next), whatever the store has, so that a run which goes on makes the calls of one that was not
/// stopped. Progress counts images, skipped ones as done from the start; its detail tells the rate of this
/// run and the time that is left at it ("2.5 images/s, 40 s left").
///
/// A stop takes effect before the next call of `compute`, what was computed is in the store by then, and kCancelled is
/// thrown. Also throws kInvalidArgument, and what `compute` and HeatmapStoreWriter::append throw. With several threads
/// the order of the records depends on time, their contents do not.
PrecomputeReport precompute_heatmaps(HeatmapStoreWriter& store, const std::vector<std::uint64_t>& keys,
                                     const ComputeMaps& compute, const PrecomputeOptions& options = {},
                                     const RunControl& control = {});

/// Computes maps the same way, as the bits of IEEE halves.
using ComputeHalfMaps = std::function<void(const std::vector<std::size_t>& images, std::uint16_t* maps)>;

/// The same with maps that are halves already, such as those of `encoder_maps` with `half`, and a store of kFloat16,
/// which keeps them as they are: nothing is widened on the way. Throws what HeatmapStoreWriter::append_halves throws in
/// place of append, for another storage before anything is computed.
PrecomputeReport precompute_half_heatmaps(HeatmapStoreWriter& store, const std::vector<std::uint64_t>& keys,
                                          const ComputeHalfMaps& compute, const PrecomputeOptions& options = {},
                                          const RunControl& control = {});

}  // namespace daug
