#include "daug/pipeline/run.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/image/png.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::caught;
using daug::test::finished_run;
using daug::test::Scratch;

TEST_CASE("a run makes models, maps, indexes, figures and a report, and reuses them", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  CHECK(fs::exists(config.out + "/tables"));
  for (const char* file : {"config.json", "metrics.json", "report.html", "run.log", "translator.safetensors",
                           "guide.safetensors", "tokenizer/vocab.json", "index/image.daugindex"})
    CHECK(fs::exists(config.out + "/" + file));

  SECTION("folders whose files carry no fingerprint say what made them") {
    Run run(config, {});
    for (const auto& [folder, stage] : {std::pair<const char*, Stage>{"tokenizer", Stage::kEncoders},
                                        {"tables", Stage::kReport},
                                        {"figures", Stage::kReport}}) {
      INFO(folder);
      CHECK(read_text_file(config.out + "/" + folder + "/made_by.txt") == run.fingerprint(stage));
    }
  }

  SECTION("every figure has a definition and a sane interval, and the promised ones are there") {
    std::set<std::string> seen;
    for (const Figure& figure : read_metrics(config.out + "/metrics.json")) {
      INFO(figure.name << " " << figure.arm << " " << figure.split);
      CHECK_FALSE(figure.definition.empty());
      if (figure.low && figure.high) CHECK(*figure.low <= *figure.high);
      seen.insert(figure.name + "/" + figure.arm);
    }
    for (const char* arm : {"difference", "evidence", "score_difference", "mean_mask", "no_target"})
      for (const char* name : {"map.pixel_auroc", "map.pixel_ap", "map.pointing", "map.image_auroc"})
        CHECK(seen.count(std::string(name) + "/" + arm) == 1);
    for (const char* name :
         {"map.in_mask_ratio/difference", "map.outside_change/difference", "map.in_mask_ratio/no_target",
          "map.outside_change/no_target", "classification.auroc_macro/chance",
          "classification.auroc_macro/pca_logistic", "classification.auroc[Effusion]/image+evidence",
          "map.pixel_ap[Nodule]/difference", "map.pointing[Nodule]/mean_mask"})
      CHECK(seen.count(name) == 1);
    std::vector<std::string> of_arms = {"classification.auroc_macro", "classification.linear_probe_auroc_macro"};
    for (const char* queries : {"retrieval.", "retrieval.report_to_image."})
      for (const char* figure : {"p_at_", "map_at_", "wmap_at_"})
        for (const char* rank : {"1", "3", "5", "10"}) of_arms.push_back(std::string(queries) + figure + rank);
    for (const char* arm : {"image", "image+difference", "image+evidence", "image+noise", "image, image-text loss",
                            "image+evidence, image-text loss"})
      for (const std::string& name : of_arms) {
        INFO(name << " of " << arm);
        CHECK(seen.count(name + "/" + arm) == 1);
      }
    for (Stage stage : all_stages()) CHECK(seen.count("time." + stage_name(stage) + "/run") == 1);
  }

  SECTION("a second run redoes nothing; a changed setting redoes what depends on it") {
    {
      Run run(config, {});
      for (Stage stage : all_stages()) CHECK_FALSE(run.execute(stage));
    }
    RunConfig changed = config;
    changed.evaluate.resamples = 21;
    {
      Run run(changed, {});
      for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage >= Stage::kEvaluate));
    }
    // Contrast-guided maps do not depend on the guide; what is measured does.
    changed.guide.steps += 1;
    Run run(changed, {});
    for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage == Stage::kGuide || stage >= Stage::kEvaluate));
  }

  SECTION("a stage one of whose files is gone makes it again, the same") {
    const std::map<Stage, std::vector<std::string>> made = {
        {Stage::kTranslator, {"translator.safetensors"}},
        {Stage::kGuide, {"guide.safetensors"}},
        {Stage::kHeatmaps, {"heatmaps/tests.daugmaps"}},
        {Stage::kEncoders, {"encoders/image_difference.safetensors", "tokenizer/merges.txt"}},
        {Stage::kIndex, {"index/image.daugindex"}},
        {Stage::kEvaluate, {"predictions.safetensors", "metrics.json"}},
        {Stage::kReport, {"report.html"}}};
    for (const auto& [lost, names] : made)
      for (const auto& name : names) {
        INFO(name);
        const std::string path = config.out + "/" + name;
        const auto before = read_file(path);
        fs::remove(path);
        Run run(config, {});
        for (Stage stage : all_stages()) {
          INFO(stage_name(stage));
          CHECK(run.execute(stage) == (stage == lost || (lost == Stage::kEvaluate && stage == Stage::kReport)));
        }
        REQUIRE(fs::exists(path));
        if (lost < Stage::kHeatmaps || lost == Stage::kEncoders || lost == Stage::kIndex)  // others hold times
          CHECK(read_file(path) == before);
      }
  }

  SECTION("--force redoes any stage to the same bytes") {
    const std::map<Stage, std::string> made = {{Stage::kTranslator, "translator.safetensors"},
                                               {Stage::kGuide, "guide.safetensors"},
                                               {Stage::kHeatmaps, "heatmaps"},
                                               {Stage::kEncoders, "encoders/image.safetensors"},
                                               {Stage::kIndex, "index/image.daugindex"},
                                               {Stage::kEvaluate, "stages/details.json"},
                                               {Stage::kReport, "figures"}};
    for (const auto& [stage, name] : made) {
      INFO(stage_name(stage));
      const std::string path = config.out + "/" + name;
      const bool file = fs::is_regular_file(path);
      const auto before = file ? read_file(path) : std::vector<std::uint8_t>();
      const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(1000);
      fs::last_write_time(path, long_ago);
      RunConfig forced = config;
      forced.force = {stage_name(stage)};
      Run run(forced, {});
      CHECK(run.execute(stage));
      CHECK(fs::last_write_time(path) > long_ago + std::chrono::hours(1));
      if (file) CHECK(read_file(path) == before);
    }
    // What was measured anew is shown anew, so no figure of a time is lost.
    Run run(config, {});
    CHECK(run.execute(Stage::kReport) == false);
    RunConfig forced = config;
    forced.force = {"evaluate"};
    Run again(forced, {});
    CHECK(again.execute(Stage::kEvaluate));
    CHECK(again.execute(Stage::kReport));
    const auto figures = read_metrics(config.out + "/metrics.json");
    for (Stage stage : all_stages()) CHECK(find_figure(figures, "time." + stage_name(stage), "run", "all"));
  }

  SECTION("another mask is measured again") {
    const Cohort cohort = read_cohort(config.out + "/phantoms");
    const auto study = std::find_if(cohort.studies.begin(), cohort.studies.end(),
                                    [](const Study& one) { return !one.mask_paths.empty() && one.split == "test"; });
    REQUIRE(study != cohort.studies.end());
    const std::string mask = study->mask_paths.begin()->second;
    const auto png = encode_png(GrayImage::filled(32, 32, 1.0F));
    write_file_atomically(mask, png.data(), png.size());
    {
      Run run(config, {});
      for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage >= Stage::kEvaluate));
    }
    // One that cannot be read is found before anything is trained.
    write_file_atomically(mask, "no picture");
    RunConfig forced = config;
    forced.force = {"translator"};
    CHECK_THROWS_WITH(Run(forced, {}).execute(Stage::kTranslator), daug::test::contains_text(mask));
    forced.skip_bad = true;
    {
      Run run(forced, {});
      for (Stage stage : all_stages()) CHECK(run.execute(stage));
    }
    CHECK(find_figure(read_metrics(config.out + "/metrics.json"), "data.unreadable", "data", "all")->value == 1);
    CHECK(read_text_file(config.out + "/report.html").find("unreadable images left out</th><td>1</td>") !=
          std::string::npos);
  }

  SECTION("another tokenizer is not the encoders'") {
    const std::string merges = config.out + "/tokenizer/merges.txt";
    write_file_atomically(merges, read_text_file(merges) + "\n");
    Run run(config, {});
    fs::remove(config.out + "/stages/index.json");
    CHECK_THROWS_WITH(run.execute(Stage::kIndex), daug::test::contains_text("tokenizer"));
  }

  SECTION("a stage refuses what other settings made") {
    RunConfig other = config;
    other.diffusion.steps = 7;
    Run run(other, {});
    CHECK(caught([&] { run.execute(Stage::kHeatmaps); }).code() == ErrorCode::kMismatch);
  }

  SECTION("files of another run, of the same shape, are refused by name") {
    // What is refused is done no more: the later readers go first.
    const std::vector<std::pair<std::string, Stage>> read = {{"guide.safetensors", Stage::kEvaluate},
                                                             {"index/image.daugindex", Stage::kEvaluate},
                                                             {"encoders/image.safetensors", Stage::kIndex},
                                                             {"translator.safetensors", Stage::kHeatmaps}};
    for (const auto& [name, reader] : read) {
      INFO(name);
      const std::string path = config.out + "/" + name;
      const auto own = read_file(path);
      if (reader == Stage::kEvaluate && name != "guide.safetensors") {
        fs::copy_file(config.out + "/index/image_noise.daugindex", path, fs::copy_options::overwrite_existing);
      } else {
        SafetensorsFile file = read_safetensors(path);
        REQUIRE(file.metadata.count("fingerprint") == 1);
        file.metadata["fingerprint"] = "another";
        write_safetensors(path, file);
      }
      if (reader == Stage::kHeatmaps) fs::remove_all(config.out + "/heatmaps");
      RunConfig forced = config;
      forced.force = {stage_name(reader)};
      Run run(forced, {});
      const std::string told = daug::test::error_text(ErrorCode::kMismatch, [&] { run.execute(reader); });
      daug::test::contains(told, "fingerprint");
      write_file_atomically(path, own.data(), own.size());
    }
  }

  SECTION("weights of another architecture are refused by name") {
    fs::copy_file(config.out + "/guide.safetensors", config.out + "/translator.safetensors",
                  fs::copy_options::overwrite_existing);
    RunConfig forced = config;
    forced.force = {"heatmaps"};
    fs::remove_all(config.out + "/heatmaps");
    Run run(forced, {});
    CHECK_THROWS_WITH(run.execute(Stage::kHeatmaps), daug::test::contains_text("another architecture"));
  }
}
