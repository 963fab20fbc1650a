// How settings become the options of the library's parts.

#include "pipeline/settings/stage_options.h"

#include <torch/nn/module.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "daug/pipeline/run_config.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_trainer.h"
#include "pipeline/run_impl.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::mentions;

namespace {

std::int64_t parameter_count(const torch::nn::Module& network) {
  std::int64_t count = 0;
  for (const auto& parameter : network.parameters()) count += parameter.numel();
  return count;
}

/// A run of two findings, of which no file is there.
Run::Impl run_of(const RunConfig& config) {
  Run::Impl run;
  run.config = config;
  run.data_.emplace().cohort.findings = {"Edema", "Nodule"};
  return run;
}

/// The settings that a command line gives.
RunConfig settings_from(const std::vector<std::string>& words) {
  std::vector<const char*> arguments = {"program"};
  for (const auto& word : words) arguments.push_back(word.c_str());
  const CommandLine line = parse_command_line(static_cast<int>(arguments.size()), arguments.data(), "test");
  REQUIRE_FALSE(line.exit);
  return line.config;
}

/// A value of a setting, other than its default, and what it makes of options.
template <class Options>
struct Arrival {
  const char* setting;
  const char* value;                     ///< as on the command line; empty: it is a flag
  bool (*arrived)(const Options&);       ///< whether it made these
  std::vector<std::string> beside = {};  ///< what else the command line says
};

/// Checks that each arrives and nothing looks like it before, and that every setting of the section is among them or
/// those that are seen elsewhere.
template <class Options, std::size_t N, class Make>
void check_arrivals(const std::string& section, const Arrival<Options> (&arrivals)[N], std::set<std::string> seen,
                    const Make& make) {
  for (const auto& [setting, value, arrived, beside] : arrivals) {
    const std::string given = std::string("--") + setting + (*value ? "=" : "") + value;
    INFO(given);
    std::vector<std::string> words = beside;
    CHECK_FALSE(arrived(make(run_of(settings_from(words)))));
    words.push_back(given);
    CHECK(arrived(make(run_of(settings_from(words)))));
    seen.insert(setting);
  }
  RunConfig config;
  for (const auto& setting : settings(config)) {
    if (setting.name.rfind(section, 0) != 0) continue;
    INFO(setting.name);
    CHECK(seen.count(setting.name) == 1);
  }
}

}  // namespace

TEST_CASE("no setting within its range is out of that of the option it becomes", "[pipeline]") {
  // What the options refuse at an end of a setting's range may be something else that no longer fits it, such as a
  // size.
  const auto not_refused = [](const RunConfig& config, const char* option) {
    const auto checked = [&](const auto& check) {
      try {
        check();
      } catch (const Error& error) {
        INFO(error.what());
        CHECK_FALSE(mentions(error, std::string(": ") + option + ": expected"));
      }
    };
    Run::Impl run = run_of(config);
    checked([&] { denoiser_network(config, 2).validate(); });
    checked([&] { guide_network(config, 2).validate(); });
    checked([&] { evidence_options(config).validate(noise_schedule(config)); });
    checked([&] { image_tower(config).validate(); });
    checked([&] { text_tower(config).validate(); });
    checked([&] { run.denoiser_options().validate(noise_schedule(config)); });
    checked([&] { run.guide_options().validate(noise_schedule(config)); });
    const EncoderTrainerOptions encoder = run.encoder_options(run.arms().back());
    checked([&] { encoder.loss.validate(); });
    checked([&] { encoder.validate(); });
    checked([&] { encoder.optimizer.validate(); });
  };
  const std::pair<const char*, const char*> settings_and_options[] = {
      {"diffusion.base", "model_channels"},
      {"diffusion.blocks", "num_res_blocks"},
      {"diffusion.heads", "num_heads"},
      {"diffusion.norm_groups", "norm_groups"},
      {"diffusion.patch", "patch"},
      {"diffusion.dropout", "dropout"},
      {"diffusion.batch", "batch_size"},
      {"diffusion.max_level", "max_level"},
      {"diffusion.ema", "ema_decay"},
      {"diffusion.learning_rate", "learning_rate"},
      {"diffusion.warmup_steps", "warmup_steps"},
      {"diffusion.weight_decay", "weight_decay"},
      {"diffusion.steps", "steps"},
      {"diffusion.min_snr", "min_snr"},
      {"diffusion.finding_dropout", "finding_dropout"},
      {"diffusion.condition_dropout", "condition_dropout"},
      {"diffusion.labelled_share", "labelled_share"},
      {"guide.base", "model_channels"},
      {"guide.blocks", "num_res_blocks"},
      {"guide.batch", "batch_size"},
      {"guide.warmup_steps", "warmup_steps"},
      {"guide.weight_decay", "weight_decay"},
      {"guide.steps", "steps"},
      {"guide.learning_rate", "learning_rate"},
      {"maps.evidence_samples", "samples"},
      {"maps.memory_budget", "memory_budget"},
      {"encoder.embedding", "embed_dim"},
      {"encoder.drop_path", "drop_path"},
      {"encoder.map_dropout", "dropout"},
      {"encoder.vocabulary", "vocab_size"},
      {"encoder.context", "context_length"},
      {"encoder.epochs", "epochs"},
      {"encoder.batch", "batch_size"},
      {"encoder.chunk", "chunk_size"},
      {"encoder.ema", "ema_decay"},
      {"encoder.warmup_steps", "warmup_steps"},
      {"encoder.weight_decay", "weight_decay"},
      {"encoder.clip_norm", "clip_norm"},
      {"encoder.layer_decay", "layer_decay"},
      {"encoder.learning_rate", "learning_rate"},
      {"encoder.max_skipped", "max_skipped"},
      {"encoder.min_improvement", "min_improvement"},
      {"encoder.clip_weight", "clip_weight"},
      {"encoder.logit_scale", "logit_scale"},
      {"encoder.min_logit_scale", "min_logit_scale"},
      {"encoder.max_logit_scale", "max_logit_scale"},
      {"encoder.logit_bias", "logit_bias"},
      {"encoder.class_bias_value", "class_bias"},
      {"encoder.uncertain_target", "uncertain_target"},
      {"encoder.label_softness", "label_softness"}};
  for (const auto& [name, option] : settings_and_options) {
    INFO(name);
    bool found = false;
    RunConfig config;
    config.encoder.learn_temperature = true;  // or its bounds become nothing
    config.encoder.min_logit_scale = -10;
    config.encoder.max_logit_scale = 10;
    for (const auto& setting : settings(config)) {
      if (setting.name != name) continue;
      found = true;
      for (const double end : {setting.low, setting.high}) {
        INFO(end);
        if (const auto* integer = std::get_if<std::int64_t*>(&setting.value))
          **integer = static_cast<std::int64_t>(end);
        else
          *std::get<double*>(setting.value) = end;
        not_refused(config, option);
      }
    }
    CHECK(found);
  }
}

TEST_CASE("warm-up and weight decay are settings of each training, with one value in all presets", "[pipeline]") {
  for (const auto& name : preset_names()) {
    INFO(name);
    RunConfig preset;
    apply_preset(preset, name);
    CHECK(preset.diffusion.warmup_steps == 20);
    CHECK(preset.diffusion.weight_decay == 0);
    CHECK(preset.guide.warmup_steps == 10);
    CHECK(preset.guide.weight_decay == 0.01);
    CHECK(preset.encoder.warmup_steps == 10);
  }
  const daug::test::Scratch scratch;
  Run::Impl run;
  run.config = daug::test::smallest(scratch.path("run"));
  run.config.data = daug::test::small_cohort(scratch.path("cohort"), 8, 4, 4);
  const auto prints = [&] {
    std::vector<std::string> all;
    for (const Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kEncoders})
      all.push_back(run.fingerprint(stage));
    return all;
  };
  const auto before = prints();
  run.config.guide.warmup_steps = 4;
  const auto other_guide = prints();
  CHECK(other_guide[0] == before[0]);
  CHECK(other_guide[1] != before[1]);
  CHECK(other_guide[2] == before[2]);
  run.config.encoder.warmup_steps = 5;
  const auto other_encoders = prints();
  CHECK(other_encoders[0] == before[0]);
  CHECK(other_encoders[1] == other_guide[1]);
  CHECK(other_encoders[2] != before[2]);
  run.config.diffusion.weight_decay = 0.25;
  CHECK(prints()[0] != before[0]);
  CHECK(prints()[1] == other_guide[1]);
}

TEST_CASE("sizes of the transformers are settings, and those left at 0 are the kind's own", "[pipeline]") {
  // Of a layer four matrices of attention and two of the MLP, four times as wide, with their biases, and two norms; of
  // an image tower patches, class token, positions, two norms and the projection; of a text tower tokens, positions, a
  // norm and the projection.
  const auto layers = [](std::int64_t depth, std::int64_t w) { return depth * (12 * w * w + 13 * w); };
  const auto image_count = [&](std::int64_t patches, std::int64_t patch, std::int64_t w, std::int64_t depth) {
    return (patch * patch + 1 + patches + 1 + 4 + 128) * w + layers(depth, w);
  };
  const auto text_count = [&](std::int64_t w, std::int64_t depth) {
    return (768 + 48 + 2 + 128) * w + layers(depth, w);
  };
  const auto made_image = [](const RunConfig& config) {
    const ImageEncoder network(image_tower(config), LoadedLater{});
    return parameter_count(*network);
  };
  const auto made_text = [](const RunConfig& config) {
    const TextEncoder network(text_tower(config), LoadedLater{});
    return parameter_count(*network);
  };
  RunConfig config;
  config.encoder.kind = "vit";
  CHECK(made_image(config) == image_count(64, 4, 64, 4));
  CHECK(made_text(config) == text_count(64, 1));
  CHECK(image_tower(config).vit.heads == 4);
  CHECK(text_tower(config).heads == 4);
  config.size = 96;
  CHECK(made_image(config) == image_count(64, 12, 64, 4));

  config.encoder.patch = 32;
  config.encoder.width = 24;
  config.encoder.depth = 3;
  config.encoder.heads = 6;
  config.encoder.text_width = 40;
  config.encoder.text_depth = 2;
  config.encoder.text_heads = 5;
  config.validate();
  CHECK(made_image(config) == image_count(9, 32, 48, 3));
  CHECK(made_text(config) == text_count(40, 2));
  config.encoder.kind = "conv";  // whose text tower is as free
  config.encoder.patch = config.encoder.depth = config.encoder.heads = 0;
  config.validate();
  CHECK(made_text(config) == text_count(40, 2));

  RunConfig ends;
  ends.encoder.kind = "vit";
  ends.size = 512;
  ends.encoder.depth = ends.encoder.text_depth = 256;
  ends.encoder.text_width = 1 << 16;
  for (const std::int64_t patch : {1, 512}) {
    ends.encoder.patch = patch;
    CHECK_NOTHROW(ends.validate());
    CHECK_NOTHROW(image_tower(ends).validate());
    CHECK_NOTHROW(text_tower(ends).validate());
  }
}

TEST_CASE("settings of the encoders' training arrive at the options that they become", "[pipeline]") {
  using Options = EncoderTrainerOptions;
  const Arrival<Options> arrivals[] = {
      {"seed", "11", [](const Options& o) { return o.seed == 11; }},
      {"size", "64", [](const Options& o) { return o.image.image_size == 64 && o.image.conv.stages == 4; }},
      {"encoder.kind", "vit", [](const Options& o) { return o.image.kind == ImageEncoderKind::kViT; }},
      {"encoder.kind", "resnet18",
       [](const Options& o) {
         return o.image.kind == ImageEncoderKind::kResNet && !o.image.resnet.bottleneck &&
                o.image.resnet.blocks == std::array<std::int64_t, 4>{2, 2, 2, 2};
       }},
      {"encoder.kind", "resnet50",
       [](const Options& o) {
         return o.image.kind == ImageEncoderKind::kResNet && o.image.resnet.bottleneck &&
                o.image.resnet.blocks == std::array<std::int64_t, 4>{3, 4, 6, 3};
       }},
      {"encoder.kind", "densenet121", [](const Options& o) { return o.image.kind == ImageEncoderKind::kDenseNet; }},
      {"encoder.kind", kClipViT,
       [](const Options& o) {
         return o.image.kind == ImageEncoderKind::kViT && o.image.vit.heads == 12 && o.text.heads == 8;
       }},
      {"encoder.pooling", "attention",
       [](const Options& o) { return o.image.conv.pooling == ImagePooling::kAttention; }},
      {"encoder.pooling", "mean", [](const Options& o) { return o.image.conv.pooling == ImagePooling::kMean; }},
      {"encoder.pooling",
       "flatten",
       [](const Options& o) { return o.image.resnet.pooling == ImagePooling::kFlatten; },
       {"--encoder.kind=resnet18"}},
      {"encoder.pooling",
       "attention",
       [](const Options& o) { return o.image.densenet.pooling == ImagePooling::kAttention; },
       {"--encoder.kind=densenet121"}},
      {"encoder.pooling",
       "mean",
       [](const Options& o) { return o.image.vit.pooling == VitPooling::kMean; },
       {"--encoder.kind=vit"}},
      {"encoder.pooling",
       "attention",
       [](const Options& o) { return o.image.vit.pooling == VitPooling::kAttention; },
       {"--encoder.kind=vit"}},
      {"encoder.patch", "8", [](const Options& o) { return o.image.vit.patch_size == 8; }, {"--encoder.kind=vit"}},
      {"encoder.depth", "3", [](const Options& o) { return o.image.vit.depth == 3; }, {"--encoder.kind=vit"}},
      {"encoder.heads", "8", [](const Options& o) { return o.image.vit.heads == 8; }, {"--encoder.kind=vit"}},
      {"encoder.text_width", "40", [](const Options& o) { return o.text.width == 40 && o.text.mlp_width == 160; }},
      {"encoder.text_depth", "2", [](const Options& o) { return o.text.depth == 2; }},
      {"encoder.text_heads", "8", [](const Options& o) { return o.text.heads == 8; }},
      {"encoder.width", "16", [](const Options& o) { return o.image.conv.base_width == 16; }},
      {"encoder.width",
       "24",
       [](const Options& o) { return o.image.vit.width == 48 && o.image.vit.mlp_width == 192; },
       {"--encoder.kind=vit"}},
      {"encoder.width",
       "16",
       [](const Options& o) { return o.image.resnet.base_width == 16; },
       {"--encoder.kind=resnet50"}},
      {"encoder.width",
       "16",
       [](const Options& o) { return o.image.densenet.base_width == 16 && o.image.densenet.growth == 8; },
       {"--encoder.kind=densenet121"}},
      {"encoder.embedding", "64", [](const Options& o) { return o.image.embed_dim == 64 && o.text.embed_dim == 64; }},
      {"encoder.vocabulary", "600", [](const Options& o) { return o.text.vocab_size == 600; }},
      {"encoder.context", "20", [](const Options& o) { return o.text.context_length == 20; }},
      {"encoder.drop_path", "0.25", [](const Options& o) { return o.image.drop_path == 0.25; }},
      {"encoder.map_dropout", "0.125", [](const Options& o) { return o.image.extra.dropout == 0.125; }},
      {"encoder.map_gates", "", [](const Options& o) { return o.image.extra.gates; }},
      {"encoder.checkpoint", "", [](const Options& o) { return o.image.use_checkpoint && o.text.use_checkpoint; }},
      {"encoder.mode", "channel", [](const Options& o) { return o.augment.mode == ChannelMode::kChannel; }},
      {"encoder.mode", "add", [](const Options& o) { return o.augment.mode == ChannelMode::kAdd; }},
      {"encoder.map_index", "3", [](const Options& o) { return o.augment.map_index == 3; }, {"--encoder.mode=add"}},
      {"encoder.rotation", "15", [](const Options& o) { return o.augment.max_rotation == 15; }},
      {"encoder.shift", "0.25", [](const Options& o) { return o.augment.max_shift == 0.25; }},
      {"encoder.zoom", "0.125", [](const Options& o) { return o.augment.max_scale == 0.125; }},
      {"encoder.epochs", "7", [](const Options& o) { return o.epochs == 7; }},
      {"encoder.batch", "9", [](const Options& o) { return o.batch_size == 9; }},
      {"encoder.chunk", "5", [](const Options& o) { return o.chunk_size == 5; }},
      {"encoder.precision", "bfloat16", [](const Options& o) { return o.precision == TrainingPrecision::kBfloat16; }},
      {"encoder.precision", "auto", [](const Options& o) { return o.precision == TrainingPrecision::kAuto; }},
      {"encoder.learning_rate", "0.25", [](const Options& o) { return o.optimizer.learning_rate == 0.25; }},
      {"encoder.warmup_steps", "5", [](const Options& o) { return o.optimizer.warmup_steps == 5; }},
      {"encoder.weight_decay", "0.25", [](const Options& o) { return o.optimizer.weight_decay == 0.25; }},
      {"encoder.ema", "0.5", [](const Options& o) { return o.optimizer.ema_decay == 0.5; }},
      {"encoder.clip_norm", "2", [](const Options& o) { return o.optimizer.clip_norm == 2; }},
      {"encoder.layer_decay", "0.5", [](const Options& o) { return o.optimizer.layer_decay == 0.5; }},
      {"encoder.freeze", "text.*, image.*.bias",
       [](const Options& o) {
         return o.optimizer.freeze == std::vector<std::string>{"text.*", "image.*.bias"};
       }},
      {"encoder.max_skipped", "3", [](const Options& o) { return o.optimizer.max_skipped == 3; }},
      {"encoder.min_improvement",
       "0.25",
       [](const Options& o) { return o.optimizer.min_improvement == 0.25; },
       {"--encoder.patience=2"}},
      {"encoder.clip_weight", "0.25", [](const Options& o) { return o.loss.clip_weight == 0.25; }},
      {"encoder.class_form", "paired", [](const Options& o) { return o.loss.class_form == ClassForm::kPaired; }},
      {"encoder.class_bias", "", [](const Options& o) { return o.learn_class_bias; }},
      {"encoder.class_bias_value", "-3", [](const Options& o) { return o.loss.class_bias == -3; }},
      {"encoder.logit_scale", "1.5", [](const Options& o) { return o.loss.logit_scale == 1.5; }},
      {"encoder.learn_temperature", "",
       [](const Options& o) {
         return o.learn_logit_scale && o.loss.min_logit_scale == 0 && o.loss.max_logit_scale == 4.60517;
       }},
      {"encoder.min_logit_scale",
       "1",
       [](const Options& o) { return o.loss.min_logit_scale == 1; },
       {"--encoder.learn_temperature"}},
      {"encoder.max_logit_scale",
       "3",
       [](const Options& o) { return o.loss.max_logit_scale == 3; },
       {"--encoder.learn_temperature"}},
      {"encoder.loss", "siglip",
       [](const Options& o) { return o.loss.contrastive_form == ContrastiveForm::kSigmoid && o.learn_logit_bias; }},
      {"encoder.logit_bias", "-4", [](const Options& o) { return o.loss.logit_bias == -4; }, {"--encoder.loss=siglip"}},
      {"encoder.negatives", "masked", [](const Options& o) { return o.loss.label_pairs == LabelPairs::kIgnored; }},
      {"encoder.negatives", "soft", [](const Options& o) { return o.loss.label_pairs == LabelPairs::kSoft; }},
      {"encoder.negatives", "positives", [](const Options& o) { return o.loss.label_pairs == LabelPairs::kPositives; }},
      {"encoder.label_softness",
       "0.5",
       [](const Options& o) { return o.loss.label_softness == 0.5; },
       {"--encoder.negatives=soft"}},
      {"encoder.uncertain", "smoothed",
       [](const Options& o) { return o.loss.uncertain == UncertainLabels::kSmoothed; }},
      {"encoder.uncertain_target",
       "0.25",
       [](const Options& o) { return o.loss.uncertain_target == 0.25; },
       {"--encoder.uncertain=smoothed"}},
  };
  // Checkpoints in stages/encoder_stages_test.cpp, data sets in encoder_settings_test.cpp and encoder_studies_test.cpp
  // there, arms below.
  const std::set<std::string> elsewhere = {"encoder.image_checkpoint",
                                           "encoder.pixels",
                                           "encoder.clip",
                                           "encoder.clip_strict",
                                           "encoder.image_positions",
                                           "encoder.text_positions",
                                           "encoder.text_cleaning",
                                           "encoder.positive_weights",
                                           "encoder.patience",
                                           "encoder.prompts",
                                           "encoder.study",
                                           "encoder.maps",
                                           "encoder.arms"};
  check_arrivals("encoder.", arrivals, elsewhere,
                 [](Run::Impl run) { return run.encoder_options(run.paper_arms().back()); });

  CHECK(image_tower(settings_from({"--encoder.kind=vit", "--encoder.pooling=class"})).vit.pooling ==
        VitPooling::kClassToken);
  // Arms without maps or with the image-text loss alone have these whatever the settings say.
  Run::Impl run = run_of(settings_from({"--encoder.mode=add", "--encoder.clip_weight=0.25"}));
  const std::vector<Arm> arms = run.paper_arms();
  CHECK(run.encoder_options(arms.at(1)).augment.mode == ChannelMode::kNone);
  CHECK(run.encoder_options(arms.at(2)).augment.mode == ChannelMode::kAdd);
  CHECK(run.encoder_options(arms.at(2)).loss.clip_weight == 1);
  // Bounds are of a learnt temperature alone.
  CHECK(std::isinf(run.encoder_options(arms.at(1)).loss.min_logit_scale));
  CHECK(std::isinf(run.encoder_options(arms.at(1)).loss.max_logit_scale));
}

TEST_CASE("settings of the diffusion model and its guide arrive at the options that they become", "[pipeline]") {
  using Options = DenoiserTrainerOptions;
  const Arrival<Options> arrivals[] = {
      {"seed", "11", [](const Options& o) { return o.seed == 11; }},
      {"size", "64", [](const Options& o) { return o.network.image_size == 64; }},
      {"threads", "6", [](const Options& o) { return o.workers == 3; }, {"--diffusion.batch=9"}},
      {"device", "cuda", [](const Options& o) { return o.workers == 1; }},
      {"diffusion.steps", "7", [](const Options& o) { return o.optimizer.steps == 7; }},
      {"diffusion.batch", "9", [](const Options& o) { return o.batch_size == 9; }},
      {"diffusion.base", "16", [](const Options& o) { return o.network.model_channels == 16; }},
      {"diffusion.levels", "1,2.5",
       [](const Options& o) {
         return o.network.channel_mult == std::vector<double>{1, 2.5};
       }},
      {"diffusion.blocks", "3", [](const Options& o) { return o.network.num_res_blocks == 3; }},
      {"diffusion.attention", "2,4",
       [](const Options& o) {
         return o.network.attention_downsample == std::vector<std::int64_t>{2, 4};
       }},
      {"diffusion.heads", "4", [](const Options& o) { return o.network.num_heads == 4; }},
      {"diffusion.embedding", "add", [](const Options& o) { return !o.network.use_scale_shift_norm; }},
      {"diffusion.norm_groups", "8", [](const Options& o) { return o.network.norm_groups == 8; }},
      {"diffusion.patch", "4", [](const Options& o) { return o.network.patch == 4; }},
      {"diffusion.dropout", "0.25", [](const Options& o) { return o.network.dropout == 0.25; }},
      {"diffusion.checkpoint", "", [](const Options& o) { return o.network.use_checkpoint; }},
      {"diffusion.prediction", "x0", [](const Options& o) { return o.loss.prediction == Prediction::kX0; }},
      {"diffusion.variance", "fixed_small",
       [](const Options& o) { return o.loss.variance == VarianceKind::kFixedSmall && o.network.out_channels == 1; }},
      {"diffusion.variance", "learned_range",
       [](const Options& o) { return o.loss.variance == VarianceKind::kLearnedRange && o.network.out_channels == 2; }},
      {"diffusion.objective", "kl", [](const Options& o) { return o.loss.objective == DenoisingObjective::kKl; }},
      {"diffusion.min_snr", "5", [](const Options& o) { return o.loss.min_snr == 5; }},
      {"diffusion.max_level", "300", [](const Options& o) { return o.max_level == 300; }},
      {"diffusion.loss_aware_levels", "", [](const Options& o) { return o.loss_aware_levels; }},
      {"diffusion.learning_rate", "0.25", [](const Options& o) { return o.optimizer.learning_rate == 0.25; }},
      {"diffusion.warmup_steps", "3", [](const Options& o) { return o.optimizer.warmup_steps == 3; }},
      {"diffusion.weight_decay", "0.25", [](const Options& o) { return o.optimizer.weight_decay == 0.25; }},
      {"diffusion.ema", "0.5", [](const Options& o) { return o.optimizer.ema_decay == 0.5; }},
      {"diffusion.precision", "bfloat16", [](const Options& o) { return o.precision == TrainingPrecision::kBfloat16; }},
      {"diffusion.finding_dropout", "0.5", [](const Options& o) { return o.finding_dropout == 0.5; }},
      {"diffusion.condition_dropout", "0.25", [](const Options& o) { return o.condition_dropout == 0.25; }},
      {"diffusion.labelled_share", "0.5", [](const Options& o) { return o.labelled_share == 0.5; }},
  };
  check_arrivals("diffusion.", arrivals, {"diffusion.schedule"}, [](Run::Impl run) { return run.denoiser_options(); });

  using GuideOptions = ClassifierTrainerOptions;
  const Arrival<GuideOptions> guide_arrivals[] = {
      {"seed", "11", [](const GuideOptions& o) { return o.seed == 12; }},  // one more, as the denoiser has that one
      {"size", "64", [](const GuideOptions& o) { return o.network.image_size == 64; }},
      {"threads", "6", [](const GuideOptions& o) { return o.workers == 3; }, {"--guide.batch=9"}},
      {"device", "cuda", [](const GuideOptions& o) { return o.workers == 1; }},
      {"diffusion.max_level", "300", [](const GuideOptions& o) { return o.max_level == 300; }},
      {"guide.steps", "7", [](const GuideOptions& o) { return o.optimizer.steps == 7; }},
      {"guide.batch", "9", [](const GuideOptions& o) { return o.batch_size == 9; }},
      {"guide.base", "4",
       [](const GuideOptions& o) {
         return o.network.model_channels == 4 && o.network.num_head_channels == 4 && o.network.norm_groups == 4;
       }},
      {"guide.levels", "1,2.5",
       [](const GuideOptions& o) {
         return o.network.channel_mult == std::vector<double>{1, 2.5};
       }},
      {"guide.blocks", "3", [](const GuideOptions& o) { return o.network.num_res_blocks == 3; }},
      {"guide.attention", "2,8",
       [](const GuideOptions& o) {
         return o.network.attention_downsample == std::vector<std::int64_t>{2, 8};
       }},
      {"guide.learning_rate", "0.25", [](const GuideOptions& o) { return o.optimizer.learning_rate == 0.25; }},
      {"guide.warmup_steps", "4", [](const GuideOptions& o) { return o.optimizer.warmup_steps == 4; }},
      {"guide.weight_decay", "0.5", [](const GuideOptions& o) { return o.optimizer.weight_decay == 0.5; }},
      {"guide.precision", "bfloat16",
       [](const GuideOptions& o) { return o.precision == TrainingPrecision::kBfloat16; }},
  };
  check_arrivals("guide.", guide_arrivals, {}, [](Run::Impl run) { return run.guide_options(); });

  Run::Impl run = run_of(settings_from({"--diffusion.schedule=cosine"}));
  CHECK(run.schedule().abar(500) == NoiseSchedule::named("cosine", 1000).abar(500));
  CHECK(run.schedule().abar(500) != NoiseSchedule::named("linear", 1000).abar(500));
  CHECK(run.denoiser_options().network.num_findings == 2);
  CHECK(run.guide_options().network.out_channels == 2);
}

TEST_CASE("every training is on the device of its run", "[pipeline]") {
  Run::Impl run = run_of({});
  CHECK(run.denoiser_options().device.is_cpu());
  run.device = c10::Device("cuda:1");
  CHECK(run.denoiser_options().device == run.device);
  CHECK(run.guide_options().device == run.device);
  CHECK(run.encoder_options(run.arms().front()).device == run.device);
}

TEST_CASE("the arms of a run are the four of its maps, and one or two of every other kind", "[pipeline]") {
  const auto names = [](const std::vector<std::string>& words) {
    std::vector<std::string> list;
    for (const Arm& arm : run_of(settings_from(words)).arms()) list.push_back(arm.name);
    return list;
  };
  using Names = std::vector<std::string>;
  CHECK(names({"--encoder.maps=difference"}) == Names{"image, image-text loss", "image",
                                                      "image+difference, image-text loss", "image+difference",
                                                      "image+evidence", "image+noise"});
  CHECK(names({"--encoder.arms=all"}) == Names{"image, image-text loss", "image", "image+evidence, image-text loss",
                                               "image+evidence", "image+difference, image-text loss",
                                               "image+difference", "image+noise, image-text loss", "image+noise"});
}

TEST_CASE("the reference preset has the towers of CLIP ViT-B/32", "[pipeline]") {
  RunConfig config;
  apply_preset(config, "reference");
  config.size = 224;  // as published
  config.encoder.vocabulary = 49408;
  config.encoder.context = 77;
  ImageEncoderOptions image = image_tower(config);
  image.in_channels = 3;
  const ImageEncoder image_network(image, LoadedLater{});
  const TextEncoder text_network(text_tower(config), LoadedLater{});
  // The published model has 151,277,313 parameters, one of which is the temperature.
  CHECK(parameter_count(*image_network) + parameter_count(*text_network) == 151277312);
  config.encoder.kind = "conv";
  CHECK(text_tower(config).depth == 1);
}
