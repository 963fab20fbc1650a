// The report of a finished run.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "daug/data/cohort.h"
#include "daug/io/file.h"
#include "pipeline/smallest_run.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/html.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::finished_run;
using daug::test::Scratch;

TEST_CASE("a report shows what went wrong, finding by finding, in one small page", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const std::string html = read_text_file(config.out + "/report.html");
  CHECK(html.size() < 10U << 20U);
  CHECK(daug::test::structure_error(html) == "");
  const auto sections = daug::test::matches(html, "<section id=\"([^\"]*)\"");
  for (const char* name : {"failures", "by-finding"}) CHECK(std::count(sections.begin(), sections.end(), name) == 1);

  // Errors are errors, surest first; regions come worst first.
  const auto details = nlohmann::json::parse(read_text_file(config.out + "/stages/details.json"));
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  const auto tests = cohort.split_indices("test");
  std::size_t errors = 0;
  for (const auto& [finding, list] : details.at("errors").items()) {
    double last = 1;
    for (const auto& error : list) {
      const Study& study = cohort.studies[error.at("row").get<std::size_t>()];
      const bool positive = study.labels[cohort.finding_index(finding)] == LabelState::kPositive;
      const double distance = std::abs(error.at("probability").get<double>() - (positive ? 1 : 0));
      CHECK(study.split == "test");
      CHECK(error.at("positive") == positive);
      CHECK(distance > 0.5);
      CHECK(distance <= last);
      last = distance;
      ++errors;
    }
  }
  CHECK(errors > 0);
  for (const auto& [finding, list] : details.at("worst_localisation").items()) {
    double last = 0;
    for (const auto& image : list) {
      CHECK(cohort.studies[image.at("row").get<std::size_t>()].labels[cohort.finding_index(finding)] ==
            LabelState::kPositive);
      CHECK(image.at("pixel_ap").get<double>() >= last);
      last = image.at("pixel_ap");
    }
  }
  std::size_t figures = 0;
  for (const auto& entry : fs::directory_iterator(config.out + "/figures"))
    figures += read_text_file(entry.path()).rfind("<svg xmlns=", 0) == 0 ? 1 : 0;
  CHECK(figures > 8);
}

TEST_CASE("a browser shows the page of a run without a complaint", "[pipeline][browser]") {
  if (!daug::test::browser_installed()) return;
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const std::size_t sections = daug::test::count(read_text_file(config.out + "/report.html"), "<section");
  REQUIRE(sections > 5);
  for (const bool phone : {false, true}) {
    const auto view = daug::test::open_in_browser(
        "file://" + config.out + "/report.html",
        {phone ? 390 : 1280, 2000, phone, daug::test::artefact(phone ? "report_phone_dark.png" : "report.png")});
    for (const auto& line : view.console) UNSCOPED_INFO(line);
    CHECK(view.console.empty());
    CHECK(daug::test::count(view.dom, "<section") == sections);
  }
}
