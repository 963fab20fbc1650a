// Settings of the diffusion model.

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "daug/data/phantom.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/map_maker.h"
#include "daug/pipeline/run.h"
#include "daug/train/trainer.h"
#include "pipeline/run_impl.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;

TEST_CASE("settings of the diffusion model reach its training", "[pipeline]") {
  const Scratch scratch;
  const RunConfig plain = smallest(scratch.path("run"));
  const std::string path = plain.out + "/translator.safetensors";
  const auto trained = [&](const std::function<void(RunConfig::Diffusion&)>& change) {
    RunConfig config = plain;
    change(config.diffusion);
    Run(config, {}).execute(Stage::kTranslator);
    return read_safetensors(path);
  };
  const std::string last = "out.2.weight";  // of the outputs, four pixels each
  const SafetensorsFile base = trained([](auto&) {});
  const auto weights = [&](const SafetensorsFile& file) { return file.at(last).to_float(); };
  CHECK(base.at(last).shape[0] == 4);
  // What is computed again goes through other operators, and rounds otherwise.
  const auto losses = [&] {
    return read_safetensors(plain.out + "/stages/translator_history.safetensors").at("loss").to_float();
  };
  const auto base_losses = losses();
  CHECK(weights(trained([](auto& d) { d.checkpoint = true; })) != weights(base));
  const auto checkpoint_losses = losses();
  REQUIRE(checkpoint_losses.size() == base_losses.size());
  for (std::size_t i = 0; i < base_losses.size(); ++i)
    CHECK(checkpoint_losses[i] == Approx(base_losses[i]).epsilon(1e-3));
  CHECK(weights(trained([](auto& d) { d.dropout = 0.2; })) != weights(base));
  CHECK(weights(trained([](auto& d) { d.min_snr = 1; })) != weights(base));
  CHECK(weights(trained([](auto& d) { d.objective = "rescaled_kl"; })) != weights(base));

  CHECK(trained([](auto& d) { d.variance = "learned_range"; }).at(last).shape[0] == 8);
  // Maps are made with the half that estimates noise.
  const MapMaker maker = MapMaker::load(plain.out);
  const at::Tensor x = at::zeros({1, 1, 32, 32});
  const ImageMaps maps = maker.make(x, {0}, true);
  CHECK(maps.reconstruction.sizes() == x.sizes());
  CHECK(maps.evidence.isfinite().all().item<bool>());
}

TEST_CASE("a run whose labelled images are all ill says on which others it calibrates its maps", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  config.labelled = 8;
  CsvTable table = read_csv(config.data + "/labels.csv");
  const std::size_t split = table.column("split");
  for (auto& row : table.rows) {
    if (row[split] == "train") row[table.column("Nodule")] = "1";
    for (const auto& finding : phantom_findings())
      if (row[split] == "val") row[table.column(finding)] = "0";
  }
  write_csv(config.data + "/labels.csv", table);
  Run run(config, {});
  run.execute(Stage::kTranslator);
  run.execute(Stage::kHeatmaps);
  daug::test::contains(
      read_text_file(config.out + "/run.log"),
      "too few of the labelled training images are healthy; calibrated on 10 healthy validation images");
  CHECK(MapCalibration::from_file(read_safetensors(config.out + "/calibration_evidence.safetensors")).images() == 10);
}

TEST_CASE("of checkpoints of other settings the one of most steps is kept, and taken up again", "[pipeline]") {
  const Scratch scratch;
  Run::Impl run;
  run.config.out = scratch.folder();
  std::string said;
  run.say = [&](const std::string& line) { said += line + "\n"; };
  TrainerOptions options;
  options.checkpoint = run.path("checkpoint");
  const std::string aside = options.checkpoint + ".aside";
  const auto begin = [&](const std::string& fingerprint) {
    said.clear();
    options.fingerprint = fingerprint;
    run.keep_other_checkpoint(Stage::kGuide, "guide", options);
  };
  const auto stop_after = [&](std::int64_t steps) {
    SafetensorsFile file;
    file.metadata["fingerprint"] = options.fingerprint;
    file.tensors.emplace("history.loss", Array::from(std::vector<float>(static_cast<std::size_t>(steps)), {steps}));
    write_safetensors(options.checkpoint, file);
  };
  const auto fingerprint_of = [](const std::string& path) {
    return fs::exists(path) ? read_safetensors(path).metadata.at("fingerprint") : "none";
  };
  begin("long");
  stop_after(5);
  begin("long");
  CHECK(said.empty());  // nothing to do, with a checkpoint or without
  CHECK(fingerprint_of(options.checkpoint) == "long");

  begin("mistyped");
  CHECK(daug::test::mentions(said, "guide: " + options.checkpoint + " is of other settings", "kept as " + aside));
  CHECK(fingerprint_of(options.checkpoint) == "none");
  CHECK(fingerprint_of(aside) == "long");
  stop_after(2);
  begin("mistyped again");
  CHECK(daug::test::mentions(said, "is of other settings", "removed", "begins anew"));
  CHECK(fingerprint_of(options.checkpoint) == "none");
  CHECK(fingerprint_of(aside) == "long");
  stop_after(1);

  begin("long");  // the two change places
  CHECK(daug::test::mentions(said, "guide: goes on from " + aside, "after 5 steps"));
  CHECK(fingerprint_of(options.checkpoint) == "long");
  CHECK(fingerprint_of(aside) == "mistyped again");
  begin("other");
  CHECK(fingerprint_of(aside) == "long");
  begin("long");
  CHECK(fingerprint_of(options.checkpoint) == "long");
  CHECK(fingerprint_of(aside) == "none");
  CHECK(scratch.count() == 2);  // the other one is the log

  write_file_atomically(aside, "damaged");
  begin("other");
  CHECK(fingerprint_of(aside) == "long");

  // What a process leaves that ends after the first renaming of a change of places, and after the second.
  stop_after(1);
  fs::rename(options.checkpoint, aside + ".new");
  for (const char* renamed : {"first", "second"}) {
    INFO(renamed);
    begin("long");
    CHECK(fingerprint_of(options.checkpoint) == "long");
    CHECK(fingerprint_of(aside) == "other");
    CHECK(scratch.count() == 3);
    fs::rename(aside, aside + ".new");
  }
  begin("other");
  CHECK(fingerprint_of(options.checkpoint) == "other");
  CHECK(fingerprint_of(aside) == "long");
}

TEST_CASE("what a budget allowed is remembered for settings that are gone back to", "[pipeline]") {
  const Scratch scratch;
  Run::Impl run;
  run.config.out = scratch.folder();
  fs::create_directories(run.path("stages"));
  const auto measured = [&](const std::string& fingerprint, std::int64_t value) {
    return run.remembered("steps", fingerprint, [=] { return value; });
  };
  CHECK_FALSE(run.recalled("steps", "first"));
  CHECK(measured("first", 30) == 30);
  CHECK(measured("first", 31) == 30);
  CHECK(measured("second", 40) == 40);
  CHECK(measured("first", 32) == 30);
  CHECK(run.recalled("steps", "second") == 40);
  CHECK_FALSE(run.recalled("epochs", "first"));
}
