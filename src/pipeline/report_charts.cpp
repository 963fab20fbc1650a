#include "report_charts.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace daug {

namespace {

/// "value (low to high)" of [value, low, high]; "-" for null.
std::string interval_text(const nlohmann::json& interval, const char* format) {
  if (interval.is_null()) return "-";
  return fmt::format(fmt::runtime(std::string(format) + " ({:.3f} to {:.3f})"), interval.at(0).get<double>(),
                     interval.at(1).get<double>(), interval.at(2).get<double>());
}

/// A p-value of a row; "-" where it has none.
std::string p_text(const nlohmann::json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? number(row[key].get<double>()) : "-";
}

}  // namespace

std::string number(double value, int decimals) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : "not defined";
}

std::string with_interval(const Figure* figure, int decimals) {
  if (!figure) return "not defined";
  if (!figure->low) return number(figure->value, decimals);
  return fmt::format("{} ({} to {})", number(figure->value, decimals), number(*figure->low, decimals),
                     number(figure->high.value_or(std::nan("")), decimals));
}

std::vector<LineChart> curve_charts(const nlohmann::json& details, const std::vector<std::string>& arms,
                                    const std::string& what) {
  struct Kind {
    const char* key;
    LineChart chart;
  };
  std::vector<Kind> kinds = {
      {"roc", {"ROC, " + what, {"false positive rate", 0, 1}, {"true positive rate", 0, 1}, {}, true}},
      {"pr", {"Precision-recall, " + what, {"recall", 0, 1}, {"precision", 0, 1}, {}}},
      {"calibration", {"Calibration, " + what, {"mean probability", 0, 1}, {"positive share", 0, 1}, {}, true}},
      {"net_benefit", {"Decision curves, " + what, {"threshold probability", 0, 1}, {"standardised net benefit"}, {}}}};
  std::vector<LineChart> charts;
  for (auto& [key, chart] : kinds) {
    if (!details.contains(key)) continue;
    for (const auto& arm : arms) {
      if (!details[key].contains(arm)) continue;
      Series series;
      series.name = arm;
      for (const auto& point : details[key][arm]) {
        series.x.push_back(point.at(0).get<double>());
        series.y.push_back(point.at(1).get<double>());
      }
      chart.series.push_back(series);
    }
    if (!chart.series.empty()) charts.push_back(chart);
  }
  return charts;
}

Table subgroups_table(const nlohmann::json& details, const std::string& arm) {
  Table table;
  table.caption = fmt::format(
      "Does it hold for everybody? Macro AUROC of the arm '{}' by subgroup, test; the gap is to the other images with "
      "a "
      "known value. Subgroups of fewer than 10 patients are not measured. p: of no gap, by the same resamples, and by "
      "Holm's "
      "correction for the whole table.",
      arm);
  table.header = {"subgroup", "images", "patients", "macro AUROC", "gap", "p", "p, Holm"};
  if (!details.contains("subgroups") || !details["subgroups"].contains(arm)) return table;
  for (const auto& row : details["subgroups"][arm])
    table.rows.push_back({row.at("attribute").get<std::string>() + " " + row.at("value").get<std::string>(),
                          std::to_string(row.at("images").get<int>()), std::to_string(row.at("patients").get<int>()),
                          interval_text(row.at("figure"), "{:.3f}"), interval_text(row.at("gap"), "{:+.3f}"),
                          p_text(row, "p"), p_text(row, "p_holm")});
  return table;
}

}  // namespace daug
