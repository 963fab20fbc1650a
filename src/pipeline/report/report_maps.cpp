// What the page says of the maps: examples, and whether they show where the disease is.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daug/metrics/froc.h"
#include "pipeline/evaluation/localisation.h"
#include "report_charts.h"
#include "report_page.h"

namespace daug {

namespace {

/// FROC of kinds of maps, as a table and as curves; `of` ends the names of the figures.
void lesions_found(ReportPage& report, const std::vector<std::string>& kinds, const std::string& of,
                   const std::string& what) {
  std::vector<std::pair<std::string, std::string>> columns;
  const char* labels[] = {"1/8", "1/4", "1/2", "1", "2", "4", "8"};
  const std::vector<double> rates = froc_rates();
  for (std::size_t r = 0; r < rates.size(); ++r)
    columns.emplace_back(fmt::format("map.froc_at_{:g}{}", rates[r], of), labels[r]);
  for (const auto& split : report.splits())
    report.table("Share of lesions found at 1/8 to 8 false positives an image" + what + ", " + split +
                     ". What a map points at are the highest pixels of the regions above half of its own range.",
                 kinds, columns, split, {"difference", "evidence"}, 2);
  if (const auto chart = froc_chart(report.details, "froc" + of, "Lesions found (FROC)" + what + ", test", kinds))
    report.page.charts({*chart});
}

}  // namespace

void add_examples(ReportPage& report) {
  const RunData& data = report.data;
  report.page.section("Examples");
  report.page.paragraph(
      "Each row: the radiograph, the map over it (opacity by slider), and the image translated away from "
      "the finding. Where the cohort knows the truth, the mask is outlined in green and the true image "
      "without the finding stands beside ours. 'Round trip' is the image encoded and decoded without a "
      "target, with its mean absolute error.");
  const MapSet& set = report.run.maps();
  const at::Tensor difference = set.select("difference", data.test).contiguous();
  const at::Tensor evidence = set.select("evidence", data.test).contiguous();
  const at::Tensor translated = set.translated.contiguous(), reconstruction = set.reconstruction.contiguous();
  std::map<std::size_t, std::size_t> position;
  for (std::size_t i = 0; i < set.test_rows.size(); ++i) position.emplace(set.test_rows[i], i);
  const std::size_t area = data.images.pixels_per_image();
  const auto high_difference = static_cast<float>(colour_limit(difference));
  const auto high_evidence = static_cast<float>(colour_limit(evidence));
  // The i-th image of the test split and map g.
  const auto example = [&](std::size_t i, std::size_t g) {
    const std::size_t row = data.test[i], place = position.at(row), lane = i * data.maps() + g;
    const std::string& finding = data.groups[g].name;
    const float* pixels = data.images.image(row);
    ImageRow result;
    result.label = finding + ", image " + data.study(row).id;
    result.cells.push_back(report.plain(pixels, "radiograph"));
    result.cells.push_back(
        report.overlay(row, g, difference.data_ptr<float>() + lane * area, high_difference, "difference map"));
    result.cells.push_back(
        report.overlay(row, g, evidence.data_ptr<float>() + lane * area, high_evidence, "evidence map"));
    result.cells.push_back(
        report.plain(translated.data_ptr<float>() + (place * data.maps() + g) * area, "without " + finding + ", ours"));
    if (const auto truth = map_counterfactual(report.run, row, g))
      result.cells.push_back(report.plain(truth->data(), "without " + finding + ", true"));
    const double residual = set.residual[static_cast<std::int64_t>(place)].item<double>();
    result.cells.push_back(
        report.plain(reconstruction.data_ptr<float>() + place * area, "round trip, error " + number(residual)));
    return result;
  };

  ImageGrid grid;
  grid.caption = "Maps of positive findings in the test split, one scale for all rows.";
  const bool raw = report.run.config.maps.normalisation == "none";
  grid.scales = {{raw ? "difference |x - x'|, data in [-1, 1]" : "difference, each map scaled to [0, 1]", 0,
                  high_difference, Colormap::kInferno},
                 {"signed evidence, positive part", 0, high_evidence, Colormap::kInferno}};
  const auto wanted = static_cast<std::size_t>(report.run.config.report.examples);
  // One example of each map first, then a second of each, until there are enough.
  for (std::size_t round = 0; grid.rows.size() < wanted && round < wanted; ++round)
    for (std::size_t g = 0; g < data.maps() && grid.rows.size() < wanted; ++g) {
      std::size_t seen = 0;
      for (std::size_t i = 0; i < data.test.size(); ++i) {
        if (data.group_state(data.test[i], g) <= 0 || seen++ != round) continue;
        grid.rows.push_back(example(i, g));
        break;
      }
    }
  report.page.images(grid);
}

void add_localisation(ReportPage& report) {
  const RunData& data = report.data;
  report.page.section("Do the maps show where?");
  const std::vector<std::string> arms = {
      "difference", "evidence", "score_difference", "no_target", "mean_mask", "mean_healthy_distance", "occlusion"};
  for (const auto& split : report.splits())
    report.table("Maps against masks or boxes, " + split +
                     ". A map that beats neither the mean training mask nor its own no-target "
                     "round trip shows nothing.",
                 arms,
                 {{"map.pixel_ap", "pixel AP"},
                  {"map.pointing", "pointing"},
                  {"map.pixel_auroc", "pixel AUROC"},
                  {"map.froc_score", "FROC score"},
                  {"map.image_auroc", "image AUROC"}},
                 split, {"difference", "evidence"});
  lesions_found(report, arms, "", "");
  for (const BoxGroup& group : box_groups(report.run)) {
    std::string members;
    for (const std::int64_t map : group.maps)
      members += (members.empty() ? "" : ", ") + data.groups[static_cast<std::size_t>(map)].name;
    const std::string of = "[" + group.name + "]";
    for (const auto& split : report.splits())
      report.table("The highest of the maps of " + members + " against boxes named " + group.name + ", " + split + ".",
                   arms,
                   {{"map.pixel_ap" + of, "pixel AP"},
                    {"map.pointing" + of, "pointing"},
                    {"map.pixel_auroc" + of, "pixel AUROC"},
                    {"map.froc_score" + of, "FROC score"},
                    {"map.iou" + of, "IoU of the map's upper half"}},
                   split, {"difference", "evidence"});
    lesions_found(report, arms, of, ", boxes named " + group.name);
  }
  report.table("Translation against the true counterfactual, test." + report.text_note(), {"difference", "no_target"},
               {{"map.in_mask_ratio", "distance left in the mask"},
                {"map.outside_change", "change outside the mask"},
                {"map.outside_distance", "distance outside the mask"},
                {"map.flip_rate", "flip rate"},
                {"map.round_trip", "round-trip error"}},
               "test");
  Table by_finding;
  by_finding.caption = "Pixel AP / pointing by map, test, with intervals of the AP.";
  by_finding.header = {"map", "n"};
  const auto of = [](const char* name, const FindingGroup& group) {
    return std::string(name) + "[" + group.name + "]";
  };
  std::vector<std::string> measured;
  for (const auto& arm : arms)
    if (report.figure("map.pixel_ap", arm)) measured.push_back(arm);
  by_finding.header.insert(by_finding.header.end(), measured.begin(), measured.end());
  for (const auto& group : data.groups) {
    std::vector<std::string> cells = {group.name, ""};
    for (const auto& arm : measured) {
      const Figure* ap = report.figure(of("map.pixel_ap", group), arm);
      const Figure* pointing = report.figure(of("map.pointing", group), arm);
      if (ap) cells[1] = std::to_string(ap->n);
      cells.push_back(ap ? with_interval(ap, 2) + " / " + (pointing ? number(pointing->value, 2) : "-") : "-");
    }
    if (!cells[1].empty()) by_finding.rows.push_back(cells);
  }
  if (!by_finding.rows.empty()) report.page.table(by_finding);
}

}  // namespace daug
