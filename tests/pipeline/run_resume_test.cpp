// Runs that are stopped, and go on.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/progress.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::caught;
using daug::test::contains_text;
using daug::test::finished_run;
using daug::test::Scratch;
using daug::test::smallest;

TEST_CASE("stopping and resuming gives the weights of an uninterrupted training, bit for bit", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("straight"));
  Run(config, {}).execute(Stage::kTranslator);
  const auto expected = read_file(config.out + "/translator.safetensors");

  config.out = scratch.path("interrupted");
  StopSource stop;
  RunControl control;
  control.stop = stop.token();
  control.progress = [&](const Progress& progress) {
    if (progress.stage == "train translator" && progress.done == 2) stop.request_stop();
  };
  CHECK(caught([&] { Run(config, control).execute(Stage::kTranslator); }).code() == ErrorCode::kCancelled);
  CHECK_FALSE(fs::exists(config.out + "/translator.safetensors"));
  CHECK(fs::exists(config.out + "/stages/translator_checkpoint.safetensors"));
  // The time before the stop counts.
  const auto seconds = [&](const std::string& name) {
    return nlohmann::json::parse(read_text_file(config.out + "/stages/" + name)).at("seconds").get<double>();
  };
  const double before = seconds("translator.begun.json");
  CHECK(before > 0);
  CHECK(Run(config, {}).execute(Stage::kTranslator));
  CHECK(read_file(config.out + "/translator.safetensors") == expected);
  CHECK(seconds("translator.json") > before);
  CHECK_FALSE(fs::exists(config.out + "/stages/translator.begun.json"));
}

TEST_CASE("the guide and the encoders, stopped and resumed, are those of an uninterrupted training, bit for bit",
          "[pipeline]") {
  struct Trained {
    Stage stage;
    std::string progress;            ///< what it reports
    std::string checkpoint;          ///< what a stop leaves
    std::vector<std::string> files;  ///< what it makes
  };
  const std::vector<Trained> stages = {
      {Stage::kGuide, "train guide", "stages/guide_checkpoint.safetensors", {"guide.safetensors"}},
      {Stage::kEncoders,
       "train encoder: image",
       "encoders/image.safetensors.checkpoint",
       {"encoders/image.safetensors", "encoders/image_evidence.safetensors", "encoders/image_noise.safetensors"}}};
  for (const auto& [stage, progress, checkpoint, files] : stages) {
    INFO(stage_name(stage));
    const Scratch scratch;
    const RunConfig config = finished_run(scratch);
    std::vector<std::vector<std::uint8_t>> expected;
    for (const auto& file : files) expected.push_back(read_file(config.out + "/" + file));
    for (const auto& file : files) fs::remove(config.out + "/" + file);
    StopSource stop;
    RunControl control;
    control.stop = stop.token();
    control.progress = [&, name = progress](const Progress& now) {
      if (now.stage == name && now.done == 2) stop.request_stop();
    };
    CHECK(caught([&] { Run(config, control).execute(stage); }).code() == ErrorCode::kCancelled);
    CHECK_FALSE(fs::exists(config.out + "/" + files[0]));
    CHECK(fs::exists(config.out + "/" + checkpoint));
    CHECK(Run(config, {}).execute(stage));
    for (std::size_t i = 0; i < files.size(); ++i) CHECK(read_file(config.out + "/" + files[i]) == expected[i]);
    CHECK_FALSE(fs::exists(config.out + "/" + checkpoint));
  }
}

TEST_CASE("a training that was stopped under other settings begins anew, as in a fresh folder", "[pipeline]") {
  struct Stopped {
    Stage stage;
    std::string progress;    ///< what it reports
    std::string checkpoint;  ///< what a stop leaves
    std::string file;        ///< what it makes
    std::function<void(RunConfig&)> change;
  };
  const std::vector<Stopped> stages = {
      {Stage::kTranslator, "train translator", "stages/translator_checkpoint.safetensors", "translator.safetensors",
       [](RunConfig& config) { config.seed = 7; }},
      {Stage::kGuide, "train guide", "stages/guide_checkpoint.safetensors", "guide.safetensors",
       [](RunConfig& config) { config.guide.learning_rate *= 2; }},
      {Stage::kEncoders, "train encoder: image", "encoders/image.safetensors.checkpoint", "encoders/image.safetensors",
       [](RunConfig& config) { config.encoder.learning_rate *= 2; }}};
  for (const auto& [stage, progress, checkpoint, file, change] : stages) {
    INFO(stage_name(stage));
    const Scratch scratch;
    const RunConfig config = finished_run(scratch);  // its files are those of a fresh folder
    const auto expected = read_file(config.out + "/" + file);
    fs::remove(config.out + "/" + file);
    RunConfig other = config;
    change(other);
    struct Heard {
      std::int64_t first = 0;  ///< step that was the first to be done
      std::string said;
    };
    // Runs the stage, and stops it after step `last`.
    const auto heard = [&, name = progress, of = stage](const RunConfig& settings, std::int64_t last) {
      Heard all;
      StopSource stop;
      RunControl control;
      control.stop = stop.token();
      control.progress = [&](const Progress& now) {
        if (now.stage != name) return;
        if (all.first == 0) all.first = now.done;
        if (now.done == last) stop.request_stop();
      };
      Run run(settings, control, [&](const std::string& line) { all.said += line + "\n"; });
      if (last > 0)
        CHECK(caught([&] { run.execute(of); }).code() == ErrorCode::kCancelled);
      else
        CHECK(run.execute(of));
      return all;
    };
    CHECK(heard(other, 1).first == 1);
    REQUIRE(fs::exists(config.out + "/" + checkpoint));
    const Heard resumed = heard(other, 2);  // the same settings go on
    CHECK(resumed.first == 2);
    CHECK(resumed.said.find("begins anew") == std::string::npos);
    REQUIRE(fs::exists(config.out + "/" + checkpoint));
    const Heard anew = heard(config, 0);
    CHECK(anew.first == 1);
    CHECK_THAT(anew.said, contains_text(checkpoint + " is of other settings"));
    CHECK(read_file(config.out + "/" + file) == expected);
    CHECK_FALSE(fs::exists(config.out + "/" + checkpoint));
    // It was kept, and goes on when its settings are back.
    CHECK(fs::exists(config.out + "/" + checkpoint + ".aside"));
    const Heard back = heard(other, 0);
    CHECK(back.first == 3);
    CHECK_THAT(back.said, contains_text(checkpoint + ".aside, which was kept, after 2 steps"));
    CHECK_FALSE(fs::exists(config.out + "/" + checkpoint));
    CHECK_FALSE(fs::exists(config.out + "/" + checkpoint + ".aside"));
  }
}

TEST_CASE("a damaged checkpoint stops a run with what to do, which helps", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const std::string checkpoint = config.out + "/stages/guide_checkpoint.safetensors";
  fs::remove(config.out + "/guide.safetensors");
  // One that is whole and lacks what a training needs, and one that is no such file.
  SafetensorsFile empty;
  empty.metadata = {{"format", "daug-checkpoint-1"}, {"fingerprint", Run(config, {}).fingerprint(Stage::kGuide)}};
  write_safetensors(checkpoint, empty);
  const auto told = [&] {
    return daug::test::error_text(ErrorCode::kFormat, [&] { Run(config, {}).execute(Stage::kGuide); });
  };
  daug::test::contains(told(), "without " + checkpoint + " the training begins anew");
  write_file_atomically(checkpoint, "half a checkpoint");
  CHECK(daug::test::mentions(told(), checkpoint, "remove that file", "--force guide"));
  RunConfig forced = config;
  forced.force = {"guide"};
  SECTION("force") { CHECK(Run(forced, {}).execute(Stage::kGuide)); }
  SECTION("remove") {
    fs::remove(checkpoint);
    CHECK(Run(config, {}).execute(Stage::kGuide));
  }
  CHECK_FALSE(fs::exists(checkpoint));
  CHECK(fs::exists(config.out + "/guide.safetensors"));

  // No checkpoint survives --force, those of other settings included.
  const std::vector<std::string> others = {checkpoint + ".aside", checkpoint + ".aside.new"};
  for (const auto& other : others) write_file_atomically(other, "of other settings");
  CHECK(Run(forced, {}).execute(Stage::kGuide));
  for (const auto& other : others) CHECK_FALSE(fs::exists(other));
}

TEST_CASE("an evaluation stops when it is asked to, and a stopped run begins no stage", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  const auto before = read_text_file(config.out + "/metrics.json");
  config.force = {"evaluate"};
  StopSource stop;
  RunControl control;
  control.stop = stop.token();
  control.progress = [&](const Progress& progress) {
    if (progress.stage == "occlusion maps") stop.request_stop();
  };
  Run run(config, control);
  CHECK(caught([&] { run.execute(Stage::kEvaluate); }).code() == ErrorCode::kCancelled);
  CHECK(read_text_file(config.out + "/metrics.json") == before);
  CHECK(caught([&] { run.execute(Stage::kTranslator); }).code() == ErrorCode::kCancelled);
}
