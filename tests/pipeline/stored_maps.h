#pragma once
// The maps that a run keeps, by kind.

#include <cstdint>
#include <string>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/heatmap/heatmap_store.h"
#include "daug/io/safetensors.h"

namespace daug::test {

/// Maps of images of a cohort from one of a run's stores: for each kind ("evidence", ...) float32 [images, maps, H, W],
/// and "rows", the images' places in the cohort.
inline SafetensorsFile stored_maps(const std::string& store_path, const Cohort& cohort,
                                   const std::vector<std::size_t>& images) {
  const HeatmapLayout layout = read_heatmap_layout(store_path);
  const HeatmapStore store(store_path, layout.fingerprint);
  const std::size_t area = static_cast<std::size_t>(layout.height * layout.width);
  std::vector<std::pair<std::string, std::size_t>> kinds;  // maps of each, in order
  for (const auto& name : layout.names) {
    const std::string kind = name.substr(0, name.find('/'));
    if (kinds.empty() || kinds.back().first != kind) kinds.emplace_back(kind, 0);
    ++kinds.back().second;
  }
  std::vector<std::vector<float>> records;
  std::vector<std::int64_t> rows;
  for (const std::size_t image : images) {
    records.push_back(store.read(heatmap_key(cohort.studies[image].path)));
    rows.push_back(static_cast<std::int64_t>(image));
  }
  SafetensorsFile file;
  const auto count = static_cast<std::int64_t>(images.size());
  file.tensors.emplace("rows", Array::from(rows, {count}));
  std::size_t first = 0;
  for (const auto& [kind, maps] : kinds) {
    std::vector<float> values;
    for (const auto& record : records)
      values.insert(values.end(), record.data() + first * area, record.data() + (first + maps) * area);
    file.tensors.emplace(kind,
                         Array::from(values, {count, static_cast<std::int64_t>(maps), layout.height, layout.width}));
    first += maps;
  }
  return file;
}

/// Those of all test images of a run on its own phantoms, or on the cohort in `data`.
inline SafetensorsFile stored_maps(const std::string& run_folder, const std::string& data = "") {
  const Cohort cohort = read_cohort(data.empty() ? run_folder + "/phantoms" : data);
  return stored_maps(run_folder + "/heatmaps/tests.daugmaps", cohort, cohort.split_indices("test"));
}

}  // namespace daug::test
