#pragma once
// Maps of test images against the masks or boxes of what they show.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "daug/metrics/retrieval.h"
#include "run_impl.h"

namespace daug {

/// Where the findings of some images are.
struct FindingRegions {
  std::size_t images = 0, findings = 0;
  std::vector<std::optional<std::vector<std::uint8_t>>> masks;  ///< [images, findings], of positive findings

  bool any() const;
};

/// The regions of rows, from masks or boxes.
FindingRegions finding_regions(Run::Impl& run, const std::vector<std::size_t>& rows);

/// One figure an image and finding; NaN where there is no region.
struct LocalisationTables {
  RetrievalValues auroc, ap, pointing, dice;
};

/// Maps [images, findings, S, S] (contiguous float32) against regions. Dice is the best over thresholds, an upper
/// bound.
LocalisationTables localise(const at::Tensor& maps, const FindingRegions& regions);

/// The mean training mask of every finding [findings, S, S], zero for one without masks; undefined when none has any.
at::Tensor mean_masks(Run::Impl& run);

}  // namespace daug
