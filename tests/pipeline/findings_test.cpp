// Which findings a run knows, and which of them share a map.

#include <set>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/progress.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/arm_study.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "pipeline/stored_maps.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;
using daug::test::stored_maps;

TEST_CASE("a run uses the findings and policies it is told to", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.labels.findings = "Nodule, Effusion";
  Run(config, {}).execute(Stage::kTranslator);
  CHECK(read_safetensors(config.out + "/translator.safetensors").metadata.at("findings") == "Nodule,Effusion");
  RunConfig other = config;
  other.labels.not_mentioned = "zeros";
  CHECK(Run(other, {}).execute(Stage::kTranslator));  // other labels, another model
  other.labels.uncertain = "perhaps";
  CHECK(caught([&] { Run run(other, {}); }).code() == ErrorCode::kInvalidArgument);
  config.labels.findings = "Nodule,Noodle";
  CHECK(caught([&] { Run(config, {}).execute(Stage::kTranslator); }).code() == ErrorCode::kNotFound);
  CHECK(parse_names("") == std::vector<std::string>{});
  CHECK(parse_names(" a b ,c,") == std::vector<std::string>{"a b", "c"});
}

TEST_CASE("columns of labels.csv that are none of the findings asked for need be no labels", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  CsvTable table = read_csv(config.data + "/labels.csv");
  table.columns.insert(table.columns.end(), {"age", "sex"});
  for (auto& row : table.rows) row.insert(row.end(), {"61", "F"});
  write_csv(config.data + "/labels.csv", table);
  const Error refused = caught([&] { Run(config, {}).execute(Stage::kTranslator); });
  CHECK(refused.code() == ErrorCode::kFormat);
  CHECK(daug::test::mentions(refused, "labels.csv line 2 column age", "'61'"));

  SECTION("by name") { config.labels.findings = "Nodule,Effusion"; }
  SECTION("by vocabulary") {
    config.labels.vocabulary = scratch.path("vocabulary.json");
    write_file_atomically(config.labels.vocabulary, R"({"findings": ["Nodule", "Effusion"]})");
  }
  Run run(config, {});
  CHECK(run.execute(Stage::kTranslator));
  CHECK(read_safetensors(config.out + "/translator.safetensors").metadata.at("findings") == "Nodule,Effusion");
  CHECK_FALSE(run.fingerprint(Stage::kEvaluate).empty());
  // A study of the arms gets as far as its first run.
  ArmStudyOptions study;
  study.base = config;
  study.base.out = scratch.path("study");
  StopSource stop;
  stop.request_stop();
  RunControl control;
  control.stop = stop.token();
  CHECK(caught([&] { run_arm_study(study, control); }).code() == ErrorCode::kCancelled);
}

TEST_CASE("findings that a vocabulary groups share a map", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.labels.vocabulary = scratch.path("vocabulary.json");
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion", "Nodule", "Consolidation"],
      "groups": {"opacity": ["Consolidation", "Effusion"], "nodule": ["Nodule"]}})");
  {
    Run run(config, {});
    for (Stage stage : all_stages()) CHECK(run.execute(stage));
  }
  const SafetensorsFile maps = stored_maps(config.out, config.data);
  CHECK(maps.at("evidence").shape.at(1) == 2);
  CHECK(maps.at("translated").shape.at(1) == 2);
  std::set<std::string> seen;
  for (const Figure& figure : read_metrics(config.out + "/metrics.json")) seen.insert(figure.name + "/" + figure.arm);
  for (const char* name : {"map.pixel_ap/difference", "map.pixel_ap/mean_mask", "classification.auroc_macro/image"})
    CHECK(seen.count(name) == 1);
  CHECK(read_text_file(config.out + "/report.html").find("opacity") != std::string::npos);

  // Other groups are other maps.
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion", "Nodule", "Consolidation"]})");
  CHECK(Run(config, {}).execute(Stage::kTranslator));
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion"], "groups": {"bone": ["Fracture"]}})");
  CHECK(caught([&] { Run(config, {}).execute(Stage::kTranslator); }).code() == ErrorCode::kNotFound);
  config.labels.findings = "Effusion";
  CHECK(caught([&] { Run run(config, {}); }).code() == ErrorCode::kInvalidArgument);
}
