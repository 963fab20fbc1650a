#include "localisation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "daug/core/error.h"
#include "daug/heatmap/occlusion.h"
#include "daug/metrics/localization.h"
#include "daug/metrics/patients.h"
#include "measurements.h"

namespace daug {

std::optional<std::vector<std::uint8_t>> map_region(Run::Impl& run, std::size_t row, std::size_t map) {
  const RunData& data = run.data();
  if (data.group_state(row, map) <= 0) return std::nullopt;
  const auto original = data.images.original[row];
  std::optional<std::vector<std::uint8_t>> all;
  const auto join = [&](const std::optional<std::vector<std::uint8_t>>& region) {
    if (!region) return;
    if (!all) all.emplace(region->size(), std::uint8_t{0});
    std::transform(region->begin(), region->end(), all->begin(), all->begin(), std::bit_or<std::uint8_t>());
  };
  for (const std::size_t f : data.members(map))
    if (data.state(row, f) > 0)
      join(finding_region(data.cohort, data.images.study[row], f, original, run.preprocess()));
  join(box_region(data.study(row), data.groups[map].name, original, run.preprocess()));
  return all;
}

bool MapRegions::any() const {
  return std::any_of(masks.begin(), masks.end(), [](const auto& mask) { return mask.has_value(); });
}

MapRegions map_regions(Run::Impl& run, const std::vector<std::size_t>& rows) {
  MapRegions regions{rows.size(), run.data().maps(), {}};
  for (const std::size_t row : rows)
    for (std::size_t g = 0; g < regions.maps; ++g) regions.masks.push_back(map_region(run, row, g));
  return regions;
}

std::optional<std::vector<float>> map_counterfactual(Run::Impl& run, std::size_t row, std::size_t map) {
  const RunData& data = run.data();
  std::vector<std::size_t> positive;
  for (const std::size_t f : data.members(map))
    if (data.state(row, f) > 0) positive.push_back(f);
  if (positive.size() != 1) return std::nullopt;
  const std::size_t study = data.images.study[row];
  if (auto truth = load_counterfactual(data.cohort, study, positive[0], run.preprocess())) return truth;
  // An image from which nothing else was taken away lacks this finding alone.
  for (std::size_t f = 0; f < data.findings(); ++f)
    if (f != positive[0] && data.state(row, f) >= 0) return std::nullopt;
  for (const LabelState state : data.study(row).other_labels)
    if (const LabelTarget label = data.policies.common.apply(state); label.mask <= 0 || label.target > 0)
      return std::nullopt;
  return load_healthy(data.cohort, study, run.preprocess());
}

std::vector<BoxGroup> box_groups(Run::Impl& run) {
  std::vector<BoxGroup> groups;
  for (const auto& [name, members] : parse_box_groups(run.config.evaluate.box_groups)) {
    BoxGroup group{name, {}};
    for (const auto& member : members) {
      const auto& maps = run.data().groups;
      const auto found = std::find_if(maps.begin(), maps.end(), [&](const auto& map) { return map.name == member; });
      if (found == maps.end())
        fail(ErrorCode::kNotFound, "daug::Run", "evaluate.box_groups", "names of maps", "'" + member + "'");
      group.maps.push_back(found - maps.begin());
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

namespace {

/// The mean of what `region_of` gives for the labelled training images that it gives something for [S, S]; undefined
/// without any.
template <class RegionOf>
at::Tensor mean_region(Run::Impl& run, const RegionOf& region_of) {
  const auto size = run.config.size;
  at::Tensor sum = at::zeros({size, size});
  std::int64_t count = 0;
  for (const std::size_t row : run.data().labelled) {
    std::optional<std::vector<std::uint8_t>> region = region_of(row);
    if (!region) continue;
    sum += at::from_blob(region->data(), {size, size}, at::kByte);
    ++count;
  }
  return count > 0 ? sum / count : at::Tensor();
}

std::optional<std::vector<std::uint8_t>> boxes_of(Run::Impl& run, const std::string& name, std::size_t row) {
  return box_region(run.data().study(row), name, run.data().images.original[row], run.preprocess());
}

RetrievalValues nothing_for(const MapRegions& regions) {
  return {regions.images, regions.maps, std::vector<double>(regions.images * regions.maps, kNothing)};
}

/// The middle of a map's own range.
double half_height(ArrayView<float> map) {
  const auto [low, high] = std::minmax_element(map.begin(), map.end());
  return (static_cast<double>(*low) + *high) / 2;
}

}  // namespace

MapTruth map_truth(Run::Impl& run, const std::vector<std::size_t>& rows) {
  MapTruth truth{map_regions(run, rows), {}};
  for (auto& group : box_groups(run)) {
    MapRegions regions{rows.size(), 1, {}};
    for (const std::size_t row : rows) regions.masks.push_back(boxes_of(run, group.name, row));
    if (regions.any()) truth.boxes.emplace_back(std::move(group), std::move(regions));
  }
  return truth;
}

bool MapTruth::any(std::size_t image) const {
  const auto has = [image](const MapRegions& of) {
    const auto first = of.masks.begin() + static_cast<std::ptrdiff_t>(image * of.maps);
    return std::any_of(first, first + static_cast<std::ptrdiff_t>(of.maps),
                       [](const auto& mask) { return mask.has_value(); });
  };
  return has(regions) || std::any_of(boxes.begin(), boxes.end(), [&](const auto& of) { return has(of.second); });
}

std::vector<std::size_t> marked_first(Run::Impl& run, const std::vector<std::size_t>& rows, std::size_t most) {
  const MapTruth truth = map_truth(run, rows);
  std::vector<std::size_t> chosen;
  for (const bool marked : {true, false})
    for (std::size_t i = 0; i < rows.size() && chosen.size() < most; ++i)
      if (truth.any(i) == marked) chosen.push_back(rows[i]);
  return chosen;
}

LocalisationTables localise(const at::Tensor& maps, const MapRegions& regions) {
  const std::size_t area = static_cast<std::size_t>(maps.size(2) * maps.size(3));
  const RetrievalValues empty = nothing_for(regions);
  LocalisationTables tables{empty, empty, empty, empty, empty};
  const auto* values = maps.data_ptr<float>();
  for (std::size_t k = 0; k < regions.masks.size(); ++k) {
    if (!regions.masks[k]) continue;
    const ArrayView<float> map(values + k * area, area);
    const ArrayView<std::uint8_t> mask(*regions.masks[k]);
    tables.auroc.values[k] = pixel_auroc(map, mask).value_or(kNothing);
    tables.ap.values[k] = pixel_average_precision(map, mask).value_or(kNothing);
    tables.pointing.values[k] = pointing_game(map, mask).value_or(kNothing);
    if (const auto best = best_overlap(map, mask)) tables.dice.values[k] = best->overlap.dice;
    if (const auto half = overlap_at_threshold(map, mask, half_height(map))) tables.iou.values[k] = half->iou;
  }
  return tables;
}

std::vector<at::Tensor> maps_of_boxes(const at::Tensor& maps, const MapTruth& truth) {
  std::vector<at::Tensor> highest;
  for (const auto& [group, regions] : truth.boxes)
    highest.push_back(maps.index_select(1, at::tensor(group.maps, at::kLong)).amax(1, true).contiguous());
  return highest;
}

LocalisedMaps localise(const at::Tensor& maps, const MapTruth& truth, const std::vector<at::Tensor>& of_boxes) {
  if (of_boxes.empty() && !truth.boxes.empty()) return localise(maps, truth, maps_of_boxes(maps, truth));
  LocalisedMaps found;
  if (truth.regions.any()) found.findings = localise(maps.contiguous(), truth.regions);
  for (std::size_t b = 0; b < truth.boxes.size(); ++b) {
    const auto& [group, regions] = truth.boxes[b];
    if (of_boxes[b].defined()) found.boxes.emplace_back(group.name, localise(of_boxes[b].contiguous(), regions));
  }
  return found;
}

std::vector<FrocFinding> map_detections(const at::Tensor& maps, const MapRegions& regions,
                                        const std::function<bool(std::size_t, std::size_t)>& normal) {
  const auto height = static_cast<std::size_t>(maps.size(2)), width = static_cast<std::size_t>(maps.size(3));
  const auto* values = maps.const_data_ptr<float>();
  const std::vector<std::uint8_t> nowhere(height * width, 0);
  std::vector<FrocFinding> findings(regions.maps);
  for (std::size_t k = 0; k < regions.masks.size(); ++k) {
    const std::size_t image = k / regions.maps, map = k % regions.maps;
    const auto& mask = regions.masks[k];
    const bool lesions = mask && std::any_of(mask->begin(), mask->end(), [](std::uint8_t value) { return value != 0; });
    if (!lesions && (mask || !normal(image, map))) continue;
    const ArrayView<float> pixels(values + k * height * width, height * width);
    const auto candidates = map_candidates(pixels, height, width, half_height(pixels));
    findings[map].images.push_back(match_mask(candidates, lesions ? *mask : nowhere, height, width));
    findings[map].rows.push_back(image);
  }
  return findings;
}

std::vector<FrocFinding> detections_of(const std::vector<FrocFinding>& findings,
                                       const std::vector<std::size_t>& images) {
  std::map<std::size_t, std::size_t> place;
  for (std::size_t i = 0; i < images.size(); ++i) place.emplace(images[i], i);
  std::vector<FrocFinding> some(findings.size());
  for (std::size_t f = 0; f < findings.size(); ++f)
    for (std::size_t i = 0; i < findings[f].rows.size(); ++i)
      if (const auto found = place.find(findings[f].rows[i]); found != place.end()) {
        some[f].images.push_back(findings[f].images[i]);
        some[f].rows.push_back(found->second);
      }
  return some;
}

std::vector<std::array<double, 2>> mean_froc(const std::vector<FrocFinding>& findings) {
  std::vector<FrocCurve> curves;
  double most = 0;
  for (const FrocFinding& finding : findings)
    if (auto curve = froc_curve(finding.images)) {
      most = std::max(most, curve->false_positives.back());
      curves.push_back(std::move(*curve));
    }
  std::vector<std::array<double, 2>> points;
  if (curves.empty()) return points;
  constexpr int kParts = 16, kMost = 8;
  for (int part = 0; part <= kParts * kMost; ++part) {
    const double rate = static_cast<double>(part) / kParts;
    double sum = 0;
    for (const FrocCurve& curve : curves) sum += sensitivity_at_false_positives(curve, rate);
    points.push_back({rate, sum / static_cast<double>(curves.size())});
    if (rate >= most) break;
  }
  return points;
}

CounterfactualTables audit_counterfactuals(Run::Impl& run, const std::vector<std::size_t>& rows,
                                           const MapRegions& regions, const TranslatedImage& image) {
  const RunData& data = run.data();
  const std::size_t area = data.images.pixels_per_image();
  CounterfactualTables tables{nothing_for(regions), nothing_for(regions), nothing_for(regions)};
  for (std::size_t k = 0; k < regions.masks.size(); ++k) {
    if (!regions.masks[k]) continue;
    const std::size_t n = k / regions.maps, map = k % regions.maps;
    const ArrayView<float> input(data.images.image(rows[n]), area), ours(image(n, map), area);
    const ArrayView<std::uint8_t> mask(*regions.masks[k]);
    if (const auto change = outside_mask_change(ours, input, mask)) tables.outside_change.values[k] = *change;
    const auto truth = map_counterfactual(run, rows[n], map);
    if (!truth) continue;
    if (const auto far = outside_mask_change(ours, *truth, mask)) tables.outside_distance.values[k] = *far;
    if (const auto left = in_mask_distance_ratio(ours, input, *truth, mask)) tables.in_mask_ratio.values[k] = *left;
  }
  return tables;
}

OthersMaps maps_of_other_patients(const std::vector<std::int64_t>& patients, const at::Tensor& pixels,
                                  const at::Tensor& maps, const at::Tensor& images) {
  const std::vector<std::size_t> others = rows_of_other_patients(patients);
  if (others.empty()) return {};
  OthersMaps wrong{take(maps, others), {}};
  if (images.defined()) wrong.images = (pixels + take(images - pixels, others)).contiguous();
  return wrong;
}

MeanRegions mean_regions(Run::Impl& run, const MapTruth& truth) {
  const auto images = static_cast<std::int64_t>(truth.regions.images),
             maps = static_cast<std::int64_t>(run.data().maps());
  const at::Tensor masks = at::zeros({maps, run.config.size, run.config.size});
  for (std::int64_t g = 0; g < maps; ++g) {
    const at::Tensor mean =
        mean_region(run, [&](std::size_t row) { return map_region(run, row, static_cast<std::size_t>(g)); });
    if (mean.defined()) masks[g].copy_(mean);
  }
  MeanRegions result{masks.unsqueeze(0).expand({images, -1, -1, -1}), {}};
  for (const auto& [group, regions] : truth.boxes) {
    const std::string& name = group.name;
    const at::Tensor mean = mean_region(run, [&](std::size_t row) { return boxes_of(run, name, row); });
    result.boxes.push_back(mean.defined() ? mean.expand({images, 1, -1, -1}) : mean);
  }
  return result;
}

at::Tensor mean_healthy_distance(Run::Impl& run, const std::vector<std::size_t>& rows) {
  const RunData& data = run.data();
  const std::vector<std::size_t> healthy = data.healthy(data.labelled);
  if (healthy.empty()) return {};
  const at::Tensor distance = (run.images(rows) - run.images(healthy).mean(0, true)).abs();
  return distance.expand({-1, static_cast<std::int64_t>(data.maps()), -1, -1});
}

std::function<at::Tensor(const at::Tensor&)> occlusion_of(Run::Impl& run,
                                                          std::function<at::Tensor(const at::Tensor&)> logits) {
  OcclusionOptions options;
  options.window = run.config.size / 4;
  options.stride = run.config.size / 8;
  const ImageScores scores = [&data = run.data(), logits = std::move(logits)](const at::Tensor& images) {
    const at::Tensor findings = logits(images);
    std::vector<at::Tensor> groups;
    for (std::size_t g = 0; g < data.maps(); ++g) {
      const auto members = data.members(g);
      const std::vector<std::int64_t> columns(members.begin(), members.end());
      groups.push_back(findings.index_select(1, at::tensor(columns, at::kLong)).amax(1));
    }
    return at::stack(groups, 1);
  };
  return [scores, options](const at::Tensor& images) { return occlusion_maps(images, scores, options); };
}

std::function<at::Tensor(const at::Tensor&)> guide_occlusion(Run::Impl& run) {
  return occlusion_of(run, [&run, classifier = run.load_guide()](const at::Tensor& images) mutable {
    return run.guide_logits(classifier, images);
  });
}

}  // namespace daug
