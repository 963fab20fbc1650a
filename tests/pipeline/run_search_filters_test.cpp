// Site and date in a search of a run whose cohort has them.

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/io/file.h"
#include "daug/pipeline/run_search.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;

TEST_CASE("a run is searched within a site and between days", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  config.encoder.epochs = 1;
  config.maps.train_images = 0;
  std::string meta = "id,site,date\n";
  const Cohort plain = read_cohort(config.data);
  for (std::size_t i = 0; i < plain.studies.size(); ++i) {
    const char* sites[] = {"", "North", "South"};
    const std::string day = i % 4 == 0 ? "unknown" : "2019-0" + std::to_string(1 + i % 9) + "-15";
    meta += plain.studies[i].id + "," + sites[i % 3] + "," + day + "\n";
  }
  write_file_atomically(config.data + "/meta.csv", meta);
  const Cohort cohort = read_cohort(config.data);
  Run run(config, {});
  for (Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps, Stage::kEncoders, Stage::kIndex})
    run.execute(stage);

  const RunSearch search(config.out, "image");
  const auto found = [&](const GalleryFilter& filter) {
    GalleryQuery query;
    query.text = "Heart.";
    query.count = 1000;
    query.filter = filter;
    std::set<std::string> studies;
    for (const GalleryHit& hit : search.search(query).hits) studies.insert(search.image(hit.image).study);
    return studies;
  };
  const std::set<std::string> gallery = found({});
  REQUIRE(gallery.size() == 46);
  const auto those = [&](const std::function<bool(const std::string& site, const std::string& day)>& wanted) {
    std::set<std::string> studies;
    for (const Study& study : cohort.studies)
      if (gallery.count(study.id) > 0 &&
          wanted(study.meta.count("site") > 0 ? study.meta.at("site") : "", study.meta.at("date")))
        studies.insert(study.id);
    return studies;
  };
  std::set<std::string> days;
  for (const Study& study : cohort.studies)
    if (gallery.count(study.id) > 0 && study.meta.at("date") != "unknown") days.insert(study.meta.at("date"));
  CHECK(search.facts().sites == std::vector<std::string>{"North", "South"});
  CHECK(search.facts().first_day == *days.begin());
  CHECK(search.facts().last_day == *days.rbegin());

  GalleryFilter filter;
  filter.site = "South";
  const auto south = found(filter);
  CHECK(south == those([](const std::string& site, const std::string&) { return site == "South"; }));
  CHECK(south.size() > 3);
  filter.site.clear();
  filter.from = "2019-04-01";
  CHECK(found(filter) ==
        those([](const std::string&, const std::string& day) { return day != "unknown" && day >= "2019-04-01"; }));
  filter.to = "2019-06-15";
  filter.site = "North";
  const auto few = found(filter);
  CHECK(few == those([](const std::string& site, const std::string& day) {
          return site == "North" && day != "unknown" && day >= "2019-04-01" && day <= "2019-06-15";
        }));
  CHECK(few.size() >= 1);
  filter.to = "2019-03-01";
  CHECK(caught([&] { found(filter); }).code() == ErrorCode::kInvalidArgument);
}
