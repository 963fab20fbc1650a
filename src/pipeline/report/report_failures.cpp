// What goes wrong, and every finding by itself.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "report_charts.h"
#include "report_page.h"

namespace daug {

namespace {

/// Cells of an entry of details.json's "errors".
ReportImage error_cell(const ReportPage& report, const std::string& finding, const nlohmann::json& error) {
  const auto row = report.row_of(error.at("row"));
  return report.plain(report.data.images.image(row),
                      fmt::format("{} {}, probability {}; {}", finding,
                                  error.at("positive").get<bool>() ? "missed" : "seen where there is none",
                                  number(error.at("probability").get<double>(), 2), report.data.study(row).id));
}

}  // namespace

void add_failures(ReportPage& report) {
  const RunData& data = report.data;
  report.page.section("Failures");
  if (report.details.contains("errors")) {
    // How wrong, finding, place: the surest of all findings first, one finding no more than a third of them.
    constexpr std::size_t kShown = 12, kOfOne = 4;
    std::vector<std::tuple<double, std::string, const nlohmann::json*>> errors;
    for (const auto& [finding, list] : report.details["errors"].items())
      for (std::size_t n = 0; n < std::min(kOfOne, list.size()); ++n)
        errors.emplace_back(
            -std::abs(list.at(n).at("probability").get<double>() - (list.at(n).at("positive").get<bool>() ? 1 : 0)),
            finding, &list[n]);
    std::sort(errors.begin(), errors.end(), [](const auto& a, const auto& b) {
      return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
    });
    ImageGrid grid;
    grid.caption = fmt::format("Test images that the arm '{}' is surest of and wrong about, at most {} of one finding.",
                               report.evidence_arm(), kOfOne) +
                   report.text_note();
    grid.rows.push_back({"Most confident errors", {}});
    for (std::size_t n = 0; n < std::min(kShown, errors.size()); ++n)
      grid.rows[0].cells.push_back(error_cell(report, std::get<1>(errors[n]), *std::get<2>(errors[n])));
    if (errors.empty())
      report.page.paragraph("The arm calls no test image wrongly at a probability of 0.5.");
    else
      report.page.images(grid);
  }
  if (!report.details.contains("worst_localisation")) return;
  const std::string& kind = report.run.config.encoder.maps;
  const at::Tensor maps = report.run.maps().select(kind, data.test).contiguous();
  const auto high = static_cast<float>(colour_limit(maps));
  std::map<std::size_t, std::size_t> place;
  for (std::size_t i = 0; i < data.test.size(); ++i) place.emplace(data.test[i], i);
  ImageGrid grid;
  grid.caption = "Regions that the maps miss by most, outlined in green; lowest average precision of the pixels first.";
  grid.scales = {{kind + " map", 0, high, Colormap::kInferno}};
  constexpr std::size_t kOfOne = 3;
  for (std::size_t g = 0; g < data.maps(); ++g) {
    const std::string& name = data.groups[g].name;
    if (!report.details["worst_localisation"].contains(name)) continue;
    ImageRow row;
    row.label = "Worst localisation: " + name;
    const auto& list = report.details["worst_localisation"][name];
    for (std::size_t n = 0; n < std::min(kOfOne, list.size()); ++n) {
      const auto at = report.row_of(list.at(n).at("row"));
      const auto test = place.find(at);
      if (test == place.end())
        fail(ErrorCode::kFormat, "daug::Run", report.run.path("stages/details.json"), "images of the test split", at);
      const std::size_t lane = test->second * data.maps() + g;
      row.cells.push_back(report.overlay(
          at, g, maps.const_data_ptr<float>() + lane * data.images.pixels_per_image(), high,
          fmt::format("pixel AP {}; {}", number(list.at(n).at("pixel_ap").get<double>(), 2), data.study(at).id)));
    }
    if (!row.cells.empty()) grid.rows.push_back(std::move(row));
  }
  if (!grid.rows.empty()) report.page.images(grid);
}

void add_by_finding(ReportPage& report) {
  const RunData& data = report.data;
  report.page.section("By finding");
  const std::vector<std::string> arms = {"image", report.evidence_arm()};
  for (std::size_t f = 0; f < data.findings(); ++f) {
    const std::string& finding = data.cohort.findings[f];
    report.page.subsection(finding);
    std::size_t positive = 0, negative = 0;
    for (const std::size_t row : data.test) {
      positive += data.state(row, f) > 0 ? 1 : 0;
      negative += data.state(row, f) < 0 ? 1 : 0;
    }
    std::vector<std::pair<std::string, std::string>> facts = {
        {"test images", fmt::format("{} positive, {} negative", positive, negative)}};
    const auto add_figures = [&](const std::string& name, const std::string& before, const char* after) {
      for (const Figure& one : report.figures)
        if (one.name == name && one.split == "test") facts.emplace_back(before + one.arm + after, with_interval(&one));
    };
    add_figures("classification.auroc[" + finding + "]", "AUROC, ", "");
    add_figures("retrieval.p_at_5[" + finding + "]", "P@5, ", "");
    if (const auto map = data.map_of(f))
      for (const auto& [name, label] :
           {std::pair<const char*, const char*>{"map.pixel_ap", "pixel AP, "}, {"map.froc_score", "FROC score, "}})
        add_figures(std::string(name) + "[" + data.groups[*map].name + "]", label, " maps");
    report.page.key_values(report.noted(finding + " in numbers"), facts);
    if (report.details.contains("finding_curves") && report.details["finding_curves"].contains(finding)) {
      const auto charts = curve_charts(report.details["finding_curves"][finding], arms, report.noted(finding));
      if (!charts.empty()) report.page.charts(charts);
    }
    if (!report.details.contains("errors") || !report.details["errors"].contains(finding)) continue;
    ImageGrid grid;
    grid.caption =
        fmt::format("What the arm '{}' gets wrong most confidently.", report.evidence_arm()) + report.text_note();
    grid.rows.emplace_back();
    for (const auto& error : report.details["errors"][finding])
      grid.rows[0].cells.push_back(error_cell(report, finding, error));
    if (!grid.rows[0].cells.empty()) report.page.images(grid);
  }
}

}  // namespace daug
