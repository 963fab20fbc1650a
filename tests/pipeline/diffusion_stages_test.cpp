// Settings of the diffusion model.

#include <ATen/ATen.h>

#include <cstddef>
#include <functional>
#include <string>

#include "daug/data/phantom.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/map_maker.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::Scratch;
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
  CHECK(weights(trained([](auto& d) { d.warmup_steps = 1; })) != weights(base));
  CHECK(weights(trained([](auto& d) { d.weight_decay = 100; })) != weights(base));
  CHECK(weights(trained([](auto& d) { d.objective = "rescaled_kl"; })) != weights(base));

  CHECK(trained([](auto& d) { d.variance = "learned_range"; }).at(last).shape[0] == 8);
  // Maps are made with the half that estimates noise.
  const MapMaker maker = MapMaker::load(plain.out);
  const at::Tensor x = at::zeros({1, 1, 32, 32});
  const ImageMaps maps = maker.make(x, {0}, true);
  CHECK(maps.reconstruction.sizes() == x.sizes());
  CHECK(maps.evidence.isfinite().all().item<bool>());

  // Levels are drawn by their losses once each has ten of them.
  const auto few_levels = [](bool aware) {
    return [aware](RunConfig::Diffusion& d) { d.max_level = 2, d.steps = 12, d.loss_aware_levels = aware; };
  };
  CHECK(weights(trained(few_levels(true))) != weights(trained(few_levels(false))));
}

TEST_CASE("a run whose labelled images are all ill says on which others it calibrates its maps", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = scratch.path("cohort");
  config.labelled = 8;
  PhantomOptions phantom;
  phantom.train_images = 36, phantom.val_images = 10, phantom.test_images = 20;
  write_phantom_cohort(config.data, phantom);
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
