#include "report_charts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>

namespace daug {

namespace {

/// "value (low to high)" of [value, low, high]; the value alone where no resample defines the ends; "-" for null.
std::string interval_text(const nlohmann::json& interval, const char* format) {
  if (interval.is_null()) return "-";
  if (interval.at(1).is_null() || interval.at(2).is_null())
    return fmt::format(fmt::runtime(format), interval.at(0).get<double>());
  return fmt::format(fmt::runtime(std::string(format) + " ({:.3f} to {:.3f})"), interval.at(0).get<double>(),
                     interval.at(1).get<double>(), interval.at(2).get<double>());
}

/// The line through [x, y] points.
Series series_of(const std::string& name, const nlohmann::json& points) {
  Series series;
  series.name = name;
  for (const auto& point : points) {
    series.x.push_back(point.at(0).get<double>());
    series.y.push_back(point.at(1).get<double>());
  }
  return series;
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
      {"net_benefit", {"Decision curves, " + what, {"threshold probability", 0, 1}, {"standardised net benefit"}, {}}}};
  std::vector<LineChart> charts;
  for (auto& [key, chart] : kinds) {
    if (!details.contains(key)) continue;
    for (const auto& arm : arms)
      if (details[key].contains(arm)) chart.series.push_back(series_of(arm, details[key][arm]));
    if (chart.series.empty()) continue;
    if (details[key].contains(kTreatAll)) {
      chart.series.push_back(series_of(kTreatAll, details[key][kTreatAll]));
      chart.series.push_back({"treat none", {0, 1}, {0, 0}});
    }
    charts.push_back(chart);
  }
  return charts;
}

std::vector<LineChart> calibration_charts(const nlohmann::json& details, const std::vector<Figure>& figures,
                                          const std::vector<std::string>& arms) {
  std::vector<LineChart> charts;
  for (const auto& [ending, when] : {std::pair<std::string, std::string>{"", "before"}, {"_tempered", "after"}}) {
    const std::string key = "calibration" + ending;
    if (!details.contains(key)) continue;
    LineChart chart{
        "Reliability " + when + " temperature scaling", {"mean probability", 0, 1}, {"positive share", 0, 1}, {}, true};
    for (const auto& arm : arms) {
      if (!details["calibration"].contains(arm)) continue;
      // An arm keeps its line's style in both charts, whether or not it has a line.
      if (details[key].contains(arm))
        chart.series.push_back(series_of(arm, details[key][arm]));
      else
        chart.series.push_back({arm + " (no temperature)", {}, {}});
      if (const Figure* error = find_figure(figures, "classification.ece" + ending, arm))
        chart.alt +=
            fmt::format("{}{} {}", chart.alt.empty() ? "Calibration error: " : ", ", arm, number(error->value));
    }
    if (!chart.series.empty()) charts.push_back(chart);
  }
  return charts;
}

Table calibration_table(const std::vector<Figure>& figures, const std::vector<std::string>& arms) {
  Table table;
  table.caption =
      "Calibration, test, all findings pooled: before and after temperature scaling. A temperature above 1 makes "
      "probabilities less sure.";
  table.header = {"arm",         "calibration error",   "calibration error, scaled",
                  "Brier score", "Brier score, scaled", "temperature"};
  for (const auto& arm : arms) {
    std::vector<std::string> cells = {arm};
    const auto add = [&](const char* name, const std::string& split = "test") {
      const Figure* found = find_figure(figures, name, arm, split);
      cells.push_back(found ? with_interval(found) : "-");
    };
    if (!find_figure(figures, "classification.ece", arm)) continue;
    add("classification.ece");
    add("classification.ece_tempered");
    add("classification.brier");
    add("classification.brier_tempered");
    add("classification.temperature", "val");
    table.rows.push_back(std::move(cells));
  }
  return table;
}

std::string untempered_text(const nlohmann::json& details) {
  std::string text;
  if (!details.contains("untempered")) return text;
  for (const auto& [arm, reason] : details["untempered"].items())
    text += (text.empty() ? "Without a temperature: " : "; ") + arm + ", because " + reason.get<std::string>();
  return text.empty() ? text : text + ".";
}

std::optional<LineChart> froc_chart(const nlohmann::json& details, const std::string& key, const std::string& title,
                                    const std::vector<std::string>& kinds) {
  if (!details.contains(key)) return std::nullopt;
  LineChart chart{title, {"false positives an image", 0}, {"share of lesions found", 0, 1}, {}};
  for (const auto& kind : kinds)
    if (details[key].contains(kind)) chart.series.push_back(series_of(kind, details[key][kind]));
  if (chart.series.empty()) return std::nullopt;
  return chart;
}

Table definitions_table(const std::vector<Figure>& figures) {
  struct Definition {
    std::string name;  // without what stands in brackets
    bool bracketed;
    std::string text;
    std::vector<std::string> of, arms;  // what stands in brackets; both without repetitions
  };
  const auto add = [](std::vector<std::string>& list, const std::string& item) {
    if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
  };
  std::vector<Definition> definitions;
  for (const Figure& figure : figures) {
    const std::size_t bracket = std::min(figure.name.find('['), figure.name.size());
    const std::string name = figure.name.substr(0, bracket);
    const bool bracketed = bracket < figure.name.size();
    auto found = std::find_if(definitions.begin(), definitions.end(), [&](const Definition& one) {
      return one.name == name && one.bracketed == bracketed && one.text == figure.definition;
    });
    if (found == definitions.end()) {
      const auto last = std::find_if(definitions.rbegin(), definitions.rend(),
                                     [&](const Definition& one) { return one.name == name; });
      found = definitions.insert(last == definitions.rend() ? definitions.end() : last.base(),
                                 Definition{name, bracketed, figure.definition, {}, {}});
    }
    if (bracketed) add(found->of, figure.name.substr(bracket + 1, figure.name.size() - bracket - 2));
    add(found->arms, figure.arm);
  }
  Table table;
  table.caption = "Definitions of the figures. Arms are named where not all of a figure's have the same.";
  table.header = {"figure", "arms", "definition"};
  for (const Definition& one : definitions) {
    const bool only = std::count_if(definitions.begin(), definitions.end(), [&](const Definition& other) {
                        return other.name == one.name && other.bracketed == one.bracketed;
                      }) == 1;
    table.rows.push_back({one.bracketed ? fmt::format("{}[{}]", one.name, fmt::join(one.of, ", ")) : one.name,
                          only ? "all" : fmt::format("{}", fmt::join(one.arms, "; ")), one.text});
  }
  return table;
}

Table subgroups_table(const nlohmann::json& details, const std::string& arm) {
  Table table;
  table.caption = fmt::format(
      "Does it hold for everybody? Macro AUROC of the arm '{}' by subgroup, test; the gap is to the other images with "
      "a known value. Subgroups of fewer than 10 patients are not measured, nor gaps to fewer. p: of no gap, by the "
      "same resamples, and by Holm's correction for the whole table.",
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
