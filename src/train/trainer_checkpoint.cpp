// Checkpoints of a trainer, and where a training goes on from.

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/fingerprint.h"
#include "daug/io/safetensors.h"
#include "daug/io/weights.h"
#include "trainer_state.h"

namespace daug {

void Trainer::save_checkpoint(std::int64_t step) {
  settle_checkpoint();
  SafetensorsFile file;
  file.metadata = {{"format", "daug-checkpoint-1"},
                   {"step", std::to_string(step)},
                   {"skipped_steps", std::to_string(state_->history.skipped_steps)},
                   {"fingerprint", options_.fingerprint}};
  for (const auto& [name, tensor] : state_->saved()) file.tensors.emplace(name, array_from(*tensor));
  if (state_->extra) file.tensors.emplace("extra", array_from(state_->extra->saved()));
  const auto& loss = state_->history.loss;
  file.tensors.emplace("history.loss", Array::from(loss, {static_cast<std::int64_t>(loss.size())}));
  if (options_.validate_every > 0) {
    const auto& values = state_->history.validation;
    file.metadata.emplace("best_step", std::to_string(state_->history.best_step));
    file.tensors.emplace("history.validation", Array::from(values, {static_cast<std::int64_t>(values.size())}));
  }
  std::size_t bytes = 0;
  for (const auto& [name, array] : file.tensors) bytes += array.data.size();
  constexpr std::size_t kLargestBeside = 256U << 20U;  // a larger copy of the state had better be gone by the next step
  // All ranks are told when the first one cannot write, which they are waiting for here.
  if (state_->ranks.size() > 1 || bytes > kLargestBeside) return write_safetensors(options_.checkpoint, file);
  state_->writing = std::async(std::launch::async,
                               [path = options_.checkpoint, kept = std::move(file)] { write_safetensors(path, kept); });
}

/// Waits for the checkpoint that is being written, and throws what kept it from being so.
void Trainer::settle_checkpoint() {
  if (state_->writing.valid()) state_->writing.get();
}

/// Makes all ranks begin at one step with the weights, moments and averages of rank 0.
std::int64_t Trainer::start() {
  constexpr const char* kFunction = "daug::Trainer::run";
  const detail::Ranks& ranks = state_->ranks;
  if (ranks.size() == 1) return load_checkpoint();
  const TrainerOptions& o = options_;
  Fingerprint settings;
  settings.add("steps", o.steps).add("learning_rate", o.learning_rate).add("warmup_steps", o.warmup_steps);
  settings.add("final_rate", o.final_rate).add("weight_decay", o.weight_decay).add("beta1", o.beta1);
  settings.add("beta2", o.beta2).add("epsilon", o.epsilon).add("ema_decay", o.ema_decay).add("clip_norm", o.clip_norm);
  settings.add("max_skipped", o.max_skipped).add("validate_every", o.validate_every).add("patience", o.patience);
  settings.add("min_improvement", o.min_improvement).add("checkpoint", !o.checkpoint.empty());
  settings.add("checkpoint_every", o.checkpoint_every).add("fingerprint", o.fingerprint);
  settings.add("execution", static_cast<int>(o.execution));
  for (const auto& group : state_->groups) settings.add("rate", group.rate_scale).add("weights", group.values.numel());
  for (const auto& buffer : state_->buffers) settings.add(buffer.name, buffer.values.numel());
  ranks.require_same(kFunction, "options and network", settings.hex());
  const std::vector<double> steps = ranks.of_all(kFunction, [&] { return static_cast<double>(load_checkpoint()); });
  for (std::size_t of = 1; of < steps.size(); ++of)
    if (steps[of] != steps[0])
      fail(ErrorCode::kMismatch, kFunction, options_.checkpoint,
           detail::concat("the checkpoint of step ", steps[0], " that rank 0 reads, on all ranks"),
           detail::concat("step ", steps[of], " on rank ", of));
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : state_->saved()) ranks.take_first(*tensor);
  settle_buffers(true);
  return static_cast<std::int64_t>(steps[0]);
}

std::int64_t Trainer::load_checkpoint() try {
  constexpr const char* kFunction = "daug::Trainer::run";
  if (options_.checkpoint.empty() || !std::filesystem::exists(options_.checkpoint)) return 0;
  const SafetensorsFile file = read_safetensors(options_.checkpoint);
  const auto entry = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  if (entry("format") != "daug-checkpoint-1" || entry("fingerprint") != options_.fingerprint)
    fail(ErrorCode::kMismatch, kFunction, options_.checkpoint, "a checkpoint of training " + options_.fingerprint,
         "one of " + entry("fingerprint"));
  const auto count = [&](const char* key) {
    const std::string text = entry(key);
    if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
      fail(ErrorCode::kFormat, kFunction, detail::concat(options_.checkpoint, ": ", key), "a count", "'" + text + "'");
    return static_cast<std::int64_t>(std::stoll(text));
  };
  const auto array = [&](const std::string& name) -> const Array& {
    if (!file.contains(name))
      fail(ErrorCode::kMismatch, kFunction, options_.checkpoint, "a tensor '" + name + "'", "none");
    return file.at(name);
  };
  const std::int64_t step = count("step"), skipped = count("skipped_steps");
  std::vector<float> losses = array("history.loss").to_float();
  if (static_cast<std::int64_t>(losses.size()) != step)
    fail(ErrorCode::kFormat, kFunction, options_.checkpoint + ": history.loss", detail::concat(step, " losses"),
         losses.size());
  std::vector<double> validations;
  std::int64_t best_step = 0;
  if (options_.validate_every > 0) {
    validations = array("history.validation").to_double();
    best_step = count("best_step");
    if (best_step > static_cast<std::int64_t>(validations.size()) * options_.validate_every)
      fail(ErrorCode::kFormat, kFunction, options_.checkpoint + ": best_step", "a step that was validated", best_step);
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // nothing changes before all of it fits
  for (const auto& [name, tensor] : state_->saved()) {
    copies.emplace_back(*tensor, tensor_from(array(name)));
    if (copies.back().second.sizes() != tensor->sizes())
      fail(ErrorCode::kMismatch, kFunction, detail::concat(options_.checkpoint, ": ", name), tensor->sizes(),
           copies.back().second.sizes());
  }
  at::NoGradGuard no_grad;
  if (state_->extra) {
    const at::Tensor extra = tensor_from(array("extra"));
    if (extra.sizes() != state_->extra->saved().sizes())
      fail(ErrorCode::kMismatch, kFunction, options_.checkpoint + ": extra", state_->extra->saved().sizes(),
           extra.sizes());
    try {
      state_->extra->restore(extra);
    } catch (const Error& error) {
      throw Error(error.code(), detail::concat(kFunction, ": ", options_.checkpoint, ": extra: ", error.what()));
    }
  }
  for (const auto& [tensor, saved] : copies) tensor.copy_(saved);
  settle_buffers(true);
  state_->history.loss = std::move(losses);
  state_->history.validation = std::move(validations);
  state_->history.best_step = best_step;
  state_->history.skipped_steps = skipped;
  return step;
} catch (const Error& error) {
  throw Error(error.code(),
              detail::concat(error.what(), "; without ", options_.checkpoint, " the training begins anew"));
}

}  // namespace daug
