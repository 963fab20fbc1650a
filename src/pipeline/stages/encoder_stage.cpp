// The stage that trains the encoders, an arm after or beside the other.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daug/encoder/tokenizer.h"
#include "daug/io/safetensors.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_file.h"
#include "daug/train/process_group.h"
#include "encoder_data.h"
#include "encoder_texts.h"
#include "pipeline/run_impl.h"
#include "pipeline/settings/stage_options.h"
#include "train/ranks.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

void set_labels(EncoderDataset& dataset, const at::Tensor& states) {
  dataset.labels = states.gt(0).to(at::kFloat);
  dataset.label_mask = states.ne(0).to(at::kFloat);
}

/// What all arms learn from, but for the maps.
EncoderDataset training_set(Run::Impl& run, const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                            const std::vector<std::string>& prompts) {
  const RunData& d = run.data();
  const auto& e = run.config.encoder;
  EncoderDataset set;
  set.images = run.images(d.encoder_train);
  set.text = to_text_batch(tokenizer, texts, e.context);
  std::vector<float> has_text;
  for (const auto& text : texts) has_text.push_back(text.empty() ? 0.0F : 1.0F);
  set.text_mask = at::tensor(has_text);
  const at::Tensor states = take(d.training_states(), d.encoder_train);
  if (e.uncertain == "masked") states.masked_fill_(uncertain_labels(d, d.encoder_train), 0);
  set_labels(set, states);
  if (e.uncertain == "smoothed") {
    const at::Tensor uncertain = uncertain_labels(d, d.encoder_train);
    set.labels.masked_fill_(uncertain, -1);
    set.label_mask.masked_fill_(uncertain, 1);
  }
  set.prompts = to_text_batch(tokenizer, prompts, e.context);
  set.study = study_numbers(d, d.encoder_train, e.study);
  if (e.positive_weights > 0) set.positive_weights = positive_weights(states, e.positive_weights);
  return set;
}

/// What an arm that stops early is validated on, but for the maps.
EncoderDataset validation_set(Run::Impl& run, const TextBatch& prompts) {
  const RunData& d = run.data();
  EncoderDataset set;
  set.images = run.images(d.val);
  set_labels(set, take(d.states, d.val));
  set.prompts = prompts;
  return set;
}

}  // namespace

EncoderTrainerOptions Run::Impl::encoder_options(const Arm& arm) {
  const auto& e = config.encoder;
  EncoderTrainerOptions options;
  options.image = image_tower(config);
  options.text = text_tower(config);
  options.loss.clip_weight = arm.clip_weight;
  options.loss.class_form = class_form(config);
  options.loss.class_bias = e.class_bias_value;
  options.loss.logit_scale = e.logit_scale;
  options.loss.logit_bias = e.logit_bias;
  if (e.loss == "siglip") options.loss.contrastive_form = ContrastiveForm::kSigmoid;
  if (e.negatives == "masked") options.loss.label_pairs = LabelPairs::kIgnored;
  if (e.negatives == "soft") options.loss.label_pairs = LabelPairs::kSoft;
  if (e.negatives == "positives") options.loss.label_pairs = LabelPairs::kPositives;
  options.loss.label_softness = e.label_softness;
  if (e.uncertain == "smoothed") options.loss.uncertain = UncertainLabels::kSmoothed;
  options.loss.uncertain_target = e.uncertain_target;
  if (e.learn_temperature) {
    options.loss.min_logit_scale = e.min_logit_scale;
    options.loss.max_logit_scale = e.max_logit_scale;
  }
  options.learn_logit_scale = e.learn_temperature;
  options.learn_class_bias = e.class_bias;
  options.learn_logit_bias = e.loss == "siglip";
  options.augment.mode = arm.maps.empty() ? ChannelMode::kNone : channel_mode(e.mode);
  options.augment.map_index = e.map_index;
  options.augment.max_rotation = e.rotation;
  options.augment.max_shift = e.shift;
  options.augment.max_scale = e.zoom;
  options.epochs = e.epochs;
  options.batch_size = e.batch;
  options.seed = static_cast<std::uint64_t>(config.seed);
  options.optimizer.learning_rate = e.learning_rate;
  options.optimizer.weight_decay = e.weight_decay;
  options.optimizer.warmup_steps = e.warmup_steps;
  options.optimizer.ema_decay = e.ema;
  options.optimizer.clip_norm = e.clip_norm;
  options.optimizer.layer_decay = e.layer_decay;
  options.optimizer.freeze = parse_names(e.freeze);
  options.optimizer.max_skipped = e.max_skipped;
  options.optimizer.min_improvement = e.min_improvement;
  options.chunk_size = e.chunk;
  options.device = device;
  options.precision = training_precision(e.precision);
  return options;
}

void Run::Impl::train_encoder_arms() {
  constexpr const char* kFunction = "daug::Run: encoders";
  const std::string made_by = fingerprint(Stage::kEncoders);
  const RunData& d = data();
  const auto group = config.ranks > 1 ? make_process_group(process_group_options(config)) : nullptr;
  const detail::Ranks ranks(group.get());
  ranks.require_same(kFunction, "settings and data", made_by);
  // Rank 0 alone changes the folder; what it cannot do is an error on all.
  const auto by_first = [&](const std::function<void()>& work) {
    ranks.of_all(kFunction, [&] {
      if (ranks.rank() == 0) work();
      return 0.0;
    });
  };
  const auto texts = study_texts(d, d.encoder_train);
  const auto prompts = training_prompts(d.cohort.findings, class_form(config));
  by_first([&] {
    fs::create_directories(path("encoders"));
    make_tokenizer(*this, texts, prompts, made_by);
  });
  const Tokenizer tokenizer = load_tokenizer(*this);
  const EncoderDataset common = training_set(*this, tokenizer, texts, prompts);
  const bool validates = config.encoder.patience > 0;
  const EncoderDataset validation = validates ? validation_set(*this, common.prompts) : EncoderDataset();

  const std::vector<Arm> list = arms();
  std::vector<EncoderDataset> datasets;
  std::vector<EncoderTrainerOptions> options;
  for (const auto& arm : list) {
    datasets.push_back(common);
    datasets.back().maps = arm_maps(arm, d.encoder_train);
    options.push_back(encoder_options(arm));
    options.back().text.vocab_size = tokenizer.size();
    options.back().group = group.get();
  }
  if (config.budget > 0) {
    const std::int64_t epochs = remembered("encoder_epochs", made_by, [&] {
      EncoderTrainerOptions probe = options.back();
      probe.epochs = 1;
      const auto start = std::chrono::steady_clock::now();
      train_encoders(starting_encoders(list.back(), probe), datasets.back(), probe, stage_control("measure encoders"));
      control.stop.throw_if_stopped(kFunction);  // what was cut short measures nothing
      const double epoch = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      const double seconds = config.budget * 60 * kBudgetShares.encoders * static_cast<double>(network_threads(config));
      return std::max<std::int64_t>(1, static_cast<std::int64_t>(seconds / epoch / static_cast<double>(list.size())));
    });
    for (auto& option : options) option.epochs = epochs;
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    TrainerOptions& optimizer = options[i].optimizer;
    optimizer.checkpoint = path(list[i].file() + ".checkpoint");
    optimizer.fingerprint = made_by + " " + list[i].name;
    by_first([&] { keep_other_checkpoint(Stage::kEncoders, "encoder " + list[i].name, optimizer); });
  }
  if (has_checkpoint()) pretrained();  // read once, before the threads share it
  std::vector<std::string> notes(list.size());
  // Arms are independent: each trains on one thread, several side by side. No inference mode here. Those of several
  // ranks take turns, as ranks have to do everything in the same order.
  for_each_parallel(list.size(), ranks.size() > 1 ? 1 : network_threads(config), [&](std::size_t i) {
    const Arm& arm = list[i];
    const std::string file = path(arm.file());
    const auto is_there = [&] {
      return fs::exists(file) && read_safetensors_header(file).metadata["fingerprint"] == made_by ? 1.0 : 0.0;
    };
    if (ranks.of_all(kFunction, is_there)[0] > 0) return;
    EncoderTrainerOptions trained = options[i];
    trained.optimizer.checkpoint_every =
        std::max<std::int64_t>(1, common.images.size(0) / trained.batch_size);  // an epoch
    trained.optimizer.patience = config.encoder.patience;
    EncoderDataset held_out = validation;
    if (validates) held_out.maps = arm_maps(arm, d.val);
    TrainingHistory history;
    const std::map<std::string, std::string> metadata = {
        {"fingerprint", made_by}, {"arm", arm.name}, {"tokenizer", tokenizer_fingerprint()}};
    const auto keep_last = [&](const EncoderPair& last) {
      by_first([&] {
        if (validates) save_encoders(path(arm.last_file()), last, metadata);
      });
    };
    const EncoderPair pair = train_encoders(starting_encoders(arm, trained), datasets[i], trained,
                                            stage_control("train encoder: " + arm.name), &history,
                                            validates ? &held_out : nullptr, keep_last);
    require_finished(history, "encoders");
    if (history.skipped_steps > 0)
      notes[i] += fmt::format("; {} steps without finite loss and gradient were skipped", history.skipped_steps);
    if (validates)
      notes[i] += fmt::format("; the best of {} validations after {} of {} steps", history.validation.size(),
                              history.best_step, history.loss.size());
    by_first([&] {
      write_history(file + ".history", history, made_by);
      save_encoders(file, pair, metadata);  // last, as an arm that has it is done
      fs::remove(trained.optimizer.checkpoint);
    });
  });
  for (std::size_t i = 0; i < list.size(); ++i)
    if (!notes[i].empty()) log("encoder " + list[i].name + notes[i]);
}

}  // namespace daug
