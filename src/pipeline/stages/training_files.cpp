// What a run keeps of its trainings: checkpoints, those put aside among them, numbers of steps, curves of losses.

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/safetensors.h"
#include "pipeline/run_impl.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

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

void write_history(const std::string& path, const TrainingHistory& history, const std::string& fingerprint) {
  SafetensorsFile file;
  file.metadata["fingerprint"] = fingerprint;
  file.tensors.emplace("loss", Array::from(history.loss, {static_cast<std::int64_t>(history.loss.size())}));
  write_safetensors(path, file);
}

void require_finished(const TrainingHistory& history, const std::string& stage) {
  if (!history.finished) throw Error(ErrorCode::kCancelled, "daug::Run: " + stage + ": stopped on request");
}

}  // namespace daug
