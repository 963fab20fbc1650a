// The report of a finished run.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "daug/report/html_parts.h"
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
  CHECK(sections == std::vector<std::string>{"examples", "do-the-maps-show-where", "do-the-maps-help-an-encoder",
                                             "retrieval", "curves-and-subgroups", "calibration", "failures",
                                             "by-finding", "data", "training", "methods", "settings-and-provenance"});
  for (const char* part :
       {"Most confident errors</p>", "Decision curves, all findings pooled", "Reliability before temperature scaling",
        "correction for the whole table", "leak check</th><td>no patient and no image file is in two splits</td>"}) {
    INFO(part);
    CHECK(html.find(part) != std::string::npos);
  }
  std::set<std::string> definitions;
  for (const Figure& figure : read_metrics(config.out + "/metrics.json")) definitions.insert(figure.definition);
  CHECK(definitions.size() > 30);
  for (const auto& definition : definitions) {
    INFO(definition);
    CHECK(html.find("<td>" + daug::report::escape(definition) + "</td>") != std::string::npos);
  }

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
  std::size_t regions = 0;
  for (const auto& [finding, list] : details.at("worst_localisation").items()) {
    double last = 0;
    INFO(finding);
    CHECK(daug::test::count(html, "Worst localisation: " + finding + "</p>") == (list.empty() ? 0U : 1U));
    regions += list.size();
    for (const auto& image : list) {
      CHECK(cohort.studies[image.at("row").get<std::size_t>()].labels[cohort.finding_index(finding)] ==
            LabelState::kPositive);
      CHECK(image.at("pixel_ap").get<double>() >= last);
      last = image.at("pixel_ap");
    }
  }
  CHECK(regions > 0);
  // Retrieval has a table of all its figures at ten in each direction, both definitions of AP among them.
  const auto measured = read_metrics(config.out + "/metrics.json");
  const char* names[] = {"p", "recall", "ndcg", "map", "map_reference", "wmap_reference"};
  std::size_t of_images = 0, of_reports = 0;
  for (const auto& entry : fs::directory_iterator(config.out + "/tables")) {
    if (entry.path().extension() != ".json") continue;
    const auto table = nlohmann::json::parse(read_text_file(entry.path().string()));
    const auto caption = table.at("caption").get<std::string>();
    const bool images = caption.rfind("Image to image", 0) == 0;
    if (!images && caption.rfind("Report to image", 0) != 0) continue;
    for (const auto& row : table.at("rows")) {
      const auto arm = row.at(0).get<std::string>();
      for (std::size_t column = 1; column < row.size(); ++column) {
        const auto cell = row.at(column).get<std::string>();
        const std::string name = std::string("retrieval.") + (images ? "" : "report_to_image.") + names[column - 1];
        INFO(name << " of " << arm << ": " << cell);
        const Figure* figure = find_figure(measured, name + "_at_10", arm);
        CHECK((cell != "-") == (figure != nullptr));
        if (figure) CHECK(std::stod(cell) == Approx(figure->value).margin(5.1e-4));
        (images ? of_images : of_reports) += 1;
      }
    }
  }
  CHECK(of_images > 3 * std::size(names));
  CHECK((of_reports > 0) == cohort.has_reports);

  std::size_t figures = 0;
  for (const auto& entry : fs::directory_iterator(config.out + "/figures"))
    figures += read_text_file(entry.path()).rfind("<svg xmlns=", 0) == 0 ? 1 : 0;
  CHECK(figures > 8);

  // Every table and chart of the page is a file in every format.
  std::map<std::string, std::size_t> files;
  for (const char* folder : {"/tables", "/figures"})
    for (const auto& entry : fs::directory_iterator(config.out + folder)) ++files[entry.path().extension().string()];
  for (const char* format : {".csv", ".json", ".tex"}) {
    INFO(format);
    CHECK(files[format] == daug::test::count(html, "<table"));
  }
  CHECK(files[".svg"] == figures);
  CHECK(figures ==
        daug::test::count(html, "<svg class=\"chart\"") + daug::test::count(html, "<figure class=\"panel intervals\""));
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
