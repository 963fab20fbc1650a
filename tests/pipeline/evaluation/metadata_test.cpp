// Which columns the metadata-only baseline takes, and which divide the test images into subgroups.

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;

TEST_CASE("the metadata-only baseline and subgroups take the columns that the cohort has", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  config.encoder.epochs = 1;
  // A column that gives a finding away, and one of the most values that subgroups are made of. Both are blank for the
  // first test image.
  const Cohort cohort = read_cohort(config.data);
  const std::size_t nodule = cohort.finding_index("Nodule"), blank = cohort.split_indices("test")[0];
  std::string meta = "id,clue,site\n";
  std::size_t tests = 0;
  for (std::size_t i = 0; i < cohort.studies.size(); ++i) {
    const Study& study = cohort.studies[i];
    const char* clue = study.labels[nodule] == LabelState::kPositive ? "yes" : "no";
    const std::string site = std::to_string(study.split == "test" ? tests++ % 12 : 0);
    meta += study.id + "," + (i == blank ? "," : clue + ("," + site)) + "\n";
  }
  write_file_atomically(config.data + "/meta.csv", meta);

  // A name that is no column is refused before the first stage's work.
  config.evaluate.metadata = "view,clew";
  const Error misspelt = caught([&] { Run(config, {}).execute(Stage::kTranslator); });
  CHECK(misspelt.code() == ErrorCode::kNotFound);
  CHECK(daug::test::mentions(misspelt, "evaluate.metadata", "clue, licence, site, view", "'clew'"));
  CHECK(std::filesystem::is_empty(config.out + "/stages"));

  // All who have the finding are above all who have not, and the one of which nothing is known is in between.
  config.evaluate.metadata = "clue";
  {
    Run run(config, {});
    for (Stage stage : all_stages())
      if (stage <= Stage::kEvaluate) CHECK(run.execute(stage));
  }
  const auto auroc = [&](const char* arm) {
    const auto figures = read_metrics(config.out + "/metrics.json");
    const Figure* figure = find_figure(figures, "classification.auroc[Nodule]", arm);
    INFO(arm);
    REQUIRE(figure);
    CHECK(figure->n == 20);
    return figure->value;
  };
  CHECK(auroc("chance") == 0.5);
  CHECK(auroc("metadata_logistic") == 1);

  // A value that is not known is none of them.
  const auto details = nlohmann::json::parse(read_text_file(config.out + "/stages/details.json"));
  std::set<std::string> sites;
  std::size_t images = 0;
  REQUIRE(details.at("subgroups").size() == 1);
  for (const auto& group : details.at("subgroups").front()) {
    if (group.at("attribute") != "site") continue;
    sites.insert(group.at("value").get<std::string>());
    images += group.at("images").get<std::size_t>();
  }
  CHECK(sites.size() == 12);
  CHECK(sites.count("") == 0);
  CHECK(images == 19);

  // Of the default's columns those that are not there are left out, which the log says.
  config.evaluate.metadata = RunConfig{}.evaluate.metadata;
  CHECK(Run(config, {}).execute(Stage::kEvaluate));
  CHECK(auroc("metadata_logistic") < 1);
  daug::test::contains(read_text_file(config.out + "/run.log"), "metadata-only baseline without age, sex, follow_up,");
}
