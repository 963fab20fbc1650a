#include "daug/pipeline/run.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "backend/threads.h"
#include "daug/backend/cuda.h"
#include "daug/backend/determinism.h"
#include "daug/backend/tensor_memory.h"
#include "daug/core/parallel.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/train/encoder_file.h"
#include "io/json.h"
#include "pipeline/settings/stage_options.h"
#include "pipeline/stages/index_stage.h"
#include "provenance.h"
#include "run_impl.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

struct StageInfo {
  Stage stage;
  const char* name;
  std::vector<std::string> settings;  ///< prefixes of the settings it depends on beyond those of earlier stages
  std::vector<Stage> needs;
  std::vector<Stage> reads;        ///< earlier stages beyond those it needs whose files it reads as well
  std::vector<std::string> begun;  ///< where it finds its own unfinished work
  std::vector<std::string> makes;  ///< files that it always leaves, beside those of every arm
};

const std::vector<StageInfo>& stage_table() {
  static const std::vector<StageInfo> table = {
      {Stage::kTranslator,
       "translator",
       {"seed", "size", "labelled", "labels.", "budget", "diffusion."},
       {},
       {},
       {"stages/translator_checkpoint.safetensors"},
       {"translator.safetensors"}},
      {Stage::kGuide,
       "guide",
       {"seed", "size", "labelled", "labels.", "budget", "guide.", "diffusion.schedule", "diffusion.max_level"},
       {},
       {},
       {"stages/guide_checkpoint.safetensors"},
       {"guide.safetensors"}},
      {Stage::kHeatmaps,
       "heatmaps",
       {"maps."},
       {Stage::kTranslator, Stage::kGuide},
       {},
       {"heatmaps"},
       {"heatmaps/tests.daugmaps", "heatmaps/others.daugmaps"}},
      {Stage::kEncoders,
       "encoders",
       {"encoder.", "-encoder.prompts", "-encoder.clip_strict"},
       {Stage::kHeatmaps},
       {},
       {"encoders"},
       {"tokenizer/vocab.json", "tokenizer/merges.txt"}},
      {Stage::kIndex, "index", {}, {Stage::kEncoders}, {Stage::kHeatmaps}, {}, {}},
      {Stage::kEvaluate,
       "evaluate",
       {"evaluate.", "encoder.prompts"},
       {Stage::kIndex, Stage::kGuide},
       {Stage::kHeatmaps, Stage::kEncoders},
       {},
       {"metrics.json", "predictions.safetensors", "stages/details.json"}},
      {Stage::kReport, "report", {"report."}, {Stage::kEvaluate}, {Stage::kHeatmaps}, {}, {"report.html"}},
  };
  return table;
}

const StageInfo& info(Stage stage) { return stage_table()[static_cast<std::size_t>(stage)]; }

}  // namespace

std::vector<Stage> all_stages() {
  std::vector<Stage> stages;
  for (const auto& row : stage_table()) stages.push_back(row.stage);
  return stages;
}

std::string stage_name(Stage stage) { return info(stage).name; }

Stage parse_stage(const std::string& name) {
  std::string known;
  for (const auto& row : stage_table()) {
    if (name == row.name) return row.stage;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  fail(ErrorCode::kInvalidArgument, "daug::parse_stage", "stage", "one of " + known, name);
}

at::Tensor take(const at::Tensor& tensor, const std::vector<std::size_t>& rows) {
  const std::vector<std::int64_t> index(rows.begin(), rows.end());
  return tensor.index_select(0, at::tensor(index, at::kLong));
}

void for_each_parallel(std::size_t count, std::int64_t threads, const std::function<void(std::size_t)>& work) {
  const backend::CallersThreads kept;
  detail::for_each_task(count, static_cast<std::size_t>(threads), [&](std::size_t, std::size_t i) {
    backend::one_intra_op_thread();
    work(i);
  });
}

void for_blocks(std::int64_t total, std::int64_t block, std::int64_t threads, const RunControl& control,
                const std::string& stage, const std::string& unit,
                const std::function<void(std::int64_t, std::int64_t)>& work) {
  std::int64_t done = 0;
  std::mutex mutex;
  for_each_parallel(static_cast<std::size_t>((total + block - 1) / block), threads, [&](std::size_t i) {
    c10::InferenceMode inference;
    control.stop.throw_if_stopped(stage.c_str());
    const std::int64_t begin = static_cast<std::int64_t>(i) * block, count = std::min(block, total - begin);
    work(begin, count);
    const std::lock_guard lock(mutex);
    done += count;
    control.report({stage, done, total, unit, ""});
  });
}

GrayImage gray_image(const float* pixels, int size) {
  GrayImage image = GrayImage::filled(size, size);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = (pixels[i] + 1) / 2;
  return image;
}

void require_metadata(const std::map<std::string, std::string>& metadata, const std::string& path, const char* key,
                      const std::string& expected) {
  const auto found = metadata.find(key);
  if (found == metadata.end() || found->second != expected)
    fail(ErrorCode::kMismatch, "daug::Run", path, detail::concat(key, " ", expected),
         found == metadata.end() ? "none" : found->second);
}

// --- Run::Impl ----------------------------------------------------------------------------------------------------

void Run::Impl::log(const std::string& line) const {
  if (!read_only) std::ofstream(path("run.log"), std::ios::app) << line << "\n";
  if (say) say(line);
}

RunControl Run::Impl::stage_control(const std::string& stage) const {
  RunControl named = control;
  if (control.progress)
    named.progress = [report = control.progress, stage](const Progress& progress) {
      Progress renamed = progress;
      renamed.stage = stage;
      report(renamed);
    };
  return named;
}

std::vector<Stage> Run::Impl::needs(Stage stage) const {
  std::vector<Stage> stages = info(stage).needs;
  if (stage == Stage::kHeatmaps && !guided_by_classifier(config))
    stages.erase(std::remove(stages.begin(), stages.end(), Stage::kGuide), stages.end());
  return stages;
}

std::vector<Stage> Run::Impl::reads(Stage stage) const {
  std::vector<Stage> stages = needs(stage);
  stages.insert(stages.end(), info(stage).reads.begin(), info(stage).reads.end());
  return stages;
}

std::string Run::Impl::checkpoint_fingerprint() {
  if (!checkpoint_fingerprint_.empty()) return checkpoint_fingerprint_;
  Fingerprint fingerprint;
  if (!config.encoder.image_checkpoint.empty())
    fingerprint.add("image", fingerprint_file(config.encoder.image_checkpoint));
  for (const char* name : {"config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json",
                           "open_clip_config.json", "open_clip_model.safetensors"})
    if (const std::string file = config.encoder.clip + "/" + name; !config.encoder.clip.empty() && fs::exists(file))
      fingerprint.add(name, fingerprint_file(file));
  return checkpoint_fingerprint_ = fingerprint.hex();
}

/// Changes where the same settings train other encoders than before, as with batches that have no item twice or with
/// other sections of a report.
constexpr const char* kEncoderTraining = "3";

std::string Run::Impl::fingerprint(Stage stage) {
  Fingerprint fingerprint;
  fingerprint.add("stage", stage_name(stage));
  fingerprint.add("library", kLibrary);
  fingerprint.add("data", data_fingerprint());
  fingerprint.add("settings", settings_fingerprint(config, info(stage).settings));
  // Files that another version of the library kept otherwise are made anew, as those of other settings are.
  if (stage == Stage::kHeatmaps) fingerprint.add("format", map_format());
  if (stage == Stage::kEncoders) fingerprint.add("format", kEncoderFormat);
  if (stage == Stage::kEncoders && has_checkpoint()) fingerprint.add("checkpoint", checkpoint_fingerprint());
  if (stage == Stage::kEncoders) fingerprint.add("training", kEncoderTraining);
  for (Stage needed : needs(stage)) fingerprint.add(stage_name(needed), this->fingerprint(needed));
  if (stage == Stage::kEvaluate) fingerprint.add("masks and counterfactuals", truth_fingerprint());
  return fingerprint.hex();
}

namespace {

std::optional<StageRecord> read_record(const std::string& path) {
  if (!fs::exists(path)) return std::nullopt;
  const auto json = detail::parse_json(read_text_file(path, 1 << 20), "daug::Run", path);
  return StageRecord{
      detail::member_as<std::string>(json, "fingerprint", "daug::Run", path),
      detail::member_as<double>(json, "seconds", "daug::Run", path),
      json.contains("command") ? detail::member_as<std::string>(json, "command", "daug::Run", path) : ""};
}

void write_record(const std::string& path, const StageRecord& record) {
  const nlohmann::ordered_json json = {
      {"fingerprint", record.fingerprint}, {"seconds", record.seconds}, {"command", record.command}};
  write_file_atomically(path, json.dump(1) + "\n");
}

}  // namespace

StageState Run::Impl::state_of(Stage stage) {
  StageState state;
  state.record = read_record(path("stages/" + stage_name(stage) + ".json"));
  state.current = state.record && state.record->fingerprint == fingerprint(stage);
  std::vector<std::string> files = info(stage).makes;
  if (stage == Stage::kEncoders || stage == Stage::kIndex)
    for (const Arm& arm : arms()) files.push_back(stage == Stage::kEncoders ? arm.file() : index_file(arm));
  const auto gone = std::find_if(files.begin(), files.end(), [&](const auto& file) { return !fs::exists(path(file)); });
  if (gone != files.end()) state.missing = *gone;
  return state;
}

StageState Run::Impl::require_done(Stage stage) {
  StageState state = state_of(stage);
  if (!state.record)
    fail(ErrorCode::kMismatch, "daug::Run", config.out, "stage '" + stage_name(stage) + "' to be finished",
         "no such stage; run it first");
  if (!state.current)
    fail(ErrorCode::kMismatch, "daug::Run", config.out,
         detail::concat("stage '", stage_name(stage), "' made with these settings and data (fingerprint ",
                        fingerprint(stage), ")"),
         detail::concat("fingerprint ", state.record->fingerprint, "; run that stage again, or use its settings"));
  seconds_[stage_name(stage)] = state.record->seconds;
  commands_[stage_name(stage)] = state.record->command;
  return state;
}

void Run::Impl::require_files(Stage stage) {
  if (const StageState state = require_done(stage); !state.missing.empty())
    fail(ErrorCode::kMismatch, "daug::Run", path(state.missing), "a file of stage '" + stage_name(stage) + "'",
         "none; run that stage again");
}

void Run::Impl::keep_settings() {
  if (settings_kept_ || read_only) return;
  write_config(path("config.json"), config);
  settings_kept_ = true;
}

void Run::Impl::repeatably(const std::function<void()>& work) const {
  if (config.deterministic && device.is_cuda()) return deterministically(work, "--deterministic");
  work();
}

void Run::Impl::make(Stage stage) {
  switch (stage) {
    case Stage::kTranslator:
      return train_translator();
    case Stage::kGuide:
      return train_guide();
    case Stage::kHeatmaps:
      return make_heatmaps();
    case Stage::kEncoders:
      return train_encoder_arms();
    case Stage::kIndex:
      return build_indexes();
    case Stage::kEvaluate:
      return evaluate();
    case Stage::kReport:
      return write_report();
  }
}

// --- Run ----------------------------------------------------------------------------------------------------------

Run::Run(RunConfig config, RunControl control, std::function<void(const std::string&)> say)
    : impl_(std::make_unique<Impl>()) {
  config.validate();
  for (const auto& name : config.force) parse_stage(name);
  if (!config.data.empty()) {
    std::error_code unreadable;  // such as a name that is too long
    require(fs::is_directory(config.data, unreadable), "daug::Run", "data", "a cohort folder", "'" + config.data + "'");
    require(fs::exists(config.data + "/labels.csv", unreadable), "daug::Run", "data", "a folder with labels.csv",
            "'" + config.data + "'");
  }
  // Before anything is written, and before anything asks LibTorch whether there is CUDA.
  if (config.device != "cpu") impl_->device = device_called(config.device);
  impl_->config = std::move(config);
  impl_->control = std::move(control);
  impl_->say = std::move(say);
  impl_->read_only = impl_->config.rank > 0;
  std::error_code error;
  fs::create_directories(impl_->path("stages"), error);
  if (error)
    fail(ErrorCode::kIo, "daug::Run", "out", "a folder that can be written",
         impl_->config.out + " (" + error.message() + ")");
  at::set_num_threads(static_cast<int>(impl_->config.threads));
  reuse_tensor_memory();
  if (!fs::exists(impl_->path("config.json"))) impl_->keep_settings();
}

Run::~Run() = default;

const RunConfig& Run::config() const { return impl_->config; }

std::string Run::fingerprint(Stage stage) { return impl_->fingerprint(stage); }

bool Run::execute(Stage stage) try {
  impl_->control.stop.throw_if_stopped("daug::Run");
  const std::string name = stage_name(stage);
  const std::int64_t ranks = impl_->config.ranks;
  if (ranks > 1 && stage != Stage::kEncoders)
    fail(ErrorCode::kUnsupported, "daug::Run", "ranks", "1 for stage '" + name + "', or stage 'encoders'", ranks);
  const std::string record_path = impl_->path("stages/" + name + ".json");
  const std::string begun_path = impl_->path("stages/" + name + ".begun.json");
  const std::vector<Stage> earlier = impl_->needs(stage);
  impl_->keeps_phantoms_ = !earlier.empty();
  for (Stage needed : earlier) impl_->require_done(needed);
  const std::string fingerprint = impl_->fingerprint(stage);
  const StageState state = impl_->state_of(stage);
  const auto& force = impl_->config.force;
  const bool forced = std::find(force.begin(), force.end(), name) != force.end();
  if (state.current && !state.missing.empty()) impl_->log(fmt::format("{}: {} is gone", name, state.missing));
  if (state.done() && !forced) {
    impl_->keep_settings();
    impl_->seconds_[name] = state.record->seconds;
    impl_->log(fmt::format("{}: up to date", name));
    return false;
  }
  for (Stage source : impl_->reads(stage)) impl_->require_files(source);
  impl_->require_buildable();
  if (impl_->read_only) {  // rank 0 keeps the folder
    impl_->make(stage);
    return true;
  }
  impl_->keep_settings();
  fs::remove(record_path);
  if (stage == Stage::kEvaluate) fs::remove(impl_->path("stages/report.json"));  // it shows what is measured now
  if (forced) {
    for (const auto& begun : info(stage).begun)
      for (const std::string& file : {begun, begun + kAside, begun + kAsideNext}) fs::remove_all(impl_->path(file));
    fs::remove(begun_path);
  }
  const auto begun = read_record(begun_path);
  const double before = begun && begun->fingerprint == fingerprint ? begun->seconds : 0;
  impl_->log(fmt::format("{}: {}", name, before > 0 ? "resumed" : "started"));
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return before + std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  try {
    impl_->repeatably([&] { impl_->make(stage); });
  } catch (...) {
    // What stopped it is the news, not that the time it took cannot be written.
    try {
      write_record(begun_path, {fingerprint, seconds(), process_command()});
    } catch (const Error&) {
    }
    throw;
  }
  const double total = seconds();
  impl_->seconds_[name] = total;
  write_record(record_path, {fingerprint, total, process_command()});
  fs::remove(begun_path);
  impl_->log(fmt::format("{}: finished in {:.1f} s", name, total));
  return true;
} catch (const fs::filesystem_error& error) {
  fail(ErrorCode::kIo, "daug::Run", error.path1().string(), "a file or folder that can be changed",
       error.code().message());
}

}  // namespace daug
