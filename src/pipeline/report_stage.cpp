// Turns a run folder into one page.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <set>
#include <tuple>

#include "daug/image/colormap.h"
#include "daug/image/png.h"
#include "daug/io/file.h"
#include "daug/report/figure_files.h"
#include "daug/report/html_report.h"
#include "daug/report/table_files.h"
#include "duplicates.h"
#include "encoder_stages.h"
#include "io/json.h"
#include "localisation.h"
#include "paired_tests.h"
#include "report_charts.h"
#include "report_methods.h"
#include "run_impl.h"
#include "shown_pixels.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

class ReportBuilder {
 public:
  ReportBuilder(Run::Impl& run, std::vector<Figure> figures)
      : run_(run),
        data_(run.data()),
        figures_(std::move(figures)),
        details_(detail::parse_json(read_text_file(run.path("stages/details.json")), "daug::Run",
                                    run.path("stages/details.json"))),
        page_("Where is the disease, and does knowing help?",
              fmt::format("Diffusion heatmaps as encoder channels: {} images of {} x {} pixels, {} findings",
                          data_.images.count(), run.config.size, run.config.size, data_.findings())) {}

  HtmlReport build() {
    summary();
    examples();
    localisation();
    encoders();
    retrieval();
    curves();
    calibration();
    failures();
    by_finding();
    data();
    training();
    methods();
    provenance();
    return std::move(page_);
  }

 private:
  const Figure* figure(const std::string& name, const std::string& arm, const std::string& split = "test") const {
    return find_figure(figures_, name, arm, split);
  }

  std::string evidence_arm() const { return "image+" + run_.config.encoder.maps; }

  void summary() {
    std::vector<KeyFigure> key;
    const auto add = [&](const std::string& name, const std::string& arm, const std::string& label) {
      if (const Figure* f = figure(name, arm))
        key.push_back({number(f->value), label,
                       f->low ? fmt::format("95 % {} to {}, n = {}", number(*f->low), number(*f->high), f->n)
                              : fmt::format("n = {}", f->n)});
    };
    add("map.pixel_ap", "difference", "pixel AP, difference maps");
    add("map.pixel_ap", "mean_mask", "pixel AP, mean training mask (no image used)");
    add("map.image_auroc", "evidence", "image AUROC of evidence maps");
    add("classification.auroc_macro", "image", "macro AUROC, image alone");
    add("classification.auroc_macro", evidence_arm(), "macro AUROC, image + maps");
    add("retrieval.p_at_5", "image", "P@5, image alone");
    add("retrieval.p_at_5", evidence_arm(), "P@5, image + maps");
    page_.key_figures(key);
    if (!data_.cohort.has_reports)
      page_.paragraph(
          "This cohort has no reports. Wherever text is used below it is label-derived: sentences made by a "
          "template from the labels. Figures that need real reports (report to image) are left out.");
    page_.paragraph(
        "Intervals are 95 % percentile bootstraps over patients. Figures are shown whichever way they come "
        "out; arms differ in nothing but what their names say.");
  }

  GrayImage gray(const float* pixels) const {
    const int size = data_.images.size;
    return gray_image(shown_pixels(pixels, size).data(), shown_size(size));
  }

  ReportImage plain(const float* pixels, const std::string& caption) const {
    return {encode_png(gray(pixels)), caption, caption, {}};
  }

  /// An image with a map of group g over it, the true region outlined.
  ReportImage overlay(std::size_t row, std::size_t g, const float* map, float high, const std::string& caption) const {
    const GrayImage base = gray(data_.images.image(row));
    RgbImage picture = overlay_map(base, shown_pixels(map, data_.images.size), 0, high, Colormap::kInferno, 1.0);
    if (const auto region = map_region(run_, row, g))
      draw_outline(picture, shown_pixels(region->data(), data_.images.size));
    return {encode_png(base), caption, caption + " for " + data_.groups[g].name, encode_png(picture)};
  }

  std::vector<std::string> findings_of(std::size_t row) const {
    std::vector<std::string> names;
    for (std::size_t f = 0; f < data_.findings(); ++f)
      if (data_.study(row).labels[f] == LabelState::kPositive) names.push_back(data_.cohort.findings[f]);
    if (names.empty()) names.push_back("none");
    return names;
  }

  void examples() {
    page_.section("Examples");
    page_.paragraph(
        "Each row: the radiograph, the map over it (opacity by slider), and the image translated away from "
        "the finding. Where the cohort knows the truth, the mask is outlined in green and the true image "
        "without the finding stands beside ours. 'Round trip' is the image encoded and decoded without a "
        "target, with its mean absolute error.");
    const MapSet& set = run_.maps();
    const at::Tensor difference = set.select("difference", data_.test).contiguous();
    const at::Tensor evidence = set.select("evidence", data_.test).contiguous();
    const at::Tensor translated = set.translated.contiguous(), reconstruction = set.reconstruction.contiguous();
    std::map<std::size_t, std::size_t> position;
    for (std::size_t i = 0; i < set.test_rows.size(); ++i) position.emplace(set.test_rows[i], i);
    const std::size_t area = data_.images.pixels_per_image();
    const auto high_difference = static_cast<float>(quantile(difference));
    const auto high_evidence = static_cast<float>(quantile(evidence));

    ImageGrid grid;
    grid.caption = "Maps of positive findings in the test split, one scale for all rows.";
    grid.scales = {{"difference |x - x'|, data in [-1, 1]", 0, high_difference, Colormap::kInferno},
                   {"signed evidence, positive part", 0, high_evidence, Colormap::kInferno}};
    const auto wanted = static_cast<std::size_t>(run_.config.report.examples);
    // One example of each map first, then a second of each, until there are enough.
    for (std::size_t round = 0; grid.rows.size() < wanted && round < wanted; ++round)
      for (std::size_t g = 0; g < data_.maps() && grid.rows.size() < wanted; ++g) {
        std::size_t seen = 0;
        for (std::size_t i = 0; i < data_.test.size(); ++i) {
          const std::size_t row = data_.test[i];
          if (data_.group_state(row, g) <= 0 || seen++ != round) continue;
          grid.rows.push_back(example(i, row, g, position.at(row), area, difference, evidence, translated,
                                      reconstruction, high_difference, high_evidence));
          break;
        }
      }
    page_.images(grid);
  }

  static double quantile(const at::Tensor& maps) {
    // The 99.5th percentile of at most a million values: enough for a colour scale.
    const at::Tensor flat = maps.flatten();
    const std::int64_t step = std::max<std::int64_t>(1, flat.numel() / 1000000);
    const at::Tensor sample = std::get<0>(flat.slice(0, 0, flat.numel(), step).sort());
    return std::max(sample[static_cast<std::int64_t>(0.995 * static_cast<double>(sample.numel() - 1))].item<double>(),
                    1e-9);
  }

  ImageRow example(std::size_t i, std::size_t row, std::size_t g, std::size_t at, std::size_t area,
                   const at::Tensor& difference, const at::Tensor& evidence, const at::Tensor& translated,
                   const at::Tensor& reconstruction, float high_difference, float high_evidence) const {
    const std::string& finding = data_.groups[g].name;
    const std::size_t lane = i * data_.maps() + g;
    const float* pixels = data_.images.image(row);
    ImageRow result;
    result.label = finding + ", image " + data_.study(row).id;
    result.cells.push_back(plain(pixels, "radiograph"));
    result.cells.push_back(
        overlay(row, g, difference.data_ptr<float>() + lane * area, high_difference, "difference map"));
    result.cells.push_back(overlay(row, g, evidence.data_ptr<float>() + lane * area, high_evidence, "evidence map"));
    result.cells.push_back(
        plain(translated.data_ptr<float>() + (at * data_.maps() + g) * area, "without " + finding + ", ours"));
    if (const auto truth = map_counterfactual(run_, row, g))
      result.cells.push_back(plain(truth->data(), "without " + finding + ", true"));
    const double residual = run_.maps().residual[static_cast<std::int64_t>(at)].item<double>();
    result.cells.push_back(
        plain(reconstruction.data_ptr<float>() + at * area, "round trip, error " + number(residual)));
    return result;
  }

  void table(const std::string& caption, const std::vector<std::string>& arms,
             const std::vector<std::pair<std::string, std::string>>& columns, const std::string& split,
             const std::vector<std::string>& stressed = {}, int decimals = 3) {
    Table result;
    result.caption = caption;
    result.header = {"arm"};
    for (const auto& column : columns) result.header.push_back(column.second);
    for (const auto& arm : arms) {
      std::vector<std::string> cells = {arm};
      bool any = false;
      for (const auto& column : columns) {
        const Figure* f = figure(column.first, arm, split);
        any = any || f;
        cells.push_back(f ? with_interval(f, decimals) : "-");
      }
      if (!any) continue;
      if (std::find(stressed.begin(), stressed.end(), arm) != stressed.end())
        result.highlighted.push_back(result.rows.size());
      result.rows.push_back(cells);
    }
    if (!result.rows.empty()) page_.table(result);
  }

  /// The test split and its slices. Subgroups have a figure of their own alone.
  std::vector<std::string> splits() const {
    std::vector<std::string> names;
    for (const auto& f : figures_)
      if (f.name == "classification.auprc_macro" && std::find(names.begin(), names.end(), f.split) == names.end())
        names.push_back(f.split);
    return names;
  }

  /// FROC of kinds of maps, as a table and as curves; `of` ends the names of the figures.
  void lesions_found(const std::vector<std::string>& kinds, const std::string& of, const std::string& what) {
    std::vector<std::pair<std::string, std::string>> columns;
    const char* labels[] = {"1/8", "1/4", "1/2", "1", "2", "4", "8"};
    const std::vector<double> rates = froc_rates();
    for (std::size_t r = 0; r < rates.size(); ++r)
      columns.emplace_back(fmt::format("map.froc_at_{:g}{}", rates[r], of), labels[r]);
    for (const auto& split : splits())
      table("Share of lesions found at 1/8 to 8 false positives an image" + what + ", " + split +
                ". What a map points at are the highest pixels of the regions above half of its own range.",
            kinds, columns, split, {"difference", "evidence"}, 2);
    if (const auto chart = froc_chart(details_, "froc" + of, "Lesions found (FROC)" + what + ", test", kinds))
      page_.charts({*chart});
  }

  void localisation() {
    page_.section("Do the maps show where?");
    const std::vector<std::string> arms = {
        "difference", "evidence", "score_difference", "no_target", "mean_mask", "mean_healthy_distance", "occlusion"};
    for (const auto& split : splits())
      table("Maps against masks or boxes, " + split +
                ". A map that beats neither the mean training mask nor its own no-target "
                "round trip shows nothing.",
            arms,
            {{"map.pixel_ap", "pixel AP"},
             {"map.pointing", "pointing"},
             {"map.pixel_auroc", "pixel AUROC"},
             {"map.froc_score", "FROC score"},
             {"map.image_auroc", "image AUROC"}},
            split, {"difference", "evidence"});
    lesions_found(arms, "", "");
    for (const BoxGroup& group : box_groups(run_)) {
      std::string members;
      for (const std::int64_t map : group.maps)
        members += (members.empty() ? "" : ", ") + data_.groups[static_cast<std::size_t>(map)].name;
      const std::string of = "[" + group.name + "]";
      for (const auto& split : splits())
        table("The highest of the maps of " + members + " against boxes named " + group.name + ", " + split + ".", arms,
              {{"map.pixel_ap" + of, "pixel AP"},
               {"map.pointing" + of, "pointing"},
               {"map.pixel_auroc" + of, "pixel AUROC"},
               {"map.froc_score" + of, "FROC score"},
               {"map.iou" + of, "IoU of the map's upper half"}},
              split, {"difference", "evidence"});
      lesions_found(arms, of, ", boxes named " + group.name);
    }
    table("Translation against the true counterfactual, test.", {"difference", "no_target"},
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
      if (figure("map.pixel_ap", arm)) measured.push_back(arm);
    by_finding.header.insert(by_finding.header.end(), measured.begin(), measured.end());
    for (const auto& group : data_.groups) {
      std::vector<std::string> cells = {group.name, ""};
      for (const auto& arm : measured) {
        const Figure* ap = figure(of("map.pixel_ap", group), arm);
        const Figure* pointing = figure(of("map.pointing", group), arm);
        if (ap) cells[1] = std::to_string(ap->n);
        cells.push_back(ap ? with_interval(ap, 2) + " / " + (pointing ? number(pointing->value, 2) : "-") : "-");
      }
      if (!cells[1].empty()) by_finding.rows.push_back(cells);
    }
    if (!by_finding.rows.empty()) page_.table(by_finding);
  }

  /// What tables of encoders say about a cohort without reports.
  std::string text_note() const { return data_.cohort.has_reports ? "" : " Text is label-derived."; }

  std::vector<std::string> arm_names() const {
    std::vector<std::string> names;
    for (const auto& arm : run_.arms()) names.push_back(arm.name);
    return names;
  }

  void encoders() {
    page_.section("Do the maps help an encoder?");
    std::vector<std::string> paper;
    for (const auto& arm : run_.paper_arms()) paper.push_back(arm.name);
    const std::vector<std::pair<std::string, std::string>> columns = {
        {"classification.auroc_macro", "macro AUROC"},
        {"classification.auprc_macro", "macro AP"},
        {"retrieval.p_at_5", "P@5"},
        {"retrieval.map_at_10", "mAP@10"},
        {"retrieval.wmap_at_10", "wmAP@10"},
        {"retrieval.report_to_image.p_at_5", "report to image P@5"}};
    for (const auto& split : splits())
      table(
          "The four arms of the paper, " + split + ": {image, image + maps} x {image-text, hybrid loss}." + text_note(),
          paper, columns, split, {evidence_arm()});
    std::vector<std::string> others = {"chance", "metadata_logistic", "pca_logistic", "noise_aware_classifier"};
    for (const auto& name : arm_names()) others.push_back(name);
    for (const auto& split : splits())
      table("All arms and baselines, " + split + ". Noise channels are the control that should gain nothing." +
                text_note(),
            others,
            {{"classification.auroc_macro", "macro AUROC"},
             {"classification.auroc_weighted", "weighted AUROC"},
             {"classification.ece", "calibration error"},
             {"retrieval.p_at_1", "P@1"},
             {"retrieval.p_at_5", "P@5"},
             {"retrieval.p_at_10", "P@10"}},
            split);
    IntervalPlot plot;
    plot.title = "Macro AUROC, test, 95 % patient bootstrap";
    plot.axis.label = "macro AUROC";
    plot.reference = 0.5;
    for (const auto& arm : others)
      if (const Figure* f = figure("classification.auroc_macro", arm); f && f->low)
        plot.rows.push_back({arm, f->value, *f->low, f->high.value_or(f->value), arm == evidence_arm()});
    if (!plot.rows.empty()) page_.intervals(plot);
    const Table tests = tests_table(
        "Paired tests of the arms on the same test images: difference with its paired patient-bootstrap interval, p of "
        "a swap test by patient, and p by Holm's correction for all comparisons of the figure." +
            text_note(),
        figures_, /*of_findings=*/false);
    if (!tests.rows.empty()) page_.table(tests);
  }

  void retrieval() {
    if (!details_.contains("retrieval_examples")) return;
    page_.section("Retrieval");
    std::vector<RetrievalRow> rows;
    for (const auto& example : details_["retrieval_examples"]) {
      const auto query = row_of(example.at("query"));
      RetrievalRow row;
      row.query = plain(data_.images.image(query), data_.study(query).id);
      row.findings = findings_of(query);
      for (const auto& hit : example.at("hits")) {
        const auto found = row_of(hit);
        row.hits.push_back({plain(data_.images.image(found), data_.study(found).id), findings_of(found)});
      }
      rows.push_back(std::move(row));
    }
    page_.retrieval("The first queries of the test split and what the arm '" + evidence_arm() +
                        "' finds among its training and the validation images; shared findings are marked." +
                        text_note(),
                    rows);
  }

  void curves() {
    page_.section("Curves and subgroups");
    const std::vector<std::string> arms = {"image", evidence_arm(), "image+noise", "pca_logistic"};
    page_.charts(curve_charts(details_, arms));
    const Table subgroups = subgroups_table(details_, evidence_arm());
    if (!subgroups.rows.empty()) page_.table(subgroups);
    Table by_finding;
    by_finding.caption = "AUROC by finding, test, with intervals." + text_note();
    by_finding.header = {"finding"};
    for (const auto& arm : arms) by_finding.header.push_back(arm);
    for (const auto& finding : data_.cohort.findings) {
      std::vector<std::string> cells = {finding};
      for (const auto& arm : arms) {
        const Figure* of_finding = figure("classification.auroc[" + finding + "]", arm);
        cells.push_back(of_finding ? with_interval(of_finding) : "-");
      }
      by_finding.rows.push_back(cells);
    }
    page_.table(by_finding);
    const Table tests = tests_table(
        "AUROC by finding of the arm with maps less that of the image alone: DeLong's test on the same test images, "
        "for patients with several, and p by Holm's correction for all findings." +
            text_note(),
        figures_, /*of_findings=*/true);
    if (!tests.rows.empty()) page_.table(tests);
  }

  void calibration() {
    std::vector<std::string> arms = {"noise_aware_classifier", "pca_logistic", "metadata_logistic"};
    for (const auto& name : arm_names()) arms.push_back(name);
    const Table table = calibration_table(figures_, arms);
    if (table.rows.empty()) return;
    page_.section("Calibration");
    page_.paragraph(
        "A probability means what it says where, of all labels it is given to, that share is positive: on the dotted "
        "line. The temperature was fitted to the validation images, never to test images; it changes no ranking.");
    page_.charts(calibration_charts(details_, figures_, {"image", evidence_arm(), "image+noise", "pca_logistic"}));
    page_.table(table);
    if (const std::string text = untempered_text(details_); !text.empty()) page_.paragraph(text);
  }

  /// The number of an image, as details.json has it.
  std::size_t row_of(const nlohmann::json& number) const {
    const auto row = detail::value_of<std::int64_t>(number, "daug::Run", run_.path("stages/details.json"));
    if (row < 0 || static_cast<std::size_t>(row) >= data_.images.count())
      fail(ErrorCode::kFormat, "daug::Run", run_.path("stages/details.json"),
           detail::concat("a number below ", data_.images.count()), row);
    return static_cast<std::size_t>(row);
  }

  /// Cells of an entry of details.json's "errors".
  ReportImage error_cell(const std::string& finding, const nlohmann::json& error) const {
    const auto row = row_of(error.at("row"));
    return plain(data_.images.image(row),
                 fmt::format("{} {}, probability {}; {}", finding,
                             error.at("positive").get<bool>() ? "missed" : "seen where there is none",
                             number(error.at("probability").get<double>(), 2), data_.study(row).id));
  }

  void failures() {
    page_.section("Failures");
    if (details_.contains("errors")) {
      // How wrong, finding, place: the surest of all findings first, one finding no more than a third of them.
      constexpr std::size_t kShown = 12, kOfOne = 4;
      std::vector<std::tuple<double, std::string, const nlohmann::json*>> errors;
      for (const auto& [finding, list] : details_["errors"].items())
        for (std::size_t n = 0; n < std::min(kOfOne, list.size()); ++n)
          errors.emplace_back(
              -std::abs(list.at(n).at("probability").get<double>() - (list.at(n).at("positive").get<bool>() ? 1 : 0)),
              finding, &list[n]);
      std::sort(errors.begin(), errors.end(), [](const auto& a, const auto& b) {
        return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
      });
      ImageGrid grid;
      grid.caption =
          fmt::format("Test images that the arm '{}' is surest of and wrong about, at most {} of one finding.",
                      evidence_arm(), kOfOne);
      grid.rows.push_back({"Most confident errors", {}});
      for (std::size_t n = 0; n < std::min(kShown, errors.size()); ++n)
        grid.rows[0].cells.push_back(error_cell(std::get<1>(errors[n]), *std::get<2>(errors[n])));
      if (errors.empty())
        page_.paragraph("The arm calls no test image wrongly at a probability of 0.5.");
      else
        page_.images(grid);
    }
    if (!details_.contains("worst_localisation")) return;
    const std::string& kind = run_.config.encoder.maps;
    const at::Tensor maps = run_.maps().select(kind, data_.test).contiguous();
    const auto high = static_cast<float>(quantile(maps));
    std::map<std::size_t, std::size_t> place;
    for (std::size_t i = 0; i < data_.test.size(); ++i) place.emplace(data_.test[i], i);
    ImageGrid grid;
    grid.caption =
        "Regions that the maps miss by most, outlined in green; lowest average precision of the pixels first.";
    grid.scales = {{kind + " map", 0, high, Colormap::kInferno}};
    constexpr std::size_t kOfOne = 3;
    for (std::size_t g = 0; g < data_.maps(); ++g) {
      const std::string& name = data_.groups[g].name;
      if (!details_["worst_localisation"].contains(name)) continue;
      ImageRow row;
      row.label = "Worst localisation: " + name;
      const auto& list = details_["worst_localisation"][name];
      for (std::size_t n = 0; n < std::min(kOfOne, list.size()); ++n) {
        const auto at = row_of(list.at(n).at("row"));
        const auto test = place.find(at);
        if (test == place.end())
          fail(ErrorCode::kFormat, "daug::Run", run_.path("stages/details.json"), "images of the test split", at);
        const std::size_t lane = test->second * data_.maps() + g;
        row.cells.push_back(overlay(
            at, g, maps.const_data_ptr<float>() + lane * data_.images.pixels_per_image(), high,
            fmt::format("pixel AP {}; {}", number(list.at(n).at("pixel_ap").get<double>(), 2), data_.study(at).id)));
      }
      if (!row.cells.empty()) grid.rows.push_back(std::move(row));
    }
    if (!grid.rows.empty()) page_.images(grid);
  }

  void by_finding() {
    page_.section("By finding");
    const std::vector<std::string> arms = {"image", evidence_arm()};
    for (std::size_t f = 0; f < data_.findings(); ++f) {
      const std::string& finding = data_.cohort.findings[f];
      page_.subsection(finding);
      std::size_t positive = 0, negative = 0;
      for (const std::size_t row : data_.test) {
        positive += data_.state(row, f) > 0 ? 1 : 0;
        negative += data_.state(row, f) < 0 ? 1 : 0;
      }
      std::vector<std::pair<std::string, std::string>> facts = {
          {"test images", fmt::format("{} positive, {} negative", positive, negative)}};
      const auto add_figures = [&](const std::string& name, const std::string& before, const char* after) {
        for (const Figure& one : figures_)
          if (one.name == name && one.split == "test")
            facts.emplace_back(before + one.arm + after, with_interval(&one));
      };
      add_figures("classification.auroc[" + finding + "]", "AUROC, ", "");
      add_figures("retrieval.p_at_5[" + finding + "]", "P@5, ", "");
      if (const auto map = data_.map_of(f))
        for (const auto& [name, label] :
             {std::pair<const char*, const char*>{"map.pixel_ap", "pixel AP, "}, {"map.froc_score", "FROC score, "}})
          add_figures(std::string(name) + "[" + data_.groups[*map].name + "]", label, " maps");
      page_.key_values(finding + " in numbers", facts);
      if (details_.contains("finding_curves") && details_["finding_curves"].contains(finding)) {
        const auto charts = curve_charts(details_["finding_curves"][finding], arms, finding);
        if (!charts.empty()) page_.charts(charts);
      }
      if (!details_.contains("errors") || !details_["errors"].contains(finding)) continue;
      ImageGrid grid;
      grid.caption = fmt::format("What the arm '{}' gets wrong most confidently.", evidence_arm());
      grid.rows.emplace_back();
      for (const auto& error : details_["errors"][finding]) grid.rows[0].cells.push_back(error_cell(finding, error));
      if (!grid.rows[0].cells.empty()) page_.images(grid);
    }
  }

  void data() {
    page_.section("Data");
    const CohortSummary summary = summarise(data_.cohort);
    Table table;
    table.caption = "Images with each finding, positive / negative / uncertain / not mentioned.";
    table.header = {"finding", "train", "val", "test"};
    for (std::size_t f = 0; f < data_.findings(); ++f) {
      std::vector<std::string> cells = {data_.cohort.findings[f]};
      for (const auto& split : summary.splits) {
        const auto& states = split.finding_states[f];
        cells.push_back(fmt::format("{} / {} / {} / {}", states[0], states[1], states[2], states[3]));
      }
      table.rows.push_back(cells);
    }
    page_.table(table);
    std::vector<std::pair<std::string, std::string>> facts;
    for (const auto& split : summary.splits)
      facts.emplace_back(split.split, fmt::format("{} images of {} patients, {} with a report, {} without a finding",
                                                  split.images, split.patients, split.reports, split.no_finding));
    const auto leaks = leak_check(data_.cohort);
    facts.emplace_back("leak check", leaks.empty() ? "no patient and no image file is in two splits"
                                                   : fmt::format("{} leaks, first: {}", leaks.size(), leaks[0].what));
    add_duplicates(facts);
    facts.emplace_back("labels used",
                       fmt::format("{} of {} training images; {} of them train the encoders", data_.labelled.size(),
                                   data_.train.size(), data_.encoder_train.size()));
    facts.emplace_back("No Finding beside a positive finding", std::to_string(summary.no_finding_conflicts));
    facts.emplace_back("unreadable images left out", std::to_string(data_.failures.size()));
    facts.emplace_back(
        "text", data_.cohort.has_reports ? "reports of the cohort" : "label-derived (the cohort has no reports)");
    page_.key_values("Splits and checks", facts);
    const Table duplicates = duplicates_table();
    if (!duplicates.rows.empty()) page_.table(duplicates);
  }

  void add_duplicates(std::vector<std::pair<std::string, std::string>>& facts) const {
    const auto value = [&](const char* name) {
      const Figure* found = figure(name, "data", "all");
      return found ? std::optional<std::string>(number(found->value, 0)) : std::nullopt;
    };
    const auto copies = value("data.identical_images"), across = value("data.identical_across_splits");
    if (!copies || !across) return;  // measured by an earlier version
    facts.emplace_back("identical images",
                       fmt::format("{} that are there already, {} pictures in several splits", *copies, *across));
    const auto pairs = value("data.alike_pairs"), alike_across = value("data.alike_across_splits");
    if (pairs && alike_across)
      facts.emplace_back("nearly identical images",
                         fmt::format("{} pairs whose correlation is {} or more, {} of them in different splits", *pairs,
                                     kAlike, *alike_across));
    else
      facts.emplace_back("nearly identical images",
                         fmt::format("not looked for among more than {} images", kMostCompared));
  }

  /// Which images these are, those in several splits first.
  Table duplicates_table() const {
    constexpr std::size_t kShown = 20;
    Table table;
    if (!details_.contains("duplicates")) return table;
    table.header = {"images", "alike", "splits", "patients"};
    const auto row = [&](const std::vector<std::size_t>& images, const std::string& how) {
      const auto joined = [&](const auto& text_of) {
        std::string text;
        std::set<std::string> seen;
        for (const std::size_t image : images)
          if (const std::string one = text_of(data_.study(image)); seen.insert(one).second)
            text += (text.empty() ? "" : ", ") + one;
        return text;
      };
      return std::vector<std::string>{joined([](const Study& study) { return study.id; }), how,
                                      joined([](const Study& study) { return study.split; }),
                                      joined([](const Study& study) { return study.patient_id; })};
    };
    for (const auto& images : details_["duplicates"]["identical"])
      table.rows.push_back(row(images.get<std::vector<std::size_t>>(), "identical"));
    for (const auto& pair : details_["duplicates"]["alike"])
      table.rows.push_back(row({pair[0].get<std::size_t>(), pair[1].get<std::size_t>()},
                               fmt::format("correlation {:.4f}", pair[2].get<double>())));
    std::stable_partition(table.rows.begin(), table.rows.end(),
                          [](const auto& cells) { return cells[2].find(',') != std::string::npos; });
    table.caption = fmt::format("Images that are there more than once{}.",
                                table.rows.size() > kShown ? fmt::format(", {} of {}", kShown, table.rows.size()) : "");
    table.rows.resize(std::min(kShown, table.rows.size()));
    return table;
  }

  void training() {
    page_.section("Training");
    std::vector<LineChart> charts;
    const auto curve = [&](const std::string& file, const std::string& title) {
      if (!fs::exists(run_.path(file))) return;
      const auto loss = read_safetensors(run_.path(file)).at("loss").to_double();
      LineChart chart;
      chart.title = title;
      chart.x.label = "step";
      chart.y.label = "loss";
      Series series;
      series.name = "mean over a hundredth of the steps";
      const std::size_t bin = std::max<std::size_t>(1, loss.size() / 100);
      for (std::size_t begin = 0; begin < loss.size(); begin += bin) {
        double sum = 0;
        std::size_t count = 0;
        for (std::size_t i = begin; i < std::min(loss.size(), begin + bin); ++i)
          if (std::isfinite(loss[i])) sum += loss[i], ++count;
        if (count == 0) continue;
        series.x.push_back(static_cast<double>(begin));
        series.y.push_back(sum / static_cast<double>(count));
      }
      chart.series.push_back(series);
      charts.push_back(chart);
    };
    curve("stages/translator_history.safetensors", "Diffusion model");
    curve("stages/guide_history.safetensors", "Noise-aware classifier");
    for (const auto& arm : run_.paper_arms()) curve(arm.file() + ".history", "Encoder: " + arm.name);
    if (!charts.empty()) page_.charts(charts);
  }

  void methods() {
    page_.section("Methods");
    for (const auto& paragraph : methods_text(run_.config, data_)) page_.paragraph(paragraph);
    page_.preformatted("The references as BibTeX.", methods_bibtex());
  }

  void provenance() {
    page_.section("Settings and provenance");
    std::vector<std::pair<std::string, std::string>> times, prints, all;
    for (const auto& [stage, seconds] : run_.seconds_) times.emplace_back(stage, fmt::format("{:.1f} s", seconds));
    for (Stage stage : all_stages()) prints.emplace_back(stage_name(stage), run_.fingerprint(stage));
    RunConfig config = run_.config;
    all.emplace_back("preset", config.preset);
    for (const auto& setting : settings(config)) all.emplace_back(setting.name, setting.text());
    page_.key_values("What made this page", provenance_facts(run_.config));
    std::vector<std::pair<std::string, std::string>> commands;
    for (const Stage stage : all_stages()) {
      const auto found = run_.commands_.find(stage_name(stage));
      const std::string command = stage == Stage::kReport         ? process_command()
                                  : found == run_.commands_.end() ? ""
                                                                  : found->second;
      if (!command.empty()) commands.emplace_back(stage_name(stage), command);
    }
    page_.key_values("Command lines that made the stages, as they were given", commands);
    page_.key_values("Time of each stage", times);
    page_.key_values("Fingerprints: a stage's hash of its data, settings and earlier stages", prints);
    page_.key_values("Settings", all);
    Table table;
    table.caption = "Definitions of the figures.";
    table.header = {"figure", "definition"};
    std::set<std::string> seen;
    for (const auto& f : figures_)
      if (const std::string name = f.name.substr(0, f.name.find('[')); seen.insert(name).second)
        table.rows.push_back({name, f.definition});
    page_.table(table);
  }

  Run::Impl& run_;
  const RunData& data_;
  std::vector<Figure> figures_;
  nlohmann::json details_;
  HtmlReport page_;
};

}  // namespace

void Run::Impl::write_report() {
  constexpr const char* kNew = ".new";  // ends the name of a folder that is not whole yet
  const auto start = std::chrono::steady_clock::now();
  for (Stage stage : all_stages())
    if (stage != Stage::kReport) require_done(stage);
  std::string evaluated;
  std::vector<Figure> figures = read_metrics(path("metrics.json"), &evaluated);
  if (evaluated != fingerprint(Stage::kEvaluate))
    fail(ErrorCode::kMismatch, "daug::Run", path("metrics.json"), "fingerprint " + fingerprint(Stage::kEvaluate),
         evaluated);
  const HtmlReport page = [&] {
    try {
      return ReportBuilder(*this, figures).build();
    } catch (const nlohmann::json::exception& error) {
      fail(ErrorCode::kFormat, "daug::Run", path("stages/details.json"), "what the evaluation writes", error.what());
    }
  }();
  // What is there stays until all that is to take its place is written.
  const std::vector<std::string> folders = {path("tables"), path("figures")};
  for (const auto& folder : folders) fs::remove_all(folder + kNew);
  write_tables(folders[0] + kNew, page.tables());
  write_figures(folders[1] + kNew, page.line_charts(), page.interval_plots());
  page.write(path("report.html"));
  for (const auto& folder : folders) {
    fs::remove_all(folder);
    fs::rename(folder + kNew, folder);
  }
  // Only now are the last two stages' own times known.
  const auto is_late = [](const Figure& f) { return f.name == "time.evaluate" || f.name == "time.report"; };
  figures.erase(std::remove_if(figures.begin(), figures.end(), is_late), figures.end());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const auto& [name, value] :
       {std::pair<std::string, double>{"time.evaluate", seconds_["evaluate"]}, {"time.report", seconds}})
    figures.push_back({name, "run", "all", value, {}, {}, 1, "wall-clock seconds of the stage"});
  write_metrics(path("metrics.json"), figures, evaluated);
}

}  // namespace daug
