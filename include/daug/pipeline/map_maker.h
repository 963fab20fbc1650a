#pragma once
/// @file
/// The heatmaps of a run, for the run's own images and for any others.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/data/vocabulary.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/image/preprocess.h"
#include "daug/pipeline/run_config.h"

namespace daug {

class NoiseAwareClassifier;
class DenoiserUNet;

/// Maps of B images, one a group of findings (G). Undefined: not asked for.
struct ImageMaps {
  at::Tensor difference;        ///< [B, G, S, S] |x - x'|, smoothed, >= 0; scaled as maps.normalisation says
  at::Tensor evidence;          ///< [B, G, S, S] signed evidence, smoothed
  at::Tensor translated;        ///< [B, G, S, S] the images away from each group
  at::Tensor score_difference;  ///< [B, G, S, S] smoothed, >= 0; a control
  at::Tensor no_target;         ///< [B, 1, S, S] |x - round trip|, smoothed and scaled likewise; a control
  at::Tensor reconstruction;    ///< [B, 1, S, S] the round trip: encoded, then decoded without a target
  at::Tensor residual;          ///< [B] mean |x - round trip|, see round_trip_residual
};

/// Makes maps as the settings named `maps` of a run say. Immutable; `make` may run on several threads.
class MapMaker {
 public:
  /// From the folder of a run whose translator (and guide, where classifiers guide) is trained. Reads config.json, the
  /// weights and their metadata, and the vocabulary file that the run named, if any. Maps are computed on the device
  /// called `device` (device_called), whatever the run was made on. Throws kNotFound, kFormat, kMismatch when the
  /// weights are of another network than config.json describes, or the guide's of other findings or another noise
  /// schedule than the translator's, and as device_called.
  static MapMaker load(const std::string& run_folder, const std::string& device = "cpu");

  /// From networks at hand, on whose device (one for both) maps are computed. `guide` may be null unless maps.guidance
  /// is "classifier" or maps.add_classifier is set; `guide_findings` names what its logits stand for, in order. For a
  /// maps.precision other than "float32" copies of the networks compute; x and maps are float32 all the same. Throws
  /// kInvalidArgument, also for a guide without names and for a network of another number of findings than the
  /// vocabulary's, and kMismatch unless the guide's are the vocabulary's in the same order.
  MapMaker(const RunConfig& config, const Vocabulary& vocabulary, const DenoiserUNet& network,
           const NoiseAwareClassifier* guide, const std::vector<std::string>& guide_findings = {});
  /// Networks that others hold stay.
  ~MapMaker();
  /// Takes the other's place, which may only be destroyed then.
  MapMaker(MapMaker&&) noexcept;

  /// Maps of x [B, 1, S, S] in [-1, 1], on the CPU wherever x and the networks are. Network calls that do not fit into
  /// a device's memory are halved until they do; LibTorch's warning handler is told once. `items` are ids that fix the
  /// noise of each image's evidence, so that its maps depend on the batch and on LibTorch's threads in rounding alone;
  /// called for one image at a time on one thread, not at all.
  /// With `controls` everything is made, else all but the controls; without `round_trip` as well neither reconstruction
  /// nor residual, for whoever makes maps in bulk: they take a decoding of their own, one an image whatever the number
  /// of maps, as no estimate on the way to a target serves it. Throws kInvalidArgument, before any work, for images as
  /// translate does and for another number of items, else what translate throws.
  ImageMaps make(const at::Tensor& x, const std::vector<std::uint64_t>& items, bool controls,
                 const StopToken& stop = {}, bool round_trip = true) const;

  /// What maps of a kind, "difference" or "evidence", are like among the run's healthy images, one target a group: what
  /// turns maps of `make` into p-values and calibrated ones (MapCalibration), wherever the networks are. Read from the
  /// run folder, where the stage of the maps fitted it. Nothing where it did not, as healthy images were too few, where
  /// an older version did, which did not say of which maps it is, and for networks at hand: fit one on maps of healthy
  /// images then. Throws kInvalidArgument for another kind, kMismatch for one of maps made otherwise than here (with
  /// other settings, groups or networks), and as MapCalibration::from_file and read_safetensors.
  std::optional<MapCalibration> calibration(const std::string& kind) const;

  /// The groups of findings, in map order.
  const FindingGroups& groups() const;
  /// How a picture becomes x.
  const PreprocessOptions& preprocess() const;
  /// Denoiser evaluations an image, for difference maps without the round trip.
  std::int64_t difference_evaluations() const;
  /// Denoiser evaluations an image, for evidence maps.
  std::int64_t evidence_evaluations() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace daug
