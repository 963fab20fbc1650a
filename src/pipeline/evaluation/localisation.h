#pragma once
// Maps of images against the masks or boxes of what they show.

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/metrics/froc_bootstrap.h"
#include "daug/metrics/retrieval.h"
#include "pipeline/run_impl.h"

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
/// the cohort has the image without that one, or without any while all other findings are known to be negative, those
/// of columns that the run leaves out (Study::other_labels) among them.
std::optional<std::vector<float>> map_counterfactual(Run::Impl& run, std::size_t row, std::size_t map);

/// Boxes whose name is no label, and the maps whose maximum they are compared with.
struct BoxGroup {
  std::string name;
  std::vector<std::int64_t> maps;
};

/// The groups that the settings name (evaluate.box_groups). Throws kNotFound for a map that there is none of.
std::vector<BoxGroup> box_groups(Run::Impl& run);
/// What maps of some images are measured against.
struct MapTruth {
  MapRegions regions;                                  ///< of the maps' findings
  std::vector<std::pair<BoxGroup, MapRegions>> boxes;  ///< the groups with boxes on these images, regions of one map

  bool any() const { return regions.any() || !boxes.empty(); }
  /// Whether the image at a place has a region or a box.
  bool any(std::size_t image) const;
};

/// The truth of rows. Throws as box_groups does.
MapTruth map_truth(Run::Impl& run, const std::vector<std::size_t>& rows);

/// At most `most` of rows: those with a region or a box first, each kind in its order. Throws as box_groups does.
std::vector<std::size_t> marked_first(Run::Impl& run, const std::vector<std::size_t>& rows, std::size_t most);

/// One figure an image and map; NaN where there is no region.
struct LocalisationTables {
  RetrievalValues auroc, ap, pointing, dice, iou;

  /// Calls put(name, definition, table) for every figure.
  template <class Put>
  void each(const Put& put) const {
    put("pixel_auroc", "AUROC of the pixels against the mask", auroc);
    put("pixel_ap", "average precision of the pixels against the mask", ap);
    put("pointing", "share of maps whose maximum lies in the mask", pointing);
    put("best_dice", "Dice at each map's best threshold, an upper bound", dice);
    put("iou",
        "IoU of the mask and the pixels of at least (lowest + highest value) / 2 of the same map of the same image, a "
        "rule fixed beforehand whose threshold is relative to each map's own range: a map without a peak is "
        "thresholded like any other, and a constant one marks every pixel",
        iou);
  }
};

/// Maps [images, maps, S, S] (contiguous float32) against regions. Dice is the best over thresholds, an upper bound;
/// IoU is that of the pixels of at least (lowest + highest value) / 2 of the map itself: no threshold in the map's
/// unit, and unchanged by its scale and offset.
LocalisationTables localise(const at::Tensor& maps, const MapRegions& regions);

/// What maps find of a truth: nothing where it has no region.
struct LocalisedMaps {
  std::optional<LocalisationTables> findings;
  std::vector<std::pair<std::string, LocalisationTables>> boxes;  ///< of a box group each, by its name
};

/// What stands against the boxes of every group of a truth: the highest of the group's maps [images, 1, S, S] of maps
/// [images, maps, S, S].
std::vector<at::Tensor> maps_of_boxes(const at::Tensor& maps, const MapTruth& truth);

/// Maps [images, maps, S, S] (float32) against a truth, and `of_boxes` against its box groups: one a group, of which an
/// undefined one is left out; maps_of_boxes if empty.
LocalisedMaps localise(const at::Tensor& maps, const MapTruth& truth, const std::vector<at::Tensor>& of_boxes = {});

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
  /// Outside it, mean |translated - true counterfactual|: the former but for faint parts of what was taken away, which
  /// a mask leaves out.
  RetrievalValues outside_distance;
};

/// The translated image [S * S] of the n-th row that is without the findings of a map.
using TranslatedImage = std::function<const float*(std::size_t n, std::size_t map)>;

CounterfactualTables audit_counterfactuals(Run::Impl& run, const std::vector<std::size_t>& rows,
                                           const MapRegions& regions, const TranslatedImage& image);

/// What the control that must fail is given: every image another patient's (rows_of_other_patients), which can find
/// nothing but where findings usually are.
struct OthersMaps {
  at::Tensor maps;    ///< [images, maps, S, S]; undefined where a patient has more than half of the images
  at::Tensor images;  ///< [images, maps, S, S]: pixels and the change of the other's; undefined like the images given
};

/// Of maps and translated images [images, maps, S, S] (undefined: none) of pixels [images, 1, S, S]; `patients` by
/// image.
OthersMaps maps_of_other_patients(const std::vector<std::int64_t>& patients, const at::Tensor& pixels,
                                  const at::Tensor& maps, const at::Tensor& images);

/// Baselines that know nothing of an image, or only how unusual it is, or only what a classifier rests on.

/// Mean regions in the labelled training images, the same for every image.
struct MeanRegions {
  at::Tensor maps;                ///< [images, maps, S, S], zero for a map without regions
  std::vector<at::Tensor> boxes;  ///< [images, 1, S, S] of every box group of a truth; undefined without such boxes
};

MeanRegions mean_regions(Run::Impl& run, const MapTruth& truth);
/// |x - mean healthy labelled training image| of rows, for every map [rows, maps, S, S]; undefined without a healthy
/// one.
at::Tensor mean_healthy_distance(Run::Impl& run, const std::vector<std::size_t>& rows);
/// Occlusion maps of a classifier, images [N, 1, S, S] -> [N, maps, S, S], by its logits of the findings [N, F], of a
/// map's findings the highest; may be called by as many threads as `logits`.
std::function<at::Tensor(const at::Tensor&)> occlusion_of(Run::Impl& run,
                                                          std::function<at::Tensor(const at::Tensor&)> logits);
/// Those of the noise-aware classifier on clean images; may be called by several threads.
std::function<at::Tensor(const at::Tensor&)> guide_occlusion(Run::Impl& run);

}  // namespace daug
