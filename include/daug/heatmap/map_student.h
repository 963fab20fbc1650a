#pragma once
/// @file
/// Maps in one call: a small network that has learned what the full method answers, and a gate that knows when not to
/// ask it.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daug/heatmap/map_scaler.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_predictor.h"

namespace daug {

/// Settings of DenoisingGate.
struct DenoisingGateOptions {
  std::vector<std::int64_t> levels = {100, 250};  ///< noise levels averaged over, each in [1, schedule steps]
  double quantile = 0.99;                         ///< share of the fitted images that pass, in (0, 1]
  std::uint64_t seed = 0;                         ///< with the item id fixes the noise
  std::int64_t max_batch = 256;                   ///< largest batch handed to a network, the student's too, >= 1
  std::int64_t memory_budget = 0;                 ///< bytes of its activations, >= 0; 0: bounded by max_batch alone

  /// Throws kInvalidArgument naming the first option out of range.
  void validate(const NoiseSchedule& schedule) const;
};

/// Tells images the diffusion model knows from others by how well it finds known noise in them: the mean squared error
/// of the unconditional estimate, one evaluation a level. An image passes when its residual lies between those that cut
/// off half of 1 - quantile of the fitted images at either end: a blank image is denoised suspiciously well.
class DenoisingGate {
 public:
  /// Fits on images [N, C, H, W] (require_images), N >= 1, like those the student is trained on; items: one id an
  /// image. Throws kInvalidArgument, kMismatch for a predictor of another schedule, and kNumeric when a residual is not
  /// finite.
  static DenoisingGate fit(std::shared_ptr<const NoisePredictor> predictor, const NoiseSchedule& schedule,
                           const at::Tensor& x, const std::vector<std::uint64_t>& items,
                           const DenoisingGateOptions& options = {});

  /// The gate that `fit` made elsewhere, which lets residuals in [lowest, highest] through. Throws kInvalidArgument
  /// and kMismatch likewise.
  static DenoisingGate of(std::shared_ptr<const NoisePredictor> predictor, const NoiseSchedule& schedule,
                          const DenoisingGateOptions& options, double lowest, double highest);

  /// Residual [B] of images [B, C, H, W] (require_images), >= 0, in their dtype. Does not depend on the batch, up to
  /// rounding. Throws kInvalidArgument.
  at::Tensor residual(const at::Tensor& x, const std::vector<std::uint64_t>& items) const;
  /// bool [B]: which images pass.
  at::Tensor admits(const at::Tensor& x, const std::vector<std::uint64_t>& items) const;

  /// Least residual that passes.
  double lowest() const { return lowest_; }
  /// Largest residual that passes.
  double highest() const { return highest_; }
  /// As it was fitted with; one network evaluation an image for each of its levels.
  const DenoisingGateOptions& options() const { return options_; }

 private:
  DenoisingGate(std::shared_ptr<const NoisePredictor> predictor, NoiseSchedule schedule, DenoisingGateOptions options);

  std::shared_ptr<const NoisePredictor> predictor_;
  NoiseSchedule schedule_;
  DenoisingGateOptions options_;
  double lowest_ = 0, highest_ = 0;
};

/// What makes maps [B, K, H, W] of images in full.
using MapMethod = std::function<at::Tensor(const at::Tensor& x, const std::vector<std::uint64_t>& items)>;

/// Maps of a batch, and who made them.
struct StudentMaps {
  at::Tensor maps;      ///< [B, K, H, W], in the units of the full method
  at::Tensor admitted;  ///< bool [B]: by the student; the others are the full method's
};

/// An amortised map method: a UNet that is shown the image (at timestep 0, without a condition) and answers with all K
/// maps at once. Images that the gate does not admit go to the full method.
class MapStudent {
 public:
  /// network: out_channels = K; scaler: fitted on the maps it was trained on (see train_map_student). Puts the network
  /// into evaluation mode. Throws kInvalidArgument when the two differ in K.
  MapStudent(DenoiserUNet network, MapScaler scaler, DenoisingGate gate);

  /// The student's answer for every image, gate or no gate: [B, K, H, W] of x [B, C, H, W], without gradient. Checks x
  /// (require_images). Throws kNumeric naming the first image and target, counted from 0, whose map is not finite.
  at::Tensor answer(const at::Tensor& x) const;
  /// The student's answer where the gate admits it, else `full`'s, which is asked once for all others. Throws
  /// kInvalidArgument for images (require_images) and items that do not fit, before any network call, and for maps of
  /// another shape from `full`; before `full` is asked kNumeric as `answer`, for images that the gate admits alone. An
  /// image whose residual is not finite is not admitted.
  StudentMaps maps(const at::Tensor& x, const std::vector<std::uint64_t>& items, const MapMethod& full) const;

  /// Writes the student into one safetensors file, atomically: the network's weights, and in the metadata scaler, gate,
  /// image size, targets (one name a map) and the fingerprint of what made the maps. The gate's own network is not in
  /// it. Throws kInvalidArgument for another number of targets, and as save_weights.
  void save(const std::string& path, const std::vector<std::string>& targets, const std::string& fingerprint) const;

  /// Reads what `save` wrote; answers on the CPU with the same bits. `network` is the architecture as
  /// StudentTrainerOptions has it, with the images' channels; predictor and schedule are those the gate was fitted
  /// with. Throws kMismatch naming what differs for other targets, image size, fingerprint or architecture, kFormat for
  /// what is no student's file, and as read_safetensors.
  static MapStudent load(const std::string& path, DenoiserUNetOptions network, const std::vector<std::string>& targets,
                         const std::string& fingerprint, std::shared_ptr<const NoisePredictor> predictor,
                         const NoiseSchedule& schedule);

  /// What decides who answers.
  const DenoisingGate& gate() const { return gate_; }

 private:
  at::Tensor unchecked_answer(const at::Tensor& x) const;

  DenoiserUNet network_;
  MapScaler scaler_;
  DenoisingGate gate_;
};

}  // namespace daug
