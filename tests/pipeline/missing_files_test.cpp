// Stages that are asked for alone after a file of an earlier one has gone.

#include <filesystem>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::error_text;
using daug::test::finished_run;
using daug::test::mentions;
using daug::test::Scratch;

TEST_CASE("a stage alone names the file of an earlier one that is gone, and the stage to run again", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  struct Lost {
    Stage reader;
    std::string maker, file;
  };
  for (const auto& [reader, maker, file] :
       std::vector<Lost>{{Stage::kHeatmaps, "translator", "translator.safetensors"},
                         {Stage::kEncoders, "heatmaps", "heatmaps/others.daugmaps"},
                         {Stage::kIndex, "encoders", "encoders/image_noise.safetensors"},
                         {Stage::kIndex, "heatmaps", "heatmaps/tests.daugmaps"},
                         {Stage::kEvaluate, "guide", "guide.safetensors"},
                         {Stage::kEvaluate, "heatmaps", "heatmaps/tests.daugmaps"},
                         {Stage::kEvaluate, "encoders", "tokenizer/merges.txt"},
                         {Stage::kEvaluate, "index", "index/image.daugindex"},
                         {Stage::kReport, "heatmaps", "heatmaps/tests.daugmaps"},
                         {Stage::kReport, "evaluate", "metrics.json"}}) {
    INFO(stage_name(reader) << " without " << file);
    const std::string path = config.out + "/" + file, record = config.out + "/stages/" + stage_name(reader);
    const auto finished = read_file(record + ".json"), settings = read_file(config.out + "/config.json");
    fs::rename(path, scratch.path("away"));
    RunConfig forced = config;
    forced.force = {stage_name(reader)};
    const std::string told = error_text(ErrorCode::kMismatch, [&] { Run(forced, {}).execute(reader); });
    CHECK(mentions(told, path, "stage '" + maker + "'", "run that stage again"));
    // What was refused is as it was, and where there is nothing to do nothing is missed.
    REQUIRE(fs::exists(record + ".json"));
    CHECK(read_file(record + ".json") == finished);
    CHECK_FALSE(fs::exists(record + ".begun.json"));
    CHECK(read_file(config.out + "/config.json") == settings);
    CHECK_FALSE(Run(config, {}).execute(reader));
    fs::rename(scratch.path("away"), path);
  }
}

TEST_CASE("a file that a stage does not read may be gone", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  for (const char* file : {"translator.safetensors", "guide.safetensors", "index/image.daugindex",
                           "tokenizer/merges.txt", "encoders/image.safetensors"})
    fs::remove(config.out + "/" + file);
  config.force = {"report"};
  CHECK(Run(config, {}).execute(Stage::kReport));
  daug::test::contains(read_text_file(config.out + "/report.html"), "none (fingerprint_file: ");  // of the tokenizer
}
