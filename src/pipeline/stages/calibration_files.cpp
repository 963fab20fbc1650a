#include "calibration_files.h"

#include <filesystem>

#include "daug/core/error.h"
#include "daug/io/fingerprint.h"
#include "daug/io/safetensors.h"
#include "pipeline/run_impl.h"

namespace daug {

std::string calibration_file(const std::string& kind) { return "calibration_" + kind + ".safetensors"; }

std::string maps_fingerprint(const RunConfig& config, const FindingGroups& groups, const std::string& translator,
                             const std::string& guide) {
  Fingerprint fingerprint;
  fingerprint.add("settings", settings_fingerprint(config, {"maps."}));
  for (const auto& group : groups) {
    fingerprint.add("group", group.name);
    for (const auto& finding : group.findings) fingerprint.add("finding", finding);
  }
  return fingerprint.add("translator", translator).add("guide", guide).hex();
}

std::optional<MapCalibration> read_calibration(const char* function, const std::string& run_folder,
                                               const std::string& kind, const std::string& of_maps,
                                               const std::string& stage) {
  const std::string path = run_folder + "/" + calibration_file(kind);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const SafetensorsFile file = read_safetensors(path);
  if (!stage.empty()) require_metadata(file.metadata, path, "fingerprint", stage);
  const auto told = file.metadata.find("maps");
  if (told == file.metadata.end()) {
    if (stage.empty()) return std::nullopt;
  } else if (told->second != of_maps) {
    fail(ErrorCode::kMismatch, function, path, "one of maps " + of_maps + ", as these are",
         told->second + "; run stage 'heatmaps' with the settings in config.json");
  }
  return MapCalibration::from_file(file);
}

}  // namespace daug
