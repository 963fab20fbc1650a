#pragma once
// The page that a run folder becomes, what it is made from, and its sections; report_stage.cpp has their order.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "daug/pipeline/figures.h"
#include "daug/report/html_report.h"
#include "pipeline/run_impl.h"

namespace daug {

/// A page in the making.
struct ReportPage {
  Run::Impl& run;
  const RunData& data;
  std::vector<Figure> figures;  ///< metrics.json
  nlohmann::json details;       ///< stages/details.json
  HtmlReport page;

  /// Null where it was not measured.
  const Figure* figure(const std::string& name, const std::string& arm, const std::string& split = "test") const {
    return find_figure(figures, name, arm, split);
  }
  /// The run's own arm with maps.
  std::string evidence_arm() const { return "image+" + run.config.encoder.maps; }
  std::vector<std::string> arm_names() const;
  /// The test split and its slices. Subgroups have a figure of their own alone.
  std::vector<std::string> splits() const;
  /// What tables of encoders say about a cohort without reports.
  std::string text_note() const { return data.cohort.has_reports ? "" : " Text is label-derived."; }
  /// The same said after a title, which has no full stop of its own.
  std::string noted(const std::string& title) const {
    const std::string note = text_note();
    return note.empty() ? title : title + "." + note;
  }
  /// The number of an image, as details.json has it; throws kFormat for any other value.
  std::size_t row_of(const nlohmann::json& number) const;

  /// An image [S, S] in [-1, 1].
  ReportImage plain(const float* pixels, const std::string& caption) const;
  /// An image with a map [S, S] of group g over it, colours from 0 to `high`, the true region outlined.
  ReportImage overlay(std::size_t row, std::size_t g, const float* map, float high, const std::string& caption) const;

  /// Adds a table of figures with their intervals, a row an arm and a column a (name, header); arms without any are
  /// left out, and so is a table without rows. Rows of `stressed` arms are highlighted.
  void table(const std::string& caption, const std::vector<std::string>& arms,
             const std::vector<std::pair<std::string, std::string>>& columns, const std::string& split,
             const std::vector<std::string>& stressed = {}, int decimals = 3);
};

/// The 99.5th percentile of maps of any shape, at least 1e-9: the end of their colour scale.
double colour_limit(const at::Tensor& maps);

// Each adds its section, those of retrieval and calibration only where the evaluation left something for them. They
// throw json's exceptions where details.json is not what the evaluation writes.

// report_maps.cpp
void add_examples(ReportPage& report);
void add_localisation(ReportPage& report);
// report_encoders.cpp
void add_encoders(ReportPage& report);
void add_retrieval(ReportPage& report);
void add_curves(ReportPage& report);
void add_calibration(ReportPage& report);
// report_failures.cpp
void add_failures(ReportPage& report);
void add_by_finding(ReportPage& report);
// report_audit.cpp
void add_data(ReportPage& report);
void add_training(ReportPage& report);
void add_methods(ReportPage& report);
void add_provenance(ReportPage& report);

}  // namespace daug
