// Settings that mean something, and that go together.

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daug/backend/cuda.h"
#include "daug/core/error.h"
#include "daug/data/labels.h"
#include "daug/data/phantom.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/pipeline/run_config.h"
#include "daug/train/encoder_trainer.h"
#include "daug/translator/solver.h"
#include "stage_options.h"

namespace daug {

namespace {

constexpr const char* kConfig = "daug::RunConfig";

template <class T, class Limit>
void require_each(const std::vector<T>& values, Limit low, Limit high, const char* setting) {
  for (const T value : values) require_range(value, low, high, kConfig, setting);
}

template <class T, class Limit>
void require_list(const std::vector<T>& values, Limit low, Limit high, const char* setting) {
  require(!values.empty(), kConfig, setting, "at least one number", "none");
  require_each(values, low, high, setting);
}

void require_word(const std::string& word, const std::vector<std::string>& known, const char* setting) {
  std::string list;
  for (const auto& one : known) list += (list.empty() ? "" : one == known.back() ? " or " : ", ") + one;
  require(std::find(known.begin(), known.end(), word) != known.end(), kConfig, setting, list, word);
}

void validate_loss(const RunConfig::Encoder& e) {
  require_word(e.loss, {"clip", "siglip"}, "encoder.loss");
  require_word(e.class_form, {"bce", "paired"}, "encoder.class_form");
  require_word(e.uncertain, {"labels", "masked", "smoothed"}, "encoder.uncertain");
  require_word(e.negatives, {"all", "masked", "soft", "positives"}, "encoder.negatives");
  require(e.negatives != "positives" || e.study.empty(), kConfig, "encoder.study",
          "none beside encoder.negatives positives", e.study);
  require(e.class_form == "bce" || !e.class_bias, kConfig, "encoder.class_bias", "false for paired prompts", true);
  require(e.class_form == "bce" || e.class_bias_value == 0, kConfig, "encoder.class_bias_value", "0 for paired prompts",
          e.class_bias_value);
  require(e.positive_weights == 0 || e.positive_weights >= 1, kConfig, "encoder.positive_weights", "0, or at least 1",
          e.positive_weights);
  require_range(e.min_logit_scale, -10.0, e.max_logit_scale, kConfig, "encoder.min_logit_scale");
  if (e.learn_temperature)
    require_range(e.logit_scale, e.min_logit_scale, e.max_logit_scale, kConfig, "encoder.logit_scale");
}

/// Refuses values of settings that would do nothing, as the choice that makes use of them is not made.
void validate_unused(const RunConfig::Encoder& e) {
  const RunConfig::Encoder defaults;
  const auto used_by = [](const char* choice, bool made, const char* setting, const auto& value,
                          const auto& otherwise) {
    require(made || value == otherwise, kConfig, setting, detail::concat(otherwise, " without ", choice), value);
  };
  const bool learnt = e.learn_temperature, appended = e.mode == "append";
  used_by("encoder.learn_temperature", learnt, "encoder.min_logit_scale", e.min_logit_scale, defaults.min_logit_scale);
  used_by("encoder.learn_temperature", learnt, "encoder.max_logit_scale", e.max_logit_scale, defaults.max_logit_scale);
  used_by("encoder.loss siglip", e.loss == "siglip", "encoder.logit_bias", e.logit_bias, defaults.logit_bias);
  used_by("encoder.negatives soft", e.negatives == "soft", "encoder.label_softness", e.label_softness,
          defaults.label_softness);
  used_by("encoder.uncertain smoothed", e.uncertain == "smoothed", "encoder.uncertain_target", e.uncertain_target,
          defaults.uncertain_target);
  used_by("encoder.patience", e.patience > 0, "encoder.min_improvement", e.min_improvement, defaults.min_improvement);
  used_by("encoder.mode append", appended, "encoder.map_dropout", e.map_dropout, defaults.map_dropout);
  used_by("encoder.mode append", appended, "encoder.map_gates", e.map_gates, defaults.map_gates);
  used_by("encoder.mode channel or add", !appended, "encoder.map_index", e.map_index, defaults.map_index);
}

/// Sizes of the transformers: set where there is one that they are of, and fitting each other.
void validate_transformers(const RunConfig& config) {
  using Sizes = std::vector<std::pair<const char*, std::int64_t>>;
  const auto& e = config.encoder;
  const bool vit = e.kind == "vit", own_text = e.clip.empty() && e.kind != kClipViT;
  for (const auto& [name, size] :
       Sizes{{"encoder.patch", e.patch}, {"encoder.depth", e.depth}, {"encoder.heads", e.heads}})
    require(vit || size == 0, kConfig, name, "0, unless encoder.kind is vit", size);
  for (const auto& [name, size] : Sizes{{"encoder.text_width", e.text_width},
                                        {"encoder.text_depth", e.text_depth},
                                        {"encoder.text_heads", e.text_heads}})
    require(own_text || size == 0, kConfig, name, "0 for clip_vit_b32 and beside encoder.clip, which have a text tower",
            size);
  if (vit) {
    const VitTowerOptions tower = image_tower(config).vit;
    require(config.size % tower.patch_size == 0, kConfig, "encoder.patch",
            detail::concat("a divisor of the size, ", config.size), tower.patch_size);
    require(tower.width % tower.heads == 0, kConfig, "encoder.heads",
            detail::concat("a divisor of vit's width, 2 encoder.width = ", tower.width), tower.heads);
  }
  const TextEncoderOptions text = text_tower(config);
  require(text.width % text.heads == 0, kConfig, "encoder.text_heads",
          detail::concat("a divisor of encoder.text_width, ", text.width), text.heads);
}

void validate_towers(const RunConfig& config) {
  const auto& e = config.encoder;
  require_word(e.kind, {"conv", "vit", "resnet18", "resnet50", "densenet121", kClipViT}, "encoder.kind");
  const bool vit = e.kind == "vit", clip_vit = e.kind == kClipViT;
  require(!clip_vit || !e.clip.empty() || config.size % 32 == 0, kConfig, "size", "a multiple of 32 for clip_vit_b32",
          config.size);
  require(!clip_vit || e.pooling == "default", kConfig, "encoder.pooling", "default for clip_vit_b32", e.pooling);
  require_word(e.pooling, {"default", vit ? "class" : "flatten", "attention", "mean"}, "encoder.pooling");
  require_word(e.pixels, {"default", "radiograph"}, "encoder.pixels");
  require(e.pixels == "default" || !e.image_checkpoint.empty(), kConfig, "encoder.pixels",
          "default without encoder.image_checkpoint", e.pixels);
  require(e.clip.empty() || e.image_checkpoint.empty(), kConfig, "encoder.image_checkpoint",
          "none beside encoder.clip, which has an image tower", e.image_checkpoint);
  require(
      e.kind == "conv" || (clip_vit && e.image_checkpoint.empty()) || (e.clip.empty() && e.image_checkpoint.empty()),
      kConfig, "encoder.kind", "conv, the default, beside a checkpoint, which brings its own", e.kind);
  require(e.clip.empty() || e.pooling == "default", kConfig, "encoder.pooling", "default beside encoder.clip",
          e.pooling);
  for (const auto& [name, filter] : {std::pair<const char*, std::string>{"encoder.image_positions", e.image_positions},
                                     {"encoder.text_positions", e.text_positions}}) {
    require_word(filter, {"bicubic_antialias", "bicubic", "linear"}, name);
    require(!e.clip.empty() || filter == "bicubic_antialias", kConfig, name,
            "bicubic_antialias without encoder.clip, whose table it resamples", filter);
  }
  require_word(e.text_cleaning, {"transformers", "open_clip"}, "encoder.text_cleaning");
  validate_transformers(config);
}

}  // namespace

void RunConfig::validate() const {
  RunConfig copy = *this;  // settings() hands out pointers to change
  for (const auto& setting : settings(copy)) setting.validate();
  require_word(preset, preset_names(), "preset");
  require(is_device_name(device), kConfig, "device", "cpu, cuda or cuda:N", "'" + device + "'");
  require(ranks == 1 || device == "cpu", kConfig, "ranks", "1 on " + device, ranks);
  require(ranks == 1 || budget == 0, kConfig, "budget", "0 with several ranks", budget);
  process_group_options(*this).validate();
  require(labels.findings.empty() || labels.vocabulary.empty(), kConfig, "labels.findings",
          "none beside labels.vocabulary, which names them", labels.findings);
  parse_policy(labels.uncertain);
  parse_policy(labels.not_mentioned);
  phantom_labels(phantom.labels);
  parse_box_groups(evaluate.box_groups);
  require(diffusion.embedding == "scale_shift" || diffusion.embedding == "add", kConfig, "diffusion.embedding",
          "scale_shift or add", diffusion.embedding);
  require_predictable(noise_schedule(*this), prediction(diffusion.prediction), kConfig);
  denoising_loss_options(*this).validate();
  require(!guided_by_classifier(*this) || maps.classifier_scale > 0, kConfig, "maps.classifier_scale",
          "more than 0 for classifier guidance", maps.classifier_scale);
  require_range(maps.lowest_level, std::int64_t{0}, maps.highest_level, kConfig, "maps.lowest_level");
  const auto walk = [](const char* name, std::int64_t level) {
    return detail::concat("at most ", name, ", ", level, ": every step leads to another noise level");
  };
  require(maps.steps <= maps.level, kConfig, "maps.steps", walk("maps.level", maps.level), maps.steps);
  require(make_solver(maps.solver, maps.evaluations)->decode_evaluations(maps.steps) >= 1, kConfig, "maps.steps",
          "more than 1 with maps.solver " + maps.solver + ", whose first step asks no network", maps.steps);
  const auto require_level = [&, schedule = noise_schedule(*this)](std::int64_t level, const char* setting) {
    require(level <= diffusion.max_level, kConfig, setting,
            detail::concat("at most diffusion.max_level, ", diffusion.max_level, ", the highest that is trained"),
            level);
    require(schedule.abar(level) > 0, kConfig, setting,
            "a level at which diffusion.schedule leaves some signal, or nothing is left of an image", level);
  };
  require_level(maps.level, "maps.level");
  require_level(study.level, "study.level");
  require_word(maps.precision, {"float32", "bfloat16", "float16"}, "maps.precision");
  require_word(maps.normalisation, {"none", "reference"}, "maps.normalisation");
  require(encoder.maps == "evidence" || encoder.maps == "difference", kConfig, "encoder.maps", "evidence or difference",
          encoder.maps);
  channel_mode(encoder.mode);
  const std::vector<std::string> precisions = {"float32", "bfloat16", "auto"};
  require_word(diffusion.precision, precisions, "diffusion.precision");
  require_word(guide.precision, precisions, "guide.precision");
  require_word(encoder.precision, precisions, "encoder.precision");
  validate_towers(*this);
  validate_loss(encoder);
  validate_unused(encoder);
  require_word(encoder.prompts, {"single", "ensemble"}, "encoder.prompts");
  require_word(encoder.arms, {"paper", "all"}, "encoder.arms");
  require_list(parse_numbers(diffusion.levels, "diffusion.levels"), 1e-3, 1e3, "diffusion.levels");
  require_list(parse_numbers(guide.levels, "guide.levels"), 1e-3, 1e3, "guide.levels");
  require_each(parse_integers(diffusion.attention, "diffusion.attention"), 1, 512, "diffusion.attention");
  require_each(parse_integers(guide.attention, "guide.attention"), 1, 512, "guide.attention");
  const auto evidence_levels = parse_integers(maps.evidence_levels, "maps.evidence_levels");
  require_list(evidence_levels, 1, 1000, "maps.evidence_levels");
  for (const std::int64_t level : evidence_levels) require_level(level, "maps.evidence_levels");
  const auto study_steps = parse_integers(study.steps, "study.steps");
  require_list(study_steps, 1, 1000, "study.steps");
  const bool own = study.level > 0;
  const std::int64_t top = own ? study.level : maps.level;
  for (const std::int64_t steps : study_steps)
    require(steps <= top, kConfig, "study.steps", walk(own ? "study.level" : "maps.level", top), steps);
  require_list(parse_integers(study.evaluations, "study.evaluations"), 1, 20, "study.evaluations");
}

}  // namespace daug
