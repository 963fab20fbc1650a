// The stages that train the diffusion model and its guide, and access to what they made.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "daug/io/weights.h"
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

/// The findings of the networks' conditions and logits, in order, as their files name them.
std::string findings_text(const RunData& data) { return fmt::format("{}", fmt::join(data.cohort.findings, ",")); }

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
  require_finished(history, "translator");
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
  require_finished(history, "guide");
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

}  // namespace daug
