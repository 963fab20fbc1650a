// How settings become the options of the library's parts.

#include "pipeline/settings/stage_options.h"

#include <torch/nn/module.h>

#include <cstdint>
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
    checked([&] { denoiser_network(config, 2).validate(); });
    checked([&] { guide_network(config, 2).validate(); });
    checked([&] { evidence_options(config).validate(noise_schedule(config)); });
    checked([&] { image_tower(config).validate(); });
    checked([&] { text_tower(config).validate(); });
    DenoiserTrainerOptions denoiser;
    denoiser.batch_size = config.diffusion.batch;
    denoiser.workers = 1;
    denoiser.max_level = config.diffusion.max_level;
    denoiser.optimizer.ema_decay = config.diffusion.ema;
    denoiser.optimizer.learning_rate = config.diffusion.learning_rate;
    denoiser.optimizer.warmup_steps = config.diffusion.warmup_steps;
    denoiser.optimizer.weight_decay = config.diffusion.weight_decay;
    checked([&] { denoiser.validate(noise_schedule(config)); });
    ClassifierTrainerOptions guide;
    guide.batch_size = config.guide.batch;
    guide.workers = 1;
    guide.optimizer.warmup_steps = config.guide.warmup_steps;
    guide.optimizer.weight_decay = config.guide.weight_decay;
    checked([&] { guide.validate(noise_schedule(config)); });
    EncoderTrainerOptions encoder;
    encoder.epochs = config.encoder.epochs;
    encoder.batch_size = config.encoder.batch;
    encoder.chunk_size = config.encoder.chunk;
    encoder.optimizer.ema_decay = config.encoder.ema;
    encoder.optimizer.warmup_steps = config.encoder.warmup_steps;
    encoder.optimizer.weight_decay = config.encoder.weight_decay;
    encoder.optimizer.clip_norm = config.encoder.clip_norm;
    encoder.optimizer.layer_decay = config.encoder.layer_decay;
    checked([&] { encoder.validate(); });
    checked([&] { encoder.optimizer.validate(); });
  };
  const std::pair<const char*, const char*> settings_and_options[] = {{"diffusion.base", "model_channels"},
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
                                                                      {"guide.base", "model_channels"},
                                                                      {"guide.blocks", "num_res_blocks"},
                                                                      {"guide.batch", "batch_size"},
                                                                      {"guide.warmup_steps", "warmup_steps"},
                                                                      {"guide.weight_decay", "weight_decay"},
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
                                                                      {"encoder.layer_decay", "layer_decay"}};
  for (const auto& [name, option] : settings_and_options) {
    INFO(name);
    bool found = false;
    RunConfig config;
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
  run.config.diffusion.warmup_steps = 3;
  run.config.guide.weight_decay = 0.5;

  const TrainerOptions denoiser = run.denoiser_options().optimizer, guide = run.guide_options().optimizer,
                       encoder = run.encoder_options(run.arms().front()).optimizer;
  CHECK(denoiser.warmup_steps == 3);
  CHECK(denoiser.weight_decay == 0.25);
  CHECK(guide.warmup_steps == 4);
  CHECK(guide.weight_decay == 0.5);
  CHECK(encoder.warmup_steps == 5);
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
  Run::Impl run;
  run.config = config;
  const EncoderTrainerOptions options = run.encoder_options(run.arms().front());
  CHECK(options.image.vit.heads == 6);
  CHECK(options.text.heads == 5);
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
  Run::Impl run;
  auto& e = run.config.encoder;
  e.pooling = "attention";
  e.drop_path = 0.25;
  e.map_gates = true;
  e.map_dropout = 0.125;
  e.layer_decay = 0.5;
  e.freeze = "text.*, image.*.bias";
  e.chunk = 5;
  e.loss = "siglip";
  e.logit_bias = -4;
  e.negatives = "soft";
  e.label_softness = 0.5;
  run.config.validate();
  const EncoderTrainerOptions options = run.encoder_options(run.arms().front());
  CHECK(options.image.conv.pooling == ImagePooling::kAttention);
  CHECK(options.image.drop_path == 0.25);
  CHECK(options.image.extra.gates);
  CHECK(options.image.extra.dropout == 0.125);
  CHECK(options.optimizer.layer_decay == 0.5);
  CHECK(options.optimizer.freeze == std::vector<std::string>{"text.*", "image.*.bias"});
  CHECK(options.chunk_size == 5);
  CHECK(options.loss.contrastive_form == ContrastiveForm::kSigmoid);
  CHECK(options.learn_logit_bias);
  CHECK(options.loss.logit_bias == -4);
  CHECK(options.loss.label_pairs == LabelPairs::kSoft);
  CHECK(options.loss.label_softness == 0.5);
  e.kind = "vit";
  for (const auto& [name, pooling] : {std::pair<const char*, VitPooling>{"default", VitPooling::kClassToken},
                                      {"class", VitPooling::kClassToken},
                                      {"mean", VitPooling::kMean},
                                      {"attention", VitPooling::kAttention}}) {
    INFO(name);
    e.pooling = name;
    run.config.validate();
    CHECK(run.encoder_options(run.arms().front()).image.vit.pooling == pooling);
  }
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
