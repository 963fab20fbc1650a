#include "localisation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "daug/data/baselines.h"
#include "daug/metrics/localization.h"

namespace daug {

bool FindingRegions::any() const {
  return std::any_of(masks.begin(), masks.end(), [](const auto& mask) { return mask.has_value(); });
}

FindingRegions finding_regions(Run::Impl& run, const std::vector<std::size_t>& rows) {
  const RunData& data = run.data();
  FindingRegions regions{rows.size(), data.findings(), {}};
  const PreprocessOptions preprocess = run.preprocess();
  for (const std::size_t row : rows)
    for (std::size_t f = 0; f < regions.findings; ++f) {
      regions.masks.emplace_back();
      if (data.states[static_cast<std::int64_t>(row)][static_cast<std::int64_t>(f)].item<float>() > 0)
        regions.masks.back() =
            finding_region(data.cohort, data.images.study[row], f, data.images.original[row], preprocess);
    }
  return regions;
}

LocalisationTables localise(const at::Tensor& maps, const FindingRegions& regions) {
  const std::size_t area = static_cast<std::size_t>(maps.size(2) * maps.size(3));
  constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();
  const RetrievalValues empty = {regions.images, regions.findings,
                                 std::vector<double>(regions.images * regions.findings, kNothing)};
  LocalisationTables tables{empty, empty, empty, empty};
  const auto* values = maps.data_ptr<float>();
  for (std::size_t k = 0; k < regions.masks.size(); ++k) {
    if (!regions.masks[k]) continue;
    const ArrayView<float> map(values + k * area, area);
    const ArrayView<std::uint8_t> mask(*regions.masks[k]);
    tables.auroc.values[k] = pixel_auroc(map, mask).value_or(kNothing);
    tables.ap.values[k] = pixel_average_precision(map, mask).value_or(kNothing);
    tables.pointing.values[k] = pointing_game(map, mask).value_or(kNothing);
    if (const auto best = best_overlap(map, mask)) tables.dice.values[k] = best->overlap.dice;
  }
  return tables;
}

at::Tensor mean_masks(Run::Impl& run) {
  const RunData& data = run.data();
  const auto size = run.config.size;
  at::Tensor masks = at::zeros({static_cast<std::int64_t>(data.findings()), size, size});
  bool any = false;
  for (std::size_t f = 0; f < data.findings(); ++f) {
    try {
      const auto mask = mean_mask(data.cohort, data.images, data.labelled, f, run.preprocess());
      masks[static_cast<std::int64_t>(f)].copy_(at::tensor(at::ArrayRef<float>(mask)).view({size, size}));
      any = true;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNotFound) throw;  // else this finding has no training mask
    }
  }
  return any ? masks : at::Tensor();
}

}  // namespace daug
