#pragma once
// Options that several stages read off a run's settings in the same way.

#include <algorithm>

#include "daug/heatmap/maps.h"
#include "daug/pipeline/run_config.h"

namespace daug {

inline EvidenceOptions evidence_options(const RunConfig& config) {
  EvidenceOptions options;
  options.levels = parse_integers(config.maps.evidence_levels, "maps.evidence_levels");
  options.samples = config.maps.evidence_samples;
  options.seed = static_cast<std::uint64_t>(config.seed);
  return options;
}

/// Deviation in pixels of the maps' blur. It is given for 32 pixels, so that it covers the same anatomy at any size.
inline double map_blur(const RunConfig& config) {
  return config.maps.smoothing * static_cast<double>(config.size) / 32;
}

/// The most workers, up to the run's threads, that divide a batch.
inline std::int64_t worker_count(const RunConfig& config, std::int64_t batch_size) {
  std::int64_t workers = std::min(config.threads, batch_size);
  while (batch_size % workers) --workers;
  return workers;
}

}  // namespace daug
