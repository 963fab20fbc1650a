#pragma once
// How a run's settings become the options of the library's parts; shared by the stages and by whoever uses a finished
// run.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daug/data/labels.h"
#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "daug/heatmap/maps.h"
#include "daug/image/preprocess.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "daug/pipeline/run_config.h"
#include "daug/train/process_group.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/denoising_loss.h"
#include "daug/translator/guidance.h"
#include "daug/translator/noise_aware_classifier.h"
#include "daug/translator/noise_schedule.h"

namespace daug {

/// Shares of --budget that the trainings get, the encoders' for all arms together. The rest, .3, is left for what a
/// budget does not scale, above all maps and evaluation.
struct BudgetShares {
  double translator = 0.45;
  double guide = 0.05;
  double encoders = 0.2;
};
constexpr BudgetShares kBudgetShares;

PreprocessOptions preprocess_options(const RunConfig& config);
NoiseSchedule noise_schedule(const RunConfig& config);
/// What the denoiser outputs and is trained on. Throws kInvalidArgument for unknown names.
DenoisingLossOptions denoising_loss_options(const RunConfig& config);
DenoiserUNetOptions denoiser_network(const RunConfig& config, std::int64_t findings);
NoiseAwareClassifierOptions guide_network(const RunConfig& config, std::int64_t findings);
/// Whether a classifier guides the maps, alone or beside another kind of guidance. Throws for an unknown kind.
bool guided_by_classifier(const RunConfig& config);
/// Bytes that a network call of the maps may hold; 0: not bounded.
std::int64_t memory_budget(const RunConfig& config);
EvidenceOptions evidence_options(const RunConfig& config);
/// The image tower of the settings, to be trained from scratch.
ImageEncoderOptions image_tower(const RunConfig& config);
/// The text tower beside it.
TextEncoderOptions text_tower(const RunConfig& config);
/// The processes that train the encoders together.
ProcessGroupOptions process_group_options(const RunConfig& config);
/// What encoder.class_form names.
ClassForm class_form(const RunConfig& config);
/// The setting's pooling in place of a convolutional network's own.
ImagePooling image_pooling(const std::string& setting, ImagePooling own);

/// One translation a map: away from its findings.
std::vector<Target> map_targets(const FindingGroups& groups);
/// Conditions [maps, F] under which each map's findings are present and nothing else is known.
at::Tensor map_conditions(const FindingGroups& groups, const std::vector<std::string>& findings);

/// Deviation in pixels of the maps' blur. It is given for 32 pixels, so that it covers the same anatomy at any size.
double map_blur(const RunConfig& config);

/// Threads that call networks side by side: the run's on the CPU, one on a device, which does one thing at a time.
std::int64_t network_threads(const RunConfig& config);

/// The most workers, up to network_threads, that divide a batch.
std::int64_t worker_count(const RunConfig& config, std::int64_t batch_size);

/// Makes a network ready for use alone: evaluation mode, no gradients, on its device.
void freeze(torch::nn::Module& network, c10::Device device = c10::DeviceType::CPU);

}  // namespace daug
