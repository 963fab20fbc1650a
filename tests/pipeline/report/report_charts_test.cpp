// Pieces of the report that follow from figures and details.

#include "pipeline/report/report_charts.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/catch.h"

using namespace daug;

namespace {

Figure figure(const std::string& name, const std::string& arm, double value, const std::string& split = "test") {
  return {name, arm, split, value, {}, {}, 9, "a definition"};
}

}  // namespace

TEST_CASE("reliability is drawn before and after a temperature, an arm in the same place of both", "[pipeline]") {
  const nlohmann::json details = {
      {"calibration", {{"a", {{0.1, 0.3}, {0.9, 0.8}}}, {"b", {{0.5, 0.5}}}, {"other", {{0.5, 0.5}}}}},
      {"calibration_tempered", {{"b", {{0.4, 0.5}}}}},
      {"untempered", {{"a", "its labels are of one class"}}}};
  const std::vector<Figure> figures = {
      figure("classification.ece", "a", 0.25), figure("classification.ece", "b", 0.125),
      figure("classification.ece_tempered", "b", 0.0625), figure("classification.brier", "b", 0.5),
      figure("classification.temperature", "b", 2, "val")};
  const auto charts = calibration_charts(details, figures, {"a", "b", "unknown"});
  REQUIRE(charts.size() == 2);
  REQUIRE(charts[0].series.size() == 2);
  REQUIRE(charts[1].series.size() == 2);
  CHECK(charts[0].series[0].name == "a");
  CHECK(charts[0].series[0].x == std::vector<double>{0.1, 0.9});
  CHECK(charts[0].series[0].y == std::vector<double>{0.3, 0.8});
  CHECK(charts[1].series[0].name == "a (no temperature)");
  CHECK(charts[1].series[0].x.empty());
  CHECK(charts[1].series[1].x == std::vector<double>{0.4});
  CHECK((charts[0].diagonal && charts[1].diagonal));
  CHECK(charts[0].alt == "Calibration error: a 0.250, b 0.125");
  CHECK(charts[1].alt == "Calibration error: b 0.062");
  CHECK(calibration_charts({{"roc", 1}}, figures, {"a"}).empty());
  CHECK(untempered_text(details) == "Without a temperature: a, because its labels are of one class.");
  CHECK(untempered_text({{"roc", 1}}).empty());
  const Table table = calibration_table(figures, {"a", "b", "unknown"});
  using Rows = std::vector<std::vector<std::string>>;
  CHECK(table.rows == Rows{{"a", "0.250", "-", "-", "-", "-"}, {"b", "0.125", "0.062", "0.500", "-", "2.000"}});
  for (const auto& row : table.rows) CHECK(row.size() == table.header.size());
}

TEST_CASE("decision curves stand beside treating everybody and nobody, FROC curves for themselves", "[pipeline]") {
  const nlohmann::json details = {{"net_benefit", {{"a", {{0.1, 0.9}}}, {kTreatAll, {{0.1, 0.8}, {0.2, 0.7}}}}},
                                  {"roc", {{"a", {{0, 0}, {1, 1}}}}},
                                  {"froc", {{"evidence", {{0, 0.5}, {1, 0.75}}}}}};
  const auto charts = curve_charts(details, {"a"}, "all findings pooled");
  REQUIRE(charts.size() == 2);
  CHECK(charts[0].series.size() == 1);
  REQUIRE(charts[1].series.size() == 3);
  CHECK(charts[1].series[1].name == "treat all");
  CHECK(charts[1].series[1].y == std::vector<double>{0.8, 0.7});
  CHECK(charts[1].series[2].y == std::vector<double>{0, 0});
  CHECK(curve_charts(details, {"b"}, "all findings pooled").empty());
  const auto froc = froc_chart(details, "froc", "title", {"difference", "evidence"});
  REQUIRE(froc);
  REQUIRE(froc->series.size() == 1);
  CHECK(froc->series[0].name == "evidence");
  CHECK(froc->series[0].y == std::vector<double>{0.5, 0.75});
  CHECK_FALSE(froc_chart(details, "froc", "title", {"difference"}));
  CHECK_FALSE(froc_chart(details, "froc[Opacity]", "title", {"evidence"}));
}

TEST_CASE("a subgroup has its figure alone where no resample defines the interval", "[pipeline]") {
  const auto details = nlohmann::json::parse(R"({"subgroups": {"a": [
    {"attribute": "sex", "value": "f", "images": 12, "patients": 11, "figure": [0.5, null, null],
     "gap": [-0.25, -0.5, 0.125], "p": 0.25, "p_holm": null},
    {"attribute": "sex", "value": "m", "images": 3, "patients": 2, "figure": null, "gap": null, "p": null}]}})");
  using Rows = std::vector<std::vector<std::string>>;
  CHECK(subgroups_table(details, "a").rows ==
        Rows{{"sex f", "12", "11", "0.500", "-0.250 (-0.500 to 0.125)", "0.250", "-"},
             {"sex m", "3", "2", "-", "-", "-", "-"}});
  CHECK(subgroups_table(details, "b").rows.empty());
}

TEST_CASE("a figure that arms define differently has a row a definition, with its arms", "[pipeline]") {
  const auto defined = [](const std::string& name, const std::string& arm, const std::string& definition) {
    Figure one = figure(name, arm, 0.5);
    one.definition = definition;
    return one;
  };
  const Table table = definitions_table(
      {defined("auroc", "pca", "plain"), defined("time.maps", "run", "seconds"),
       defined("auroc", "image", "plain; label-derived"),
       defined("auroc", "image, image-text loss", "plain; label-derived"), defined("auroc", "chance", "plain"),
       defined("auroc", "pca", "plain"), defined("ap[Edema]", "evidence", "of a finding"),
       defined("ap[Nodule]", "evidence", "of a finding"), defined("ap[Opacity]", "evidence", "of boxes"),
       defined("ap", "evidence", "mean"), defined("ap", "difference", "mean")});
  using Rows = std::vector<std::vector<std::string>>;
  CHECK(table.rows == Rows{{"auroc", "pca; chance", "plain"},
                           {"auroc", "image; image, image-text loss", "plain; label-derived"},
                           {"time.maps", "all", "seconds"},
                           {"ap[Edema, Nodule]", "evidence", "of a finding"},
                           {"ap[Opacity]", "evidence", "of boxes"},
                           {"ap", "all", "mean"}});
  CHECK(table.header.size() == 3);
  CHECK(definitions_table({}).rows.empty());
}
