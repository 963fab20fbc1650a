// The stages that make the diffusion model, its guide and the maps.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>

#include "backend/threads.h"
#include "daug/heatmap/heatmap_store.h"
#include "daug/heatmap/precompute.h"
#include "daug/io/weights.h"
#include "daug/pipeline/map_maker.h"
#include "daug/translator/translation.h"
#include "run_impl.h"
#include "stage_options.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

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

/// The findings of the networks' conditions and logits, in order, as their files name them.
std::string findings_text(const RunData& data) { return fmt::format("{}", fmt::join(data.cohort.findings, ",")); }

[[noreturn]] void stopped(const std::string& stage) {
  throw Error(ErrorCode::kCancelled, "daug::Run: " + stage + ": stopped on request");
}

/// What a checkpoint says of itself.
struct CheckpointHead {
  bool exists = false;
  std::string fingerprint;
  std::int64_t steps = 0;
};

CheckpointHead checkpoint_head(const std::string& path) {
  if (!fs::exists(path)) return {};
  SafetensorsFile file = read_safetensors_header(path);
  return {true, file.metadata["fingerprint"], file.contains("history.loss") ? file.at("history.loss").numel() : 0};
}

std::string measured_file(const std::string& name) { return "stages/" + name + ".safetensors"; }

}  // namespace

std::optional<std::int64_t> Run::Impl::recalled(const std::string& name, const std::string& made_by) const {
  const std::string file_path = path(measured_file(name));
  if (!fs::exists(file_path)) return std::nullopt;
  const SafetensorsFile file = read_safetensors(file_path);
  if (!file.contains(made_by)) return std::nullopt;
  const std::vector<std::int64_t> values = file.at(made_by).to_int64();
  if (values.size() != 1)
    fail(ErrorCode::kFormat, "daug::Run", file_path + ": " + made_by, "one number", detail::concat(values.size()));
  return values[0];
}

std::int64_t Run::Impl::remembered(const std::string& name, const std::string& made_by,
                                   const std::function<std::int64_t()>& measure) const {
  if (const auto known = recalled(name, made_by)) return *known;
  const std::int64_t value = measure();
  const std::string file_path = path(measured_file(name));
  SafetensorsFile file;  // with the numbers of other settings, whose checkpoints may be gone on from
  if (fs::exists(file_path)) file = read_safetensors(file_path);
  file.tensors[made_by] = Array::from(std::vector<std::int64_t>{value}, {1});
  write_safetensors(file_path, file);
  return value;
}

void Run::Impl::keep_other_checkpoint(Stage stage, const std::string& training, const TrainerOptions& options) const {
  const std::string& own = options.checkpoint;
  const std::string aside = own + kAside, between = own + kAsideNext;
  // Where a process ended while two changed places: after the first of the renamings below, or after the second.
  if (fs::exists(between)) fs::rename(between, fs::exists(own) ? aside : own);
  CheckpointHead found, kept;
  try {
    found = checkpoint_head(own);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}; remove that file, or begin the stage anew with --force {}", error.what(),
                                          stage_name(stage)));
  }
  if (found.exists && found.fingerprint == options.fingerprint) return;
  try {
    kept = checkpoint_head(aside);
  } catch (const Error&) {  // of a damaged one nothing can be kept
  }
  if (kept.exists && kept.fingerprint == options.fingerprint) {
    if (found.exists) fs::rename(own, between);
    fs::rename(aside, own);
    if (found.exists) fs::rename(between, aside);
    log(fmt::format("{}: goes on from {}, which was kept, after {} steps", training, aside, kept.steps));
    return;
  }
  if (!found.exists) return;
  const bool keeps = !kept.exists || found.steps >= kept.steps;
  if (keeps)
    fs::rename(own, aside);
  else
    fs::remove(own);
  const std::string fate = keeps ? "kept as " + aside : "removed, as the one that is kept has more steps";
  log(fmt::format(
      "{}: {} is of other settings, other data or another version of the library, and {}; the training begins anew",
      training, own, fate));
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
  options.device = device;
  options.finding_dropout = d.finding_dropout;
  options.condition_dropout = d.condition_dropout;
  options.labelled_share = d.labelled_share;
  options.seed = static_cast<std::uint64_t>(config.seed);
  options.optimizer.steps = d.steps;
  options.optimizer.learning_rate = d.learning_rate;
  options.optimizer.warmup_steps = d.warmup_steps;
  options.optimizer.weight_decay = d.weight_decay;
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
  options.device = device;
  options.seed = static_cast<std::uint64_t>(config.seed) + 1;
  options.optimizer.steps = g.steps;
  options.optimizer.learning_rate = g.learning_rate;
  options.optimizer.warmup_steps = g.warmup_steps;
  options.optimizer.weight_decay = g.weight_decay;
  return options;
}

void Run::Impl::train_translator() {
  const std::string made_by = fingerprint(Stage::kTranslator);
  const RunData& d = data();
  const at::Tensor images = take(d.pixels, d.train), states = take(d.training_states(), d.train);
  DenoiserTrainerOptions options = denoiser_options();
  if (config.budget > 0)
    options.optimizer.steps = remembered("translator_steps", made_by, [&] {
      return steps_for(config.budget * 60 * kBudgetShares.translator, [&](std::int64_t steps) {
        DenoiserTrainerOptions probe = options;
        probe.optimizer.steps = steps;
        train_denoiser(images, states, schedule(), probe, stage_control("measure translator"));
        control.stop.throw_if_stopped("daug::Run: translator");  // what was cut short measures nothing
      });
    });
  const auto per_epoch = static_cast<std::int64_t>(d.train.size()) / options.batch_size;
  options.optimizer.checkpoint_every = std::max<std::int64_t>(per_epoch, 1);
  options.optimizer.checkpoint = path("stages/translator_checkpoint.safetensors");
  options.optimizer.fingerprint = made_by;
  keep_other_checkpoint(Stage::kTranslator, "translator", options.optimizer);
  TrainingHistory history;
  const DenoiserUNet network =
      train_denoiser(images, states, schedule(), options, stage_control("train translator"), &history);
  if (!history.finished) stopped("translator");
  save_weights(path("translator.safetensors"), *network.ptr(),
               {{"format", "daug-denoiser-1"},
                {"fingerprint", made_by},
                {"findings", findings_text(d)},
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
      return steps_for(config.budget * 60 * kBudgetShares.guide, [&](std::int64_t steps) {
        ClassifierTrainerOptions probe = options;
        probe.optimizer.steps = steps;
        train_noise_aware_classifier(images, states, schedule(), probe, stage_control("measure guide"));
        control.stop.throw_if_stopped("daug::Run: guide");
      });
    });
  options.optimizer.checkpoint_every =
      std::max<std::int64_t>(static_cast<std::int64_t>(d.labelled.size()) / options.batch_size, 1);
  options.optimizer.checkpoint = path("stages/guide_checkpoint.safetensors");
  options.optimizer.fingerprint = made_by;
  keep_other_checkpoint(Stage::kGuide, "guide", options.optimizer);
  TrainingHistory history;
  const NoiseAwareClassifier network =
      train_noise_aware_classifier(images, states, schedule(), options, stage_control("train guide"), &history);
  if (!history.finished) stopped("guide");
  save_weights(path("guide.safetensors"), *network.ptr(),
               {{"format", "daug-noise-aware-classifier-1"}, {"fingerprint", made_by}, {"findings", findings_text(d)}});
  write_history(path("stages/guide_history.safetensors"), history, made_by);
  fs::remove(options.optimizer.checkpoint);
}

DenoiserUNet Run::Impl::load_denoiser() {
  DenoiserUNet network(denoiser_options().network);
  const std::string file = path("translator.safetensors");
  require_metadata(load_weights(*network, file), file, "fingerprint", fingerprint(Stage::kTranslator));
  freeze(*network, device);
  return network;
}

NoiseAwareClassifier Run::Impl::load_guide() {
  NoiseAwareClassifier network(guide_options().network);
  const std::string file = path("guide.safetensors");
  const auto metadata = load_weights(*network, file);
  require_metadata(metadata, file, "fingerprint", fingerprint(Stage::kGuide));
  require_metadata(metadata, file, "findings", findings_text(data()));
  freeze(*network, device);
  return network;
}

at::Tensor Run::Impl::guide_logits(NoiseAwareClassifier& guide, const at::Tensor& images) const {
  const at::Tensor timesteps = at::full({images.size(0)}, schedule().timestep(0), at::kLong);
  return guide->forward(images.to(device), timesteps).to(at::kCPU);
}

namespace {

/// Images whose maps are made in one batch: what stands beside an image decides its maps' last digits, so that they are
/// the same in every run.
constexpr std::size_t kMapBlock = 10;

/// What a run keeps of an image, in the order of its record.
struct MapKind {
  const char* name;
  at::Tensor ImageMaps::*maps;
  bool grouped;  ///< one map a group of findings, not one in all
  bool control;  ///< of test images alone
};

constexpr MapKind kMapKinds[] = {{"difference", &ImageMaps::difference, true, false},
                                 {"evidence", &ImageMaps::evidence, true, false},
                                 {"score_difference", &ImageMaps::score_difference, true, true},
                                 {"translated", &ImageMaps::translated, true, true},
                                 {"no_target", &ImageMaps::no_target, false, true},
                                 {"reconstruction", &ImageMaps::reconstruction, false, true}};

constexpr MapStorage kMapStorage = MapStorage::kFloat32;  // figures are computed from them

/// A store of a run and the images it is for, block by block.
struct StoredMaps {
  std::string path;
  bool controls = false;
  HeatmapLayout layout;
  std::vector<std::size_t> rows;
  std::vector<std::uint64_t> keys;  ///< [rows]; files of equal bytes share their maps
};

/// The store of the test images, which have controls, and that of the others. A block lies in that of its first image.
std::array<StoredMaps, 2> stored_maps(Run::Impl& run) {
  const RunData& d = run.data();
  std::vector<std::size_t> rows = d.test;
  rows.insert(rows.end(), d.val.begin(), d.val.end());
  rows.insert(rows.end(), d.encoder_train.begin(), d.encoder_train.end());
  const std::size_t tests = std::min((d.test.size() + kMapBlock - 1) / kMapBlock * kMapBlock, rows.size());
  const auto others = rows.begin() + static_cast<std::ptrdiff_t>(tests);
  std::array<StoredMaps, 2> stores;
  stores[0] = {run.path("heatmaps/tests.daugmaps"), true, {}, {rows.begin(), others}, {}};
  stores[1] = {run.path("heatmaps/others.daugmaps"), false, {}, {others, rows.end()}, {}};
  for (StoredMaps& store : stores) {
    HeatmapLayout& layout = store.layout;
    layout.fingerprint = run.fingerprint(Stage::kHeatmaps);
    layout.height = layout.width = run.config.size;
    layout.storage = kMapStorage;
    for (const MapKind& kind : kMapKinds) {
      if (kind.control && !store.controls) continue;
      if (!kind.grouped) layout.names.emplace_back(kind.name);
      for (std::size_t g = 0; kind.grouped && g < d.maps(); ++g)
        layout.names.push_back(fmt::format("{}/{}", kind.name, d.groups[g].name));
    }
    for (const std::size_t row : store.rows) store.keys.push_back(heatmap_key(d.study(row).path));
  }
  return stores;
}

/// Whether the store that is there can be gone on with: the same settings made it in the same format.
bool is_begun(const StoredMaps& stored) {
  try {
    return read_heatmap_layout(stored.path).fingerprint == stored.layout.fingerprint;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kFormat) return false;
    throw;
  }
}

}  // namespace

std::string map_format() {
  std::string format = fmt::format("daugmaps {}, storage {}, blocks of {}", kHeatmapStoreVersion,
                                   static_cast<int>(kMapStorage), kMapBlock);
  for (const MapKind& kind : kMapKinds) format += fmt::format(", {}{}", kind.name, kind.control ? " of tests" : "");
  return format;
}

void Run::Impl::make_heatmaps() {
  const RunData& d = data();
  const DenoiserUNet network = load_denoiser();
  const auto guide = guided_by_classifier(config) ? std::make_unique<NoiseAwareClassifier>(load_guide()) : nullptr;
  const MapMaker maker(config, {d.cohort.findings, d.groups}, network, guide.get(), d.cohort.findings);

  fs::create_directories(path("heatmaps"));
  const auto stores = stored_maps(*this);
  const auto total = static_cast<std::int64_t>(stores[0].rows.size() + stores[1].rows.size());
  std::int64_t before = 0;  // images of the stores that are filled
  for (const StoredMaps& stored : stores) {
    if (fs::exists(stored.path) && !is_begun(stored)) {
      log(fmt::format("heatmaps: {} is of other settings or another version of the library, and made anew",
                      stored.path));
      fs::remove(stored.path);
    }
    HeatmapStoreWriter writer(stored.path, stored.layout);
    const ComputeMaps compute = [&](const std::vector<std::size_t>& images, float* out) {
      backend::one_intra_op_thread();
      c10::InferenceMode inference;
      // All of the block, even where a run that was killed had stored some of it.
      const std::size_t begin = images[0] / kMapBlock * kMapBlock;
      const std::size_t size = std::min(kMapBlock, stored.rows.size() - begin), values = stored.layout.values();
      const std::vector<std::size_t> block(stored.rows.data() + begin, stored.rows.data() + begin + size);
      const ImageMaps made = maker.make(take(d.pixels, block), {block.begin(), block.end()}, stored.controls,
                                        control.stop, stored.controls);  // round trips of others are not kept
      std::vector<at::Tensor> parts;
      for (const MapKind& kind : kMapKinds)
        if (stored.controls || !kind.control) parts.push_back(made.*kind.maps);
      const at::Tensor maps = at::cat(parts, 1).contiguous();
      for (std::size_t i = 0; i < images.size(); ++i)
        std::copy_n(maps.const_data_ptr<float>() + (images[i] - begin) * values, values, out + i * values);
    };
    PrecomputeOptions options;
    options.batch = kMapBlock;
    options.threads = static_cast<int>(network_threads(config));
    RunControl counted;  // over both stores; whoever shows progress knows its rate
    counted.stop = control.stop;
    counted.progress = [&](const Progress& progress) {
      control.report({progress.stage, before + progress.done, total, progress.unit, ""});
    };
    const backend::CallersThreads kept;
    precompute_heatmaps(writer, stored.keys, compute, options, counted);
    before += static_cast<std::int64_t>(stored.rows.size());
  }
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
  const auto too_few = [](const std::vector<std::size_t>& healthy) {
    return static_cast<std::int64_t>(healthy.size()) < MapCalibration::kLeastImages;
  };
  // The translator knows its training images, whose maps may be smaller: validation images stand for others better.
  // Where labels are held back, though, nothing of the diffusion's sees any but those of the labelled images.
  const bool held_back = config.labelled > 0;
  std::vector<std::size_t> rows = d.healthy(held_back ? d.encoder_train : d.val);
  const bool second_choice = too_few(rows);
  if (second_choice) rows = d.healthy(held_back ? d.val : d.encoder_train);
  std::vector<std::string> names;
  for (const auto& group : d.groups) names.push_back(group.name);
  for (const std::string kind : kCalibrated) {
    const std::string file_path = path(calibration_file(kind));
    fs::remove(file_path);
    if (too_few(rows)) continue;
    SafetensorsFile file = MapCalibration::fit(maps().select(kind, rows), names).to_file();
    file.metadata["fingerprint"] = fingerprint(Stage::kHeatmaps);
    write_safetensors(file_path, file);
  }
  std::string first = "validation", second = "labelled training";
  if (held_back) std::swap(first, second);
  if (too_few(rows))
    log(fmt::format("heatmaps: {} healthy images are too few to calibrate maps on", rows.size()));
  else if (second_choice)
    log(fmt::format(
        "heatmaps: too few of the {} images are healthy; calibrated on {} healthy {} images by their labels", first,
        rows.size(), second));
  else
    log(fmt::format("heatmaps: calibrated on {} healthy {} images", rows.size(), first));
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
  MapSet set;
  std::map<std::string, std::vector<at::Tensor>> pieces;
  for (const StoredMaps& stored : stored_maps(*this)) {
    const HeatmapStore store(stored.path, stored.layout.fingerprint);
    const std::size_t values = stored.layout.values();
    if (store.layout().values() != values)
      fail(ErrorCode::kMismatch, "daug::Run", stored.path, detail::concat(values, " values an image"),
           store.layout().values());
    const at::Tensor all = at::empty({static_cast<std::int64_t>(stored.rows.size()),
                                      static_cast<std::int64_t>(stored.layout.names.size()), config.size, config.size});
    for (std::size_t i = 0; i < stored.rows.size(); ++i) {
      const std::vector<float> maps = store.read(stored.keys[i]);
      std::copy(maps.begin(), maps.end(), all.data_ptr<float>() + i * values);
    }
    std::int64_t first = 0;
    for (const MapKind& kind : kMapKinds) {
      if (kind.control && !stored.controls) continue;
      const std::int64_t count = kind.grouped ? static_cast<std::int64_t>(data().maps()) : 1;
      pieces[kind.name].push_back(all.narrow(1, first, count));
      first += count;
    }
    set.rows.insert(set.rows.end(), stored.rows.begin(), stored.rows.end());
    if (stored.controls) set.test_rows = stored.rows;
  }
  for (auto& [name, list] : pieces) {
    const at::Tensor joined = at::cat(list);
    if (name == "translated")
      set.translated = joined;
    else if (name == "reconstruction")
      set.reconstruction = joined;
    else
      set.maps[name] = joined;
  }
  set.residual = round_trip_residual(take(data().pixels, set.test_rows), set.reconstruction);
  maps_ = std::move(set);
  return *maps_;
}

}  // namespace daug
