// The stages that train the diffusion model and its guide, and access to what they made.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "daug/io/weights.h"
#include "pipeline/run_impl.h"
#include "pipeline/settings/stage_options.h"

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

/// The findings of the networks' conditions and logits, in order, as their files name them.
std::string findings_text(const RunData& data) { return fmt::format("{}", fmt::join(data.cohort.findings, ",")); }

/// The work of a stage that trains a network on some rows: for as long as its share of the budget says, from the
/// checkpoint where there is one. `train` is train_denoiser or its like; `metadata` are those of the network's file
/// beyond what every such file has.
template <class Options, class Train>
void train_network(Run::Impl& run, Stage stage, double budget_share, const std::vector<std::size_t>& rows,
                   Options options, Train train, std::map<std::string, std::string> metadata) {
  const std::string name = stage_name(stage), made_by = run.fingerprint(stage);
  const RunData& d = run.data();
  const at::Tensor images = take(d.pixels, rows), states = take(d.training_states(), rows);
  TrainerOptions& optimizer = options.optimizer;
  if (run.config.budget > 0)
    optimizer.steps = run.remembered(name + "_steps", made_by, [&] {
      return steps_for(run.config.budget * 60 * budget_share, [&](std::int64_t steps) {
        Options probe = options;
        probe.optimizer.steps = steps;
        train(images, states, run.schedule(), probe, run.stage_control("measure " + name), nullptr);
        run.control.stop.throw_if_stopped(("daug::Run: " + name).c_str());  // what was cut short measures nothing
      });
    });
  const auto per_epoch = static_cast<std::int64_t>(rows.size()) / options.batch_size;
  optimizer.checkpoint_every = std::max<std::int64_t>(per_epoch, 1);
  optimizer.checkpoint = run.path("stages/" + name + "_checkpoint.safetensors");
  optimizer.fingerprint = made_by;
  run.keep_other_checkpoint(stage, name, optimizer);
  TrainingHistory history;
  const auto network = train(images, states, run.schedule(), options, run.stage_control("train " + name), &history);
  require_finished(history, name);
  metadata.emplace("fingerprint", made_by);
  metadata.emplace("findings", findings_text(d));
  metadata.emplace("schedule", run.config.diffusion.schedule);
  save_weights(run.path(name + ".safetensors"), *network.ptr(), metadata);
  write_history(run.path("stages/" + name + "_history.safetensors"), history, made_by);
  fs::remove(optimizer.checkpoint);
}

}  // namespace

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
  options.precision = training_precision(d.precision);
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
  options.precision = training_precision(g.precision);
  options.seed = static_cast<std::uint64_t>(config.seed) + 1;
  options.optimizer.steps = g.steps;
  options.optimizer.learning_rate = g.learning_rate;
  options.optimizer.warmup_steps = g.warmup_steps;
  options.optimizer.weight_decay = g.weight_decay;
  return options;
}

void Run::Impl::train_translator() {
  train_network(*this, Stage::kTranslator, kBudgetShares.translator, data().train, denoiser_options(), train_denoiser,
                {{"format", "daug-denoiser-1"}, {"prediction", config.diffusion.prediction}});
}

void Run::Impl::train_guide() {
  train_network(*this, Stage::kGuide, kBudgetShares.guide, data().labelled, guide_options(),
                train_noise_aware_classifier, {{"format", "daug-noise-aware-classifier-1"}});
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

}  // namespace daug
