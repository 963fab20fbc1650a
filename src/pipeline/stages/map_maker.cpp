#include "daug/pipeline/map_maker.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <iterator>

#include "calibration_files.h"
#include "daug/backend/cuda.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/heatmap/maps.h"
#include "daug/io/weights.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/noise_aware_classifier.h"
#include "daug/translator/translation.h"
#include "io/fillable.h"
#include "pipeline/settings/stage_options.h"
#include "translator/unet_values.h"

namespace daug {

namespace {

TranslatorOptions translator_options(const RunConfig& config) {
  TranslatorOptions options;
  options.level = config.maps.level;
  options.steps = config.maps.steps;
  options.solver = make_solver(config.maps.solver, config.maps.evaluations, config.maps.tolerance);
  options.memory_budget = memory_budget(config);
  options.guidance.kind = guidance_kind(config.maps.guidance);
  options.guidance.weight = config.maps.weight;
  if (guided_by_classifier(config)) options.guidance.classifier_scale = config.maps.classifier_scale;
  options.guidance.lowest_level = config.maps.lowest_level;
  options.guidance.highest_level = config.maps.highest_level;
  return options;
}

/// The maps where all that is kept lies.
ImageMaps on_cpu(ImageMaps maps) {
  for (at::Tensor* tensor : {&maps.difference, &maps.evidence, &maps.translated, &maps.score_difference,
                             &maps.no_target, &maps.reconstruction, &maps.residual})
    if (tensor->defined()) *tensor = tensor->to(at::kCPU);
  return maps;
}

/// The value under a key of a file's metadata, "" where it has none.
std::string told_by(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata.find(key);
  return found == file.metadata.end() ? std::string() : found->second;
}

/// The value under a key of a weights file's metadata.
const std::string& metadata_of(const SafetensorsFile& file, const std::string& path, const char* key) {
  const auto found = file.metadata.find(key);
  if (found == file.metadata.end())
    fail(ErrorCode::kFormat, "daug::MapMaker::load", path, detail::concat("'", key, "' in the metadata"), "none");
  return found->second;
}

}  // namespace

struct MapMaker::Impl {
  FindingGroups groups;
  PreprocessOptions preprocess;
  NoiseSchedule schedule;
  std::shared_ptr<const NoisePredictor> predictor;
  DiffusionTranslator translator;
  std::vector<Target> targets;
  at::Tensor present;  ///< [G, F] conditions
  EvidenceOptions evidence;
  EncoderMapOptions smoothing;
  bool reference;          ///< maps.normalisation
  c10::Device device;      ///< the networks'
  std::string run_folder;  ///< "": networks at hand
  std::string made_as;     ///< maps_fingerprint

  Impl(const RunConfig& config, const Vocabulary& vocabulary, const DenoiserUNet& network,
       const NoiseAwareClassifier* guide, const std::vector<std::string>& guide_findings)
      : groups(vocabulary.groups),
        preprocess(preprocess_options(config)),
        schedule(noise_schedule(config)),
        predictor(make_noise_predictor(network, schedule, prediction(config.diffusion.prediction), {},
                                       network_precision(config.maps.precision))),
        translator(predictor, schedule, vocabulary.findings, translator_options(config),
                   guide ? make_guidance_classifier(*guide, schedule, GuidanceHead::kSigmoid, guide_findings,
                                                    network_precision(config.maps.precision))
                         : nullptr),
        targets(map_targets(groups)),
        present(map_conditions(groups, vocabulary.findings)),
        evidence(evidence_options(config)),
        reference(config.maps.normalisation == "reference"),
        device(network->parameters().front().device()) {
    smoothing.sigma = map_blur(config);
    evidence.validate(schedule);
    (void)predictor->prepared(present);
  }
};

MapMaker::MapMaker(const RunConfig& config, const Vocabulary& vocabulary, const DenoiserUNet& network,
                   const NoiseAwareClassifier* guide, const std::vector<std::string>& guide_findings) {
  config.validate();
  vocabulary.validate();
  require(guide == nullptr || !guide_findings.empty(), "daug::MapMaker", "guide_findings",
          "a name for each of the guide's logits", "none");
  impl_ = std::make_unique<Impl>(config, vocabulary, network, guide, guide_findings);
}

MapMaker::~MapMaker() = default;
MapMaker::MapMaker(MapMaker&&) noexcept = default;

MapMaker MapMaker::load(const std::string& run_folder, const std::string& device_name) {
  const c10::Device device = device_called(device_name);
  RunConfig config = read_config(run_folder + "/config.json");
  const std::string path = run_folder + "/translator.safetensors";
  const SafetensorsFile weights = read_safetensors(path);
  // A later run may have been given other settings and stopped before it trained with them.
  config.diffusion.prediction = metadata_of(weights, path, "prediction");
  config.diffusion.schedule = metadata_of(weights, path, "schedule");
  Vocabulary vocabulary;
  vocabulary.findings = parse_names(metadata_of(weights, path, "findings"));
  vocabulary.groups = config.labels.vocabulary.empty() ? one_group_per_finding(vocabulary.findings)
                                                       : read_vocabulary(config.labels.vocabulary).groups;
  const auto count = static_cast<std::int64_t>(vocabulary.findings.size());
  const DenoiserUNetOptions options = denoiser_network(config, count);
  detail::require_fillable(detail::values_of(options), weights, "daug::MapMaker::load", path);
  DenoiserUNet network(options);
  load_weights(*network, weights, path);
  freeze(*network, device);
  const auto of_run = [&](MapMaker maker, const std::string& guide_made_by) {
    maker.impl_->run_folder = run_folder;
    maker.impl_->made_as = maps_fingerprint(config, vocabulary.groups, told_by(weights, "fingerprint"), guide_made_by);
    return maker;
  };
  if (!guided_by_classifier(config)) return of_run({config, vocabulary, network, nullptr}, "");
  const std::string guide_path = run_folder + "/guide.safetensors";
  const SafetensorsFile guide_weights = read_safetensors(guide_path);
  const std::string& findings = metadata_of(weights, path, "findings");
  const std::string& guided = metadata_of(guide_weights, guide_path, "findings");
  if (guided != findings)
    fail(ErrorCode::kMismatch, "daug::MapMaker::load", guide_path, "the translator's findings " + findings, guided);
  if (const std::string schedule = told_by(guide_weights, "schedule");  // which older guides do not say
      !schedule.empty() && schedule != config.diffusion.schedule)
    fail(ErrorCode::kMismatch, "daug::MapMaker::load", guide_path,
         "the translator's noise schedule " + config.diffusion.schedule, schedule);
  const NoiseAwareClassifierOptions guide_options = guide_network(config, count);
  detail::require_fillable(detail::values_of(guide_options), guide_weights, "daug::MapMaker::load", guide_path);
  NoiseAwareClassifier guide(guide_options);
  load_weights(*guide, guide_weights, guide_path);
  freeze(*guide, device);
  return of_run({config, vocabulary, network, &guide, parse_names(guided)}, told_by(guide_weights, "fingerprint"));
}

ImageMaps MapMaker::make(const at::Tensor& x, const std::vector<std::uint64_t>& items, bool controls,
                         const StopToken& stop, bool round_trip) const {
  c10::InferenceMode inference;
  constexpr const char* kFunction = "daug::MapMaker::make";
  const Impl& m = *impl_;
  require_images(*m.predictor, x, kFunction);
  require(static_cast<std::int64_t>(items.size()) == x.size(0), kFunction, "items", x.size(0), items.size());
  const at::Tensor images = x.to(m.device);
  m.translator.require_translatable(images, m.targets);
  const RunControl control{{}, stop};
  const auto smooth = [&](const at::Tensor& map) { return encoder_maps(map, m.smoothing); };
  const auto changes = [&](const at::Tensor& others) {
    return m.reference ? smooth(reference_difference_map(images, others)) : encoder_maps(images, others, m.smoothing);
  };
  ImageMaps maps;
  const at::Tensor latent = m.translator.encode(images, {}, control);
  const at::Tensor translated = m.translator.decode(latent, m.targets, {}, control);
  maps.difference = changes(translated);
  maps.translated = translated.squeeze(2);
  if (controls || round_trip) {
    maps.reconstruction = m.translator.reconstruct(latent, {}, control);
    maps.residual = round_trip_residual(images, maps.reconstruction);
  }
  if (!controls) {
    maps.evidence = smooth(evidence_maps(*m.predictor, m.schedule, images, items, m.present, m.evidence));
    return on_cpu(maps);
  }
  const at::Tensor both =
      evidence_and_score_difference_maps(*m.predictor, m.schedule, images, items, m.present, m.evidence);
  maps.evidence = smooth(both[0]);
  maps.score_difference = smooth(both[1]);
  maps.no_target = changes(maps.reconstruction.unsqueeze(1));
  return on_cpu(maps);
}

std::optional<MapCalibration> MapMaker::calibration(const std::string& kind) const {
  constexpr const char* kFunction = "daug::MapMaker::calibration";
  require(std::find(std::begin(kCalibratedKinds), std::end(kCalibratedKinds), kind) != std::end(kCalibratedKinds),
          kFunction, "kind", "\"difference\" or \"evidence\"", kind);
  if (impl_->run_folder.empty()) return std::nullopt;
  return read_calibration(kFunction, impl_->run_folder, kind, impl_->made_as, "");
}

const FindingGroups& MapMaker::groups() const { return impl_->groups; }
const PreprocessOptions& MapMaker::preprocess() const { return impl_->preprocess; }

std::int64_t MapMaker::difference_evaluations() const {
  return impl_->translator.calls_per_image(impl_->targets.size()).denoiser;
}

std::int64_t MapMaker::evidence_evaluations() const {
  return 2 * static_cast<std::int64_t>(impl_->groups.size() * impl_->evidence.levels.size()) * impl_->evidence.samples;
}

}  // namespace daug
