// The preset with the published settings (arXiv 2412.04828 and its authors' released configuration).

#include "daug/pipeline/run_config.h"
#include "support/catch.h"

using namespace daug;

TEST_CASE("the reference preset has the published settings and none of our own", "[pipeline]") {
  RunConfig c;
  apply_preset(c, "reference");
  REQUIRE_NOTHROW(c.validate());
  CHECK(c.size == 256);
  CHECK(c.labels.uncertain == "zeros");
  CHECK(c.labels.not_mentioned == "zeros");

  CHECK(c.diffusion.schedule == "linear");
  CHECK(c.diffusion.max_level == 1000);
  CHECK(c.diffusion.prediction == "eps");
  CHECK(c.diffusion.variance == "learned_range");
  CHECK(c.diffusion.base == 128);
  CHECK(c.diffusion.blocks == 2);
  CHECK(c.diffusion.patch == 1);
  CHECK(c.diffusion.heads == 1);
  CHECK(c.diffusion.attention == "16");
  CHECK(c.diffusion.embedding == "add");
  CHECK(c.diffusion.learning_rate == 1e-4);
  CHECK(c.diffusion.ema == 0.9999);
  CHECK(c.guide.base == 32);
  CHECK(c.guide.blocks == 4);
  CHECK(c.guide.attention == "8,16,32");

  // A plain walk to level 500 and back in single steps, and the map as it comes.
  CHECK(c.maps.solver == "ddim");
  CHECK(c.maps.level == 500);
  CHECK(c.maps.steps == 500);
  CHECK(c.maps.evaluations == 1);
  CHECK(c.maps.guidance == "classifier");
  CHECK(c.maps.classifier_scale == 100);
  CHECK(c.maps.smoothing == 0);
  CHECK(c.encoder.maps == "difference");

  CHECK(c.encoder.kind == kClipViT);
  CHECK(c.encoder.context == 154);
  CHECK(c.encoder.epochs == 10);
  CHECK(c.encoder.batch == 32);
  CHECK(c.encoder.learning_rate == 2e-5);
  CHECK(c.encoder.weight_decay == 0.01);
  CHECK(c.encoder.warmup_steps == 10);
  CHECK(c.encoder.clip_weight == 0.7);
  CHECK(c.encoder.logit_scale == 4.602);
  CHECK_FALSE(c.encoder.learn_temperature);
  CHECK_FALSE(c.encoder.class_bias);
  CHECK(c.encoder.loss == "clip");
  CHECK(c.encoder.negatives == "all");
  // Nothing published averages the encoders' weights or moves their images.
  CHECK(c.encoder.ema == 0);
  CHECK(c.encoder.rotation == 0);
  CHECK(c.encoder.shift == 0);
  CHECK(c.encoder.zoom == 0);
}
