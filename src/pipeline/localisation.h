#pragma once
// Maps of images against the masks or boxes of what they show.

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "daug/metrics/froc_bootstrap.h"
#include "daug/metrics/retrieval.h"
#include "run_impl.h"

namespace daug {

/// Where the findings that a map is of are in some images.
struct MapRegions {
  std::size_t images = 0, maps = 0;
  std::vector<std::optional<std::vector<std::uint8_t>>> masks;  ///< [images, maps], of positive findings together

  bool any() const;
};

/// The region of one map in one image: the union over its positive findings and, where one is positive, of boxes with
/// the group's name; nothing without masks and boxes.
std::optional<std::vector<std::uint8_t>> map_region(Run::Impl& run, std::size_t row, std::size_t map);
/// The regions of rows, from masks or boxes.
MapRegions map_regions(Run::Impl& run, const std::vector<std::size_t>& rows);

/// The true image without the findings of a map, [S * S] in [-1, 1]: known where exactly one of them is positive and
/// the cohort has it.
std::optional<std::vector<float>> map_counterfactual(Run::Impl& run, std::size_t row, std::size_t map);

/// Boxes whose name is no label, and the maps whose maximum they are compared with.
struct BoxGroup {
  std::string name;
  std::vector<std::int64_t> maps;
};

/// The groups that the settings name (evaluate.box_groups). Throws kNotFound for a map that there is none of.
std::vector<BoxGroup> box_groups(Run::Impl& run);
/// Boxes of this name in rows, as the regions of one map.
MapRegions box_regions(Run::Impl& run, const std::string& name, const std::vector<std::size_t>& rows);
/// The mean region in the labelled training images with such boxes [S, S]; undefined without any.
at::Tensor mean_boxes(Run::Impl& run, const std::string& name);

/// One figure an image and map; NaN where there is no region.
struct LocalisationTables {
  RetrievalValues auroc, ap, pointing, dice, iou;
};

/// Maps [images, maps, S, S] (contiguous float32) against regions. Dice is the best over thresholds, an upper bound;
/// IoU is that of the upper half of a map's own range.
LocalisationTables localise(const at::Tensor& maps, const MapRegions& regions);

/// What maps [images, maps, S, S] (contiguous float32) point at, by map, in the images whose truth is known: those with
/// a region and those that are `normal(image, map)`. Candidates of a map are the connected regions (diagonals included)
/// of its pixels of at least (lowest + highest) / 2 of its values, each at its highest pixel, the first in reading
/// order among equals, and with that pixel's value as score; lesions are the connected regions of a mask, hit by the
/// candidates that lie in them. A positive image whose mask has no pixel left is not counted.
std::vector<FrocFinding> map_detections(const at::Tensor& maps, const MapRegions& regions,
                                        const std::function<bool(std::size_t, std::size_t)>& normal);

/// What map_detections found in some of its images: rows are places in `images`.
std::vector<FrocFinding> detections_of(const std::vector<FrocFinding>& findings,
                                       const std::vector<std::size_t>& images);

/// The mean over findings with lesions of their FROC curves: [false positives an image, sensitivity] at every sixteenth
/// of a false positive up to 8 or to the most that any has. Empty without lesions.
std::vector<std::array<double, 2>> mean_froc(const std::vector<FrocFinding>& findings);

/// Translated images beside the true counterfactuals, one figure an image and map; NaN where it is not defined.
struct CounterfactualTables {
  RetrievalValues in_mask_ratio;   ///< inside the region, distance to the true counterfactual over the input's
  RetrievalValues outside_change;  ///< outside it, mean |translated - input|
};

/// The translated image [S * S] of the n-th row that is without the findings of a map.
using TranslatedImage = std::function<const float*(std::size_t n, std::size_t map)>;

CounterfactualTables audit_counterfactuals(Run::Impl& run, const std::vector<std::size_t>& rows,
                                           const MapRegions& regions, const TranslatedImage& image);

/// The mean region of every map in the labelled training images [maps, S, S], zero for one without any; undefined when
/// none has any.
at::Tensor mean_masks(Run::Impl& run);

}  // namespace daug
