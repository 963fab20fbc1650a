#pragma once
/// @file
/// What a file of UNet weights is, told from its names and shapes.

#include <string>
#include <vector>

#include "daug/io/weights.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"

namespace daug {

/// A network of guided-diffusion's family that fits a file.
struct UNetCheckpoint {
  bool is_classifier = false;              ///< which of the two option sets holds
  DenoiserUNetOptions denoiser;            ///< learned sigma when out_channels is twice in_channels
  NoiseAwareClassifierOptions classifier;  ///< out_channels logits
  std::vector<std::string> open;           ///< options that shapes do not tell, each with what was assumed
  WeightsReport report;                    ///< what of the file does not fit a network built with these options

  /// What both sets share, of the one that holds.
  const UNetOptions& options() const { return is_classifier ? static_cast<const UNetOptions&>(classifier) : denoiser; }
};

/// Reads the options of a DenoiserUNet or NoiseAwareClassifier off a file's names and shapes and compares the network
/// they make with all of the file. Throws kMismatch naming the key when the file is of no such network.
///
/// Heads, attention order, norm groups, timestep_scale and a denoiser's image size leave no trace in shapes: they are
/// listed as open.
UNetCheckpoint inspect_unet(const SafetensorsFile& file);

}  // namespace daug
