#pragma once
// What a run keeps of how its maps of healthy images are.

#include <optional>
#include <string>

#include "daug/data/labels.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/pipeline/run_config.h"

namespace daug {

/// Kinds of maps whose null distribution a run keeps.
inline constexpr const char* kCalibratedKinds[] = {"difference", "evidence"};
/// The name of the file in the run's folder that has it.
std::string calibration_file(const std::string& kind);
/// Of all that decides which maps a MapMaker makes of an image, so that a calibration can tell whether it is of such
/// maps: settings, groups, and the fingerprints in the files of the translator and of the guide ("": none guides).
std::string maps_fingerprint(const RunConfig& config, const FindingGroups& groups, const std::string& translator,
                             const std::string& guide);

/// The calibration of a kind of maps that a run folder has, for maps of the fingerprint `of_maps`. `stage` is the
/// fingerprint of the stage that is to have fitted it; "": not known, as without the run's data. Nothing where there is
/// no file, and for one of an older version that does not say of which maps it is, unless the stage's fingerprint does.
/// Throws kMismatch in the name of `function` for one of other maps, in daug::Run's for one of another stage, and as
/// read_safetensors and MapCalibration::from_file.
std::optional<MapCalibration> read_calibration(const char* function, const std::string& run_folder,
                                               const std::string& kind, const std::string& of_maps,
                                               const std::string& stage);

}  // namespace daug
