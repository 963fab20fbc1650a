// What --budget allows is measured first.

#include <filesystem>
#include <string>

#include "daug/core/error.h"
#include "daug/core/progress.h"
#include "daug/io/file.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::error_text;
using daug::test::Scratch;
using daug::test::smallest;

TEST_CASE("a stop ends the measurement of a budget after a step, and nothing of it is kept", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.budget = 1e-6;  // the least of each training
  const auto stopped = [&](Stage stage, const std::string& name, const std::string& number) {
    INFO(name);
    StopSource stop;
    RunControl control;
    int steps = 0;
    control.stop = stop.token();
    control.progress = [&](const Progress& progress) {
      if (progress.stage != "measure " + name) return;
      ++steps;
      stop.request_stop();
    };
    Run run(config, control);
    daug::test::contains(error_text(ErrorCode::kCancelled, [&] { run.execute(stage); }), name);
    CHECK(steps == 1);
    CHECK_FALSE(fs::exists(config.out + "/stages/" + number + ".safetensors"));
    // What goes on afterwards measures anew.
    CHECK(Run(config, {}).execute(stage));
    CHECK(fs::exists(config.out + "/stages/" + number + ".safetensors"));
  };
  stopped(Stage::kTranslator, "translator", "translator_steps");
  stopped(Stage::kGuide, "guide", "guide_steps");
  CHECK(Run(config, {}).execute(Stage::kHeatmaps));
  stopped(Stage::kEncoders, "encoders", "encoder_epochs");

  // The methods say what was trained, not what the settings would have been.
  REQUIRE(config.diffusion.steps == 6);
  REQUIRE(config.encoder.epochs == 2);
  for (const Stage stage : {Stage::kIndex, Stage::kEvaluate, Stage::kReport}) CHECK(Run(config, {}).execute(stage));
  const std::string html = read_text_file(config.out + "/report.html");
  daug::test::contains(html, "training images for 20 steps of ");
  daug::test::contains(html, " for 1 epochs with a hybrid loss");
}

TEST_CASE("a larger budget trains longer", "[pipeline]") {
  // Of the training that was decided on, the first step is enough.
  const auto steps = [](double minutes) {
    const Scratch scratch;
    RunConfig config = smallest(scratch.path("run"));
    config.budget = minutes;
    config.diffusion.batch = 2;
    StopSource stop;
    RunControl control;
    std::int64_t planned = 0;
    control.stop = stop.token();
    control.progress = [&](const Progress& progress) {
      if (progress.stage != "train translator") return;
      planned = progress.total;
      stop.request_stop();
    };
    Run run(config, control);
    error_text(ErrorCode::kCancelled, [&] { run.execute(Stage::kTranslator); });
    return planned;
  };
  CHECK(steps(1e-6) == 20);  // the least
  CHECK(steps(600) > 20);    // of steps that take milliseconds, hours of them
}
