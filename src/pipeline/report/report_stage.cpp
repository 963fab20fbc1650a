// Turns a run folder into one page.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/report/figure_files.h"
#include "daug/report/table_files.h"
#include "io/json.h"
#include "report_charts.h"
#include "report_page.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

void add_summary(ReportPage& report) {
  std::vector<KeyFigure> key;
  const auto add = [&](const std::string& name, const std::string& arm, const std::string& label) {
    if (const Figure* f = report.figure(name, arm))
      key.push_back({number(f->value), label,
                     f->low ? fmt::format("95 % {} to {}, n = {}", number(*f->low), number(*f->high), f->n)
                            : fmt::format("n = {}", f->n)});
  };
  add("map.pixel_ap", "difference", "pixel AP, difference maps");
  add("map.pixel_ap", "mean_mask", "pixel AP, mean training mask (no image used)");
  add("map.image_auroc", "evidence", "image AUROC of evidence maps");
  add("classification.auroc_macro", "image", "macro AUROC, image alone");
  add("classification.auroc_macro", report.evidence_arm(), "macro AUROC, image + maps");
  add("retrieval.p_at_5", "image", "P@5, image alone");
  add("retrieval.p_at_5", report.evidence_arm(), "P@5, image + maps");
  report.page.key_figures(key);
  if (!report.data.cohort.has_reports)
    report.page.paragraph(
        "This cohort has no reports. Wherever text is used below it is label-derived: sentences made by a "
        "template from the labels. Figures that need real reports (report to image) are left out.");
  report.page.paragraph(
      "Intervals are 95 % percentile bootstraps over patients. Figures are shown whichever way they come "
      "out; arms differ in nothing but what their names say.");
}

/// Throws kMismatch naming the file unless the run's own evaluation wrote it.
void require_evaluation(Run::Impl& run, const std::string& file, const std::string& found) {
  if (const std::string expected = run.fingerprint(Stage::kEvaluate); found != expected)
    fail(ErrorCode::kMismatch, "daug::Run", file, "fingerprint " + expected, found);
}

HtmlReport page_of(Run::Impl& run, std::vector<Figure> figures) {
  const RunData& data = run.data();
  const std::string file = run.path("stages/details.json");
  auto details = detail::parse_json(read_text_file(file), "daug::Run", file);
  require_evaluation(run, file, detail::member_as<std::string>(details, "fingerprint", "daug::Run", file));
  ReportPage report{run, data, std::move(figures), std::move(details),
                    HtmlReport("Where is the disease, and does knowing help?",
                               fmt::format("Diffusion heatmaps as encoder channels: {} images of {} x {} pixels, {} "
                                           "findings",
                                           data.images.count(), run.config.size, run.config.size, data.findings()))};
  add_summary(report);
  add_examples(report);
  add_localisation(report);
  add_encoders(report);
  add_retrieval(report);
  add_curves(report);
  add_calibration(report);
  add_failures(report);
  add_by_finding(report);
  add_data(report);
  add_training(report);
  add_methods(report);
  add_provenance(report);
  return std::move(report.page);
}

}  // namespace

void Run::Impl::write_report() {
  constexpr const char* kNew = ".new";  // ends the name of a folder that is not whole yet
  const auto start = std::chrono::steady_clock::now();
  for (Stage stage : all_stages())
    if (stage != Stage::kReport) require_done(stage);
  std::string evaluated;
  std::vector<Figure> figures = read_metrics(path("metrics.json"), &evaluated);
  require_evaluation(*this, path("metrics.json"), evaluated);
  const HtmlReport page = [&] {
    try {
      return page_of(*this, figures);
    } catch (const nlohmann::json::exception& error) {
      fail(ErrorCode::kFormat, "daug::Run", path("stages/details.json"), "what the evaluation writes", error.what());
    }
  }();
  // What is there stays until all that is to take its place is written.
  const std::vector<std::string> folders = {path("tables"), path("figures")};
  for (const auto& folder : folders) fs::remove_all(folder + kNew);
  write_tables(folders[0] + kNew, page.tables());
  write_figures(folders[1] + kNew, page.line_charts(), page.interval_plots());
  for (const auto& folder : folders) write_file_atomically(folder + kNew + "/" + kMadeBy, fingerprint(Stage::kReport));
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
