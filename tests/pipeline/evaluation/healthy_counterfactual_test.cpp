// The image without any finding as the truth of a translation, where the cohort has none without one finding.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/data/phantom.h"
#include "daug/io/csv.h"
#include "pipeline/evaluation/localisation.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/scratch.h"

using namespace daug;

namespace {

/// What a run knows of its test images, [tests, maps].
struct KnownTruths {
  std::vector<std::optional<std::vector<float>>> images;
  std::vector<double> left;  ///< in-mask ratio of the untouched images: 1 where there is a truth to differ from

  std::size_t count() const {
    std::size_t known = 0;
    for (const auto& image : images) known += image ? 1 : 0;
    return known;
  }
};

KnownTruths known_truths(const RunConfig& config) {
  Run::Impl run;
  run.config = config;
  const RunData& data = run.data();
  KnownTruths known;
  for (const std::size_t row : data.test)
    for (std::size_t map = 0; map < data.maps(); ++map) known.images.push_back(map_counterfactual(run, row, map));
  const auto untouched = [&](std::size_t n, std::size_t) { return data.images.image(data.test[n]); };
  known.left = audit_counterfactuals(run, data.test, map_regions(run, data.test), untouched).in_mask_ratio.values;
  return known;
}

/// The columns of a table whose names `keep` holds for.
CsvTable columns_kept(const CsvTable& table, const std::function<bool(const std::string&)>& keep) {
  CsvTable kept;
  kept.rows.resize(table.rows.size());
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    if (!keep(table.columns[c])) continue;
    kept.columns.push_back(table.columns[c]);
    for (std::size_t r = 0; r < table.rows.size(); ++r) kept.rows[r].push_back(table.rows[r][c]);
  }
  return kept;
}

}  // namespace

TEST_CASE("the image without any finding is the counterfactual of an only finding that has none of its own",
          "[pipeline]") {
  const daug::test::Scratch scratch;
  RunConfig config = daug::test::smallest(scratch.path("run"));
  config.data = daug::test::small_cohort(scratch.path("cohort"), 8, 4, 30);
  const Cohort cohort = read_cohort(config.data);
  const CsvTable whole = read_csv(config.data + "/labels.csv");
  const auto of = [&](const CsvTable& table) {
    write_csv(config.data + "/labels.csv", table);
    return known_truths(config);
  };
  const auto of_one_finding = [](const std::string& name) { return name.rfind("counterfactual_", 0) == 0; };
  const CsvTable healthy_only = columns_kept(whole, [&](const std::string& name) { return !of_one_finding(name); });
  REQUIRE(healthy_only.columns.size() + phantom_findings().size() == whole.columns.size());

  const KnownTruths own = of(whole), healed = of(healthy_only);
  const auto tests = cohort.split_indices("test");
  const std::size_t findings = cohort.findings.size();
  REQUIRE(own.images.size() == tests.size() * findings);
  std::size_t single = 0, several = 0, measured = 0;
  for (std::size_t i = 0; i < tests.size(); ++i) {
    const auto& labels = cohort.studies[tests[i]].labels;
    const auto present = std::count(labels.begin(), labels.end(), LabelState::kPositive);
    for (std::size_t f = 0; f < findings; ++f) {
      const std::size_t k = i * findings + f;
      REQUIRE(own.images[k].has_value() == (labels[f] == LabelState::kPositive));
      if (!own.images[k]) {
        CHECK_FALSE(healed.images[k]);
      } else if (present == 1) {
        ++single;
        REQUIRE(healed.images[k]);
        CHECK(*healed.images[k] == *own.images[k]);
        measured += healed.left[k] == 1 ? 1 : 0;
        CHECK(std::isnan(healed.left[k]) == std::isnan(own.left[k]));
      } else {
        ++several;
        CHECK_FALSE(healed.images[k]);  // others would be gone as well
        CHECK(std::isnan(healed.left[k]));
      }
    }
  }
  CHECK(single >= 3);
  CHECK(several >= 3);
  CHECK(measured >= 3);

  SECTION("a blank is as good as no column") {
    CsvTable blank = whole;
    for (std::size_t c = 0; c < blank.columns.size(); ++c)
      for (auto& row : blank.rows)
        if (of_one_finding(blank.columns[c])) row[c].clear();
    CHECK((of(blank).images == healed.images));
  }

  SECTION("the image without the finding alone goes first") {
    CsvTable other = whole;
    for (auto& row : other.rows) row[other.column("counterfactual")] = row[other.column("path")];
    CHECK((of(other).images == own.images));
  }

  SECTION("findings that are not known to be absent may have been taken away too") {
    CsvTable silent = healthy_only;
    for (const auto& finding : phantom_findings())
      for (auto& row : silent.rows)
        if (std::string& label = row[silent.column(finding)]; label == "0") label.clear();
    CHECK(of(silent).count() == 0);
    config.labels.not_mentioned = "zeros";
    CHECK((of(silent).images == healed.images));
  }

  SECTION("what columns that the run does not use may say of other findings counts too") {
    // Of the finding that some image has alone; another one, and how many images have the first and none but the other.
    std::size_t only = findings;
    for (std::size_t i = 0; i < tests.size() && only == findings; ++i) {
      const auto& labels = cohort.studies[tests[i]].labels;
      if (std::count(labels.begin(), labels.end(), LabelState::kPositive) == 1)
        only =
            static_cast<std::size_t>(std::find(labels.begin(), labels.end(), LabelState::kPositive) - labels.begin());
    }
    REQUIRE(only < findings);
    const std::size_t other = (only + 1) % findings;
    const auto images = [&](bool with_other) {
      std::size_t count = 0;
      for (const std::size_t test : tests) {
        const auto& labels = cohort.studies[test].labels;
        bool alone = labels[only] == LabelState::kPositive;
        for (std::size_t f = 0; f < findings; ++f)
          alone = alone && (f == only || (with_other && f == other) || labels[f] == LabelState::kNegative);
        count += alone ? 1 : 0;
      }
      return count;
    };
    REQUIRE(images(false) > 0);
    const auto filled = [&](const std::string& text) {  // the other one's column
      CsvTable table = healthy_only;
      for (auto& row : table.rows) row[table.column(cohort.findings[other])] = text;
      return table;
    };
    config.labels.findings = cohort.findings[only];
    CHECK(of(healthy_only).count() == images(false));
    CHECK(of(filled("")).count() == 0);
    CHECK(of(filled("1")).count() == 0);
    CHECK(of(filled("61")).count() == images(true));  // an age is no finding
    config.labels.not_mentioned = "zeros";
    CHECK(of(filled("")).count() == images(true));
    config.labels.findings = "Nodule,Effusion,Device,Pneumothorax,Consolidation,Cardiomegaly";
    CHECK(of(healthy_only).count() == single);
  }
}
