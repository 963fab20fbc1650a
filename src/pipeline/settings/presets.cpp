// The presets: settings that belong together.

#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/pipeline/run_config.h"

namespace daug {

std::vector<std::string> preset_names() { return {"tiny", "small", "reference"}; }

void apply_preset(RunConfig& c, const std::string& name) {
  const RunConfig given = c;
  c = RunConfig{};
  c.preset = name;
  c.data = given.data;
  c.out = given.out;
  c.force = given.force;
  if (name == "tiny") return;
  if (name == "small") {
    c.size = 64;
    c.diffusion.steps = 2000;
    c.diffusion.levels = "1,2,2";
    c.diffusion.attention = "4";
    c.diffusion.learning_rate = 1e-3;
    c.diffusion.ema = 0.998;
    c.guide.levels = "1,2,2,4";
    c.guide.attention = "8";
    c.maps.steps = 5;
    c.maps.evidence_samples = 1;
    c.encoder.epochs = 40;
    return;
  }
  if (name == "reference") {
    c.size = 256;
    c.diffusion = {.steps = 500000,
                   .batch = 16,
                   .base = 128,
                   .blocks = 2,
                   .patch = 1,
                   .heads = 1,
                   .norm_groups = 32,
                   .levels = "1,1,2,2,4,4",
                   .attention = "16",
                   .schedule = "linear",
                   .prediction = "eps",
                   .embedding = "add",
                   .learning_rate = 1e-4,
                   .ema = 0.9999,
                   .max_level = 1000,
                   .finding_dropout = 0.15,
                   .condition_dropout = 0.15,
                   .labelled_share = 0};
    c.guide = {.steps = 150000,
               .batch = 32,
               .base = 32,
               .blocks = 4,
               .levels = "1,1,2,2,4,4",
               .attention = "8,16,32",
               .learning_rate = 1e-4};
    c.diffusion.variance = "learned_range";
    c.maps.level = 500;
    c.maps.steps = 500;
    c.maps.evaluations = 1;
    c.maps.guidance = "classifier";
    c.maps.classifier_scale = 100;
    c.labels.uncertain = c.labels.not_mentioned = "zeros";
    c.maps.train_images = 0;
    c.maps.smoothing = 0;
    c.encoder.maps = "difference";
    c.encoder.rotation = c.encoder.shift = c.encoder.zoom = 0;
    c.encoder.ema = 0;
    c.encoder.kind = kClipViT;
    c.encoder.embedding = 512;
    c.encoder.epochs = 10;
    c.encoder.learning_rate = 2e-5;
    c.encoder.weight_decay = 0.01;
    c.encoder.clip_weight = 0.7;
    c.encoder.logit_scale = 4.602;
    c.encoder.context = 154;
    return;
  }
  fail(ErrorCode::kInvalidArgument, "daug::apply_preset", "preset", "tiny, small or reference", name);
}

}  // namespace daug
