#pragma once
/// @file
/// What a map value is worth: its rank among the maps of healthy images.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daug/io/safetensors.h"

namespace daug {

/// Settings of MapCalibration.
struct MapCalibrationOptions {
  std::int64_t regions = 4;      ///< the image is divided into regions x regions cells, in [1, 64]
  std::int64_t quantiles = 999;  ///< values that stand for a cell's pixels, in [19, 65535]; the least p is 1 / (1 + it)

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Null distributions of maps, per target and cell of the image, from the maps of healthy images.
///
/// A p-value is the share of healthy values at least as large, (1 + #{null >= v}) / (1 + n): uniform on maps of other
/// healthy images, and never 0 (Phipson and Smyth, 2010). Unlike the published normalisation it does not stretch a
/// healthy image's map: small everywhere stays p near 1/2. Maps must be made as those it was fitted on. Items do not
/// see each other, so on the CPU a batch of one equals a batch of many bit for bit.
///
/// Maps may lie on any device, and p-values are there; see `to`. On a device sums may differ in their last bits, and
/// nothing is read back: maps that are not finite are not refused there, but p is NaN where a NaN had a part in it.
/// What does not fit into its memory is kOutOfMemory, a device that failed kDevice. Not yet run on a device.
class MapCalibration {
 public:
  /// Fewest images to fit on: each is also set against mean and spread of the others, which one alone does not have.
  static constexpr std::int64_t kLeastImages = 3;

  /// What a kernel needs to give pixels of float32 maps as `calibrated` does.
  struct PixelTables {
    /// Healthy values [K, regions * regions, quantiles] of the cells, row by row, rising, in float32 (rounded_down): as
    /// many of them are less than a float32 as of the values themselves.
    at::Tensor healthy;
    /// [quantiles + 1], float32: -log10 p of a pixel that so many of them are less than.
    at::Tensor minus_log_p;
  };

  /// Fits on maps [N, K, H, W] of healthy images, N >= kLeastImages, finite (which is read back from a device), H and W
  /// at least options.regions. targets: K names, in the maps' order. Throws kInvalidArgument.
  static MapCalibration fit(const at::Tensor& maps, std::vector<std::string> targets,
                            const MapCalibrationOptions& options = {});

  /// p of every pixel [B, K, H, W], float64, among the healthy pixels of its cell. Throws kInvalidArgument, like the
  /// members below, for maps of another shape than those it was fitted on and, on the CPU, that are not finite.
  at::Tensor pixel_p_values(const at::Tensor& maps) const;
  /// p of every cell's mean [B, K, regions, regions], float64.
  at::Tensor region_p_values(const at::Tensor& maps) const;
  /// p of every map's largest cell, in standard deviations of that cell's healthy mean [B, K], float64: one statement
  /// about the whole image that accounts for having looked at all of its cells. The healthy images' own scores are by
  /// mean and deviation of the others alone (leave one out), so that few images do not make others look unusual; with
  /// a handful p is on the large side.
  at::Tensor image_p_values(const at::Tensor& maps) const;
  /// -log10 of pixel_p_values in the maps' dtype: 0 where nothing is unusual, for display and as channels.
  at::Tensor calibrated(const at::Tensor& maps) const;

  /// The same with its tables on `device`, where they are with `fit` on maps of that device; maps of another device
  /// have them copied there by every call.
  MapCalibration to(c10::Device device) const;

  /// Names of the K maps, as given to `fit`.
  const std::vector<std::string>& targets() const { return targets_; }
  /// Healthy images it was fitted on.
  std::int64_t images() const { return cell_means_.size(2); }
  /// Regions along a side: pixel (y, x) lies in row y * regions() / height() of the cells, and in such a column.
  std::int64_t regions() const { return regions_; }
  /// Of the maps it was fitted on, in pixels.
  std::int64_t height() const { return height_; }
  /// Of the maps it was fitted on, in pixels.
  std::int64_t width() const { return width_; }
  /// For the kernel of encoder_maps, on the device of the other tables; made once, with them.
  const PixelTables& pixel_tables() const { return pixel_tables_; }

  /// As arrays and metadata, to be written beside a model's weights.
  SafetensorsFile to_file() const;
  /// What `to_file` made. Throws kFormat, kMismatch or kNotFound naming the entry.
  static MapCalibration from_file(const SafetensorsFile& file);

 private:
  void require_maps(const at::Tensor& maps, const char* function, bool read) const;  ///< read: the values as well
  at::Tensor means_of_cells(const at::Tensor& maps) const;
  void set_pixels(at::Tensor pixels);  ///< and what kernels read of them

  std::vector<std::string> targets_;
  std::int64_t regions_ = 1, height_ = 0, width_ = 0;
  at::Tensor pixels_;           ///< [K, cells, quantiles], rising
  PixelTables pixel_tables_;    ///< of pixels_
  at::Tensor cell_means_;       ///< [K, cells, N], rising
  at::Tensor centre_, spread_;  ///< [K, cells], of the cell means
  at::Tensor image_scores_;     ///< [K, N], rising
};

/// float64 numbers of any shape, each as the largest float32 that is not above it, in that shape and on their device: r
/// < v exactly where the number itself is < v, for any float32 v. Numbers above float32's range become its largest
/// finite number, those below it negative infinity, and NaN stays NaN. Nothing is read back from a device.
/// Deterministic.
at::Tensor rounded_down(const at::Tensor& numbers);

/// Running mean and spread of maps made with different seeds, levels or scales (see map_spreads): what of a map is
/// chance.
///
/// Add maps of one shape; float64 throughout (Welford's algorithm), so that equal maps have a spread of exactly 0.
class MapSpread {
 public:
  /// Adds maps, of the first ones' shape (kInvalidArgument otherwise).
  void add(const at::Tensor& maps);
  /// How often `add` was called.
  std::int64_t count() const { return count_; }
  /// Mean of the maps added, float64; throws kInvalidArgument when there are none.
  at::Tensor mean() const;
  /// Standard deviation (divided by count), float64; of one map 0. Throws as mean.
  at::Tensor deviation() const;

 private:
  std::int64_t count_ = 0;
  at::Tensor mean_, squares_;
};

/// What maps are made under to see how much of them is chance: every seed with every level and every scale.
struct MapVariation {
  std::vector<std::uint64_t> seeds = {0};    ///< of the noise; what draws none does not depend on it
  std::vector<std::int64_t> levels = {250};  ///< noise levels, of evidence or to which images are encoded
  std::vector<double> scales = {1};          ///< guidance weights or classifier scales

  /// Throws kInvalidArgument naming the first empty list.
  void validate() const;
};

/// Spreads of maps made under a MapVariation.
struct MapSpreads {
  MapSpread all;     ///< over all combinations
  MapSpread seeds;   ///< over seeds alone, under the first level and scale
  MapSpread levels;  ///< over levels alone, under the first seed and scale
  MapSpread scales;  ///< over scales alone, under the first seed and level
};

/// Maps made under one combination, always of the same shape.
using MakeVariedMaps = std::function<at::Tensor(std::uint64_t seed, std::int64_t level, double scale)>;

/// Calls `make` once for every combination of `over`, seeds fastest and scales slowest, and adds up what it returns. A
/// list of one value, or of equal ones, contributes a spread of exactly 0. Throws kInvalidArgument for an empty list or
/// maps of different shapes, and what `make` throws.
MapSpreads map_spreads(const MapVariation& over, const MakeVariedMaps& make);

}  // namespace daug
