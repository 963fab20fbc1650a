// The stages that make the diffusion model, its guide and the maps.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <filesystem>
#include <limits>

#include "daug/io/weights.h"
#include "daug/pipeline/map_maker.h"
#include "run_impl.h"
#include "stage_options.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

/// Share of --budget that each training gets (the encoders get 0.2); the rest is for maps and evaluation.
constexpr double kTranslatorShare = 0.45, kGuideShare = 0.05;

/// Optimiser steps that fit into `seconds`, from the time of a few steps of the same training.
template <class TrainSteps>
std::int64_t steps_for(double seconds, const TrainSteps& train_steps) {
  constexpr std::int64_t kProbe = 6;
  train_steps(2);  // the first steps pay for allocations
  const auto start = std::chrono::steady_clock::now();
  train_steps(kProbe);
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::max<std::int64_t>(20, static_cast<std::int64_t>(seconds / elapsed * kProbe));
}

void write_history(const std::string& path, const TrainingHistory& history, const std::string& fingerprint) {
  SafetensorsFile file;
  file.metadata["fingerprint"] = fingerprint;
  file.tensors.emplace("loss", Array::from(history.loss, {static_cast<std::int64_t>(history.loss.size())}));
  write_safetensors(path, file);
}

[[noreturn]] void stopped(const std::string& stage) {
  throw Error(ErrorCode::kCancelled, "daug::Run: " + stage + ": stopped on request");
}

}  // namespace

std::int64_t Run::Impl::remembered(const std::string& name, const std::string& made_by,
                                   const std::function<std::int64_t()>& measure) const {
  const std::string file_path = path("stages/" + name + ".safetensors");
  if (fs::exists(file_path)) {
    const SafetensorsFile file = read_safetensors(file_path);
    const auto found = file.metadata.find("fingerprint");
    if (found != file.metadata.end() && found->second == made_by) return file.at("value").to_int64().at(0);
  }
  SafetensorsFile file;
  file.metadata["fingerprint"] = made_by;
  const std::int64_t value = measure();
  file.tensors.emplace("value", Array::from(std::vector<std::int64_t>{value}, {1}));
  write_safetensors(file_path, file);
  return value;
}

DenoiserTrainerOptions Run::Impl::denoiser_options() {
  const auto& d = config.diffusion;
  DenoiserTrainerOptions options;
  options.network = denoiser_network(config, static_cast<std::int64_t>(data().findings()));
  options.loss = denoising_loss_options(config);
  options.max_level = d.max_level;
  options.loss_aware_levels = d.loss_aware_levels;
  options.batch_size = d.batch;
  options.workers = worker_count(config, d.batch);
  options.finding_dropout = d.finding_dropout;
  options.condition_dropout = d.condition_dropout;
  options.labelled_share = d.labelled_share;
  options.seed = static_cast<std::uint64_t>(config.seed);
  options.optimizer.steps = d.steps;
  options.optimizer.learning_rate = d.learning_rate;
  options.optimizer.warmup_steps = 20;
  options.optimizer.weight_decay = 0;
  options.optimizer.ema_decay = d.ema;
  return options;
}

ClassifierTrainerOptions Run::Impl::guide_options() {
  const auto& g = config.guide;
  ClassifierTrainerOptions options;
  options.network = guide_network(config, static_cast<std::int64_t>(data().findings()));
  options.max_level = config.diffusion.max_level;
  options.batch_size = g.batch;
  options.workers = worker_count(config, g.batch);
  options.seed = static_cast<std::uint64_t>(config.seed) + 1;
  options.optimizer.steps = g.steps;
  options.optimizer.learning_rate = g.learning_rate;
  options.optimizer.warmup_steps = 10;
  options.optimizer.weight_decay = 0.01;
  return options;
}

void Run::Impl::train_translator() {
  const std::string made_by = fingerprint(Stage::kTranslator);
  const RunData& d = data();
  const at::Tensor images = take(d.pixels, d.train), states = take(d.training_states(), d.train);
  DenoiserTrainerOptions options = denoiser_options();
  if (config.budget > 0)
    options.optimizer.steps = remembered("translator_steps", made_by, [&] {
      return steps_for(config.budget * 60 * kTranslatorShare, [&](std::int64_t steps) {
        DenoiserTrainerOptions probe = options;
        probe.optimizer.steps = steps;
        train_denoiser(images, states, schedule(), probe);
      });
    });
  const auto per_epoch = static_cast<std::int64_t>(d.train.size()) / options.batch_size;
  options.optimizer.checkpoint_every = std::max<std::int64_t>(per_epoch, 1);
  options.optimizer.checkpoint = path("stages/translator_checkpoint.safetensors");
  options.optimizer.fingerprint = made_by;
  TrainingHistory history;
  const DenoiserUNet network =
      train_denoiser(images, states, schedule(), options, stage_control("train translator"), &history);
  if (!history.finished) stopped("translator");
  save_weights(path("translator.safetensors"), *network.ptr(),
               {{"format", "daug-denoiser-1"},
                {"fingerprint", made_by},
                {"findings", fmt::format("{}", fmt::join(d.cohort.findings, ","))},
                {"prediction", config.diffusion.prediction},
                {"schedule", config.diffusion.schedule}});
  write_history(path("stages/translator_history.safetensors"), history, made_by);
  fs::remove(options.optimizer.checkpoint);
}

void Run::Impl::train_guide() {
  const std::string made_by = fingerprint(Stage::kGuide);
  const RunData& d = data();
  const at::Tensor images = take(d.pixels, d.labelled), states = take(d.training_states(), d.labelled);
  ClassifierTrainerOptions options = guide_options();
  if (config.budget > 0)
    options.optimizer.steps = remembered("guide_steps", made_by, [&] {
      return steps_for(config.budget * 60 * kGuideShare, [&](std::int64_t steps) {
        ClassifierTrainerOptions probe = options;
        probe.optimizer.steps = steps;
        train_noise_aware_classifier(images, states, schedule(), probe);
      });
    });
  options.optimizer.checkpoint_every =
      std::max<std::int64_t>(static_cast<std::int64_t>(d.labelled.size()) / options.batch_size, 1);
  options.optimizer.checkpoint = path("stages/guide_checkpoint.safetensors");
  options.optimizer.fingerprint = made_by;
  TrainingHistory history;
  const NoiseAwareClassifier network =
      train_noise_aware_classifier(images, states, schedule(), options, stage_control("train guide"), &history);
  if (!history.finished) stopped("guide");
  save_weights(path("guide.safetensors"), *network.ptr(),
               {{"format", "daug-noise-aware-classifier-1"},
                {"fingerprint", made_by},
                {"findings", fmt::format("{}", fmt::join(d.cohort.findings, ","))}});
  write_history(path("stages/guide_history.safetensors"), history, made_by);
  fs::remove(options.optimizer.checkpoint);
}

DenoiserUNet Run::Impl::load_denoiser() {
  DenoiserUNet network(denoiser_options().network);
  const std::string file = path("translator.safetensors");
  require_metadata(load_weights(*network, file), file, "fingerprint", fingerprint(Stage::kTranslator));
  freeze(*network);
  return network;
}

NoiseAwareClassifier Run::Impl::load_guide() {
  NoiseAwareClassifier network(guide_options().network);
  const std::string file = path("guide.safetensors");
  require_metadata(load_weights(*network, file), file, "fingerprint", fingerprint(Stage::kGuide));
  freeze(*network);
  return network;
}

void Run::Impl::make_heatmaps() {
  const std::string made_by = fingerprint(Stage::kHeatmaps);
  const RunData& d = data();
  const DenoiserUNet network = load_denoiser();
  const auto guide = guided_by_classifier(config) ? std::make_unique<NoiseAwareClassifier>(load_guide()) : nullptr;
  const MapMaker maker(config, {d.cohort.findings, d.groups}, network, guide.get());

  std::vector<std::size_t> rows = d.test;
  rows.insert(rows.end(), d.val.begin(), d.val.end());
  rows.insert(rows.end(), d.encoder_train.begin(), d.encoder_train.end());
  constexpr std::int64_t kBlock = 10;
  fs::create_directories(path("heatmaps"));
  for_blocks(static_cast<std::int64_t>(rows.size()), kBlock, config.threads, control, "make heatmaps", "images",
             [&](std::int64_t begin, std::int64_t count) {
               const std::string part = path(fmt::format("heatmaps/{:06}.safetensors", begin));
               if (fs::exists(part)) {
                 const SafetensorsFile done = read_safetensors(part);
                 const auto found = done.metadata.find("fingerprint");
                 if (found != done.metadata.end() && found->second == made_by) return;
               }
               const std::vector<std::size_t> block(rows.begin() + begin, rows.begin() + begin + count);
               const at::Tensor x = take(d.pixels, block);
               const bool tests = begin < static_cast<std::int64_t>(d.test.size());
               const std::vector<std::uint64_t> items(block.begin(), block.end());
               SafetensorsFile file;
               file.metadata["fingerprint"] = made_by;
               const auto store = [&](const char* name, const at::Tensor& tensor) {
                 file.tensors.emplace(name, array_from(tensor));
               };
               store("rows", at::tensor(std::vector<std::int64_t>(block.begin(), block.end()), at::kLong));
               const ImageMaps maps = maker.make(x, items, tests, control.stop);
               store("difference", maps.difference);
               store("evidence", maps.evidence);
               if (tests) {
                 store("score_difference", maps.score_difference);
                 store("no_target", maps.no_target);
                 store("translated", maps.translated);
                 store("reconstruction", maps.reconstruction);
                 store("residual", maps.residual);
               }
               write_safetensors(part, file);
             });
  log(fmt::format("heatmaps: {} denoiser evaluations an image for difference maps, {} for evidence maps",
                  maker.difference_evaluations(), maker.evidence_evaluations()));
  maps_.reset();
  calibrate_maps();
}

namespace {

/// Kinds of maps whose null distribution is kept.
constexpr const char* kCalibrated[] = {"difference", "evidence"};

std::string calibration_file(const std::string& kind) { return "calibration_" + kind + ".safetensors"; }

}  // namespace

void Run::Impl::calibrate_maps() {
  const RunData& d = data();
  // The translator knows its training images, whose maps may be smaller: validation images stand for others better.
  std::vector<std::size_t> rows = d.healthy(d.val);
  if (rows.empty()) rows = d.healthy(d.encoder_train);
  std::vector<std::string> names;
  for (const auto& group : d.groups) names.push_back(group.name);
  for (const std::string kind : kCalibrated) {
    const std::string file_path = path(calibration_file(kind));
    fs::remove(file_path);
    if (rows.empty()) continue;
    SafetensorsFile file = MapCalibration::fit(maps().select(kind, rows), names).to_file();
    file.metadata["fingerprint"] = fingerprint(Stage::kHeatmaps);
    write_safetensors(file_path, file);
  }
  log(rows.empty() ? "heatmaps: no healthy images to calibrate maps on"
                   : fmt::format("heatmaps: calibrated on {} healthy images", rows.size()));
}

std::optional<MapCalibration> Run::Impl::calibration(const std::string& kind) {
  const std::string file_path = path(calibration_file(kind));
  if (!fs::exists(file_path)) return std::nullopt;
  const SafetensorsFile file = read_safetensors(file_path);
  require_metadata(file.metadata, file_path, "fingerprint", fingerprint(Stage::kHeatmaps));
  return MapCalibration::from_file(file);
}

const MapSet& Run::Impl::maps() {
  if (maps_) return *maps_;
  const std::string made_by = fingerprint(Stage::kHeatmaps);
  std::vector<std::string> parts;
  for (const auto& entry : fs::directory_iterator(path("heatmaps")))
    if (entry.path().extension() == ".safetensors") parts.push_back(entry.path().string());
  std::sort(parts.begin(), parts.end());
  MapSet set;
  std::map<std::string, std::vector<at::Tensor>> pieces;
  for (const auto& part : parts) {
    const SafetensorsFile file = read_safetensors(part);
    const auto found = file.metadata.find("fingerprint");
    // A part of an earlier run with other settings may lie behind the last one of this run.
    if (found == file.metadata.end() || found->second != made_by) continue;
    const auto rows = file.at("rows").to_int64();
    const bool tests = file.contains("translated");
    for (std::int64_t row : rows) {
      set.rows.push_back(static_cast<std::size_t>(row));
      if (tests) set.test_rows.push_back(static_cast<std::size_t>(row));
    }
    for (const auto& [name, array] : file.tensors)
      if (name != "rows") pieces[name].push_back(tensor_from(array));
  }
  if (set.rows.empty())
    fail(ErrorCode::kMismatch, "daug::Run", path("heatmaps"), "maps of fingerprint " + made_by, "none");
  for (auto& [name, list] : pieces) {
    const at::Tensor joined = at::cat(list);
    if (name == "translated")
      set.translated = joined;
    else if (name == "reconstruction")
      set.reconstruction = joined;
    else if (name == "residual")
      set.residual = joined;
    else
      set.maps[name] = joined;
  }
  maps_ = std::move(set);
  return *maps_;
}

}  // namespace daug
