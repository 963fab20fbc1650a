// What an arm study says of itself, its learning curves, and its command line.

#include <cstdio>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "daug/io/file.h"
#include "daug/pipeline/arm_study.h"
#include "daug/report/figure_files.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/html.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr const char* kAuroc = "classification.auroc_macro";

/// Two arms at three shares of the labels, not in order.
ArmStudyResult two_arms() {
  ArmStudyResult result;
  result.seeds = {0, 1};
  for (const auto& [share, plain, with_maps] : {std::tuple{100.0, 0.9, 0.7}, {10.0, 0.5, 0.6}, {50.0, 0.7, 0.8}}) {
    result.means.push_back({kAuroc, share, "image", plain, {plain, plain}});
    result.means.push_back({kAuroc, share, "image+evidence", with_maps, {with_maps, with_maps}});
  }
  return result;
}

}  // namespace

TEST_CASE("an arm study says what it is of", "[arm_study]") {
  ArmStudyResult result = two_arms();
  result.cohort = "data/real-cxr";
  result.preset = "small";
  const std::string with_reports = arm_study_markdown(result);
  for (const char* part : {"Cohort: data/real-cxr.", "Preset: small.", "`map_labels`: encoders", "are its reports"})
    contains(with_reports, part);
  CHECK_FALSE(mentions(with_reports, "label-derived"));
  CHECK_FALSE(mentions(with_reports, "Fingerprints"));
  contains(with_reports, "for as many epochs.");
  result.same_steps = true;
  contains(arm_study_markdown(result), "for as many steps.");
  result.evaluations = {"0a1b", "2c3d"};
  contains(arm_study_markdown(result), "evaluations, by share of labels, then seed: 0a1b, 2c3d.\n");
  result.texts_from_labels = true;
  result.map_labels = MapLabels::kAll;
  const std::string without = arm_study_markdown(result);
  for (const char* part : {"label-derived", "`map_labels`: all"}) contains(without, part);
}

TEST_CASE("learning curves rise with the share of labels, a line an arm", "[arm_study]") {
  const ArmStudyResult result = two_arms();
  const std::vector<LineChart> charts = arm_study_charts(result);
  REQUIRE(charts.size() == 1);  // nothing is known of the other figure
  CHECK_THAT(charts[0].title, contains_text(kAuroc));
  int drawn = 0;
  for (const Series& series : charts[0].series) {
    if (series.x.empty()) continue;
    ++drawn;
    CHECK(series.x == std::vector<double>{10, 50, 100});
    const bool plain = series.name == "image";
    CHECK(series.y == (plain ? std::vector<double>{0.5, 0.7, 0.9} : std::vector<double>{0.6, 0.8, 0.7}));
  }
  CHECK(drawn == 2);

  const Scratch scratch;
  write_figures(scratch.path("figures"), charts, {});
  const std::string svg = read_text_file(scratch.path("figures/01-classification-auroc-macro-over-labels.svg"));
  CHECK(structure_error(svg) == "");
  contains(svg, ">image+evidence</text>");
  const auto lines = matches(svg, "<path class=\"line s[0-7]\" d=\"([^\"]*)\"");
  REQUIRE(lines.size() == 2);
  double x[3], y[3];  // of the image alone, in drawing units from the upper left corner
  REQUIRE(std::sscanf(lines[0].c_str(), "M%lf %lfL%lf %lfL%lf %lf", &x[0], &y[0], &x[1], &y[1], &x[2], &y[2]) == 6);
  CHECK((x[1] - x[0]) / (x[2] - x[0]) == Approx(40.0 / 90).epsilon(1e-3));
  CHECK(y[1] < y[0]);
  CHECK((y[1] - y[0]) / (y[2] - y[0]) == Approx(0.5).epsilon(1e-3));

  ArmStudyResult one_share = result;
  one_share.means.resize(2);
  CHECK(arm_study_charts(one_share).empty());
}

TEST_CASE("an arm study's own options stand beside the settings of a run, and in place of one", "[arm_study]") {
  const auto read = [](std::vector<const char*> words) {
    std::string labelled = "10,100", extra = "none";
    words.insert(words.begin(), "program");
    const CommandLine line = parse_command_line(static_cast<int>(words.size()), words.data(), "test",
                                                {{"labelled", "shares", &labelled}, {"extra-one", "text", &extra}});
    return std::pair(line, labelled + "/" + extra);
  };
  CHECK(read({}).second == "10,100/none");
  const auto [line, own] = read({"--labelled=25,50", "--size", "64", "--extra-one", "some"});
  CHECK(own == "25,50/some");
  CHECK_FALSE(line.exit);
  CHECK(line.config.size == 64);
  CHECK(line.config.labelled == 0);
  CHECK(read({"--extra", "some"}).first.exit_code == 2);
}
