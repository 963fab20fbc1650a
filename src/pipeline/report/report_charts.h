#pragma once
// Pieces of the report that follow from what the evaluation left behind alone.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "daug/pipeline/figures.h"
#include "daug/report/html_report.h"

namespace daug {

/// "0.882", or "not defined".
std::string number(double value, int decimals = 3);
/// "0.882 (0.861 to 0.902)"; without the interval where there is none, "not defined" for null.
std::string with_interval(const Figure* figure, int decimals = 3);

/// What the evaluation's decision curves call treating everybody.
inline constexpr const char* kTreatAll = "treat all";

/// ROC, precision-recall and decision curves of arms, titled by what they are of; decision curves beside those of
/// treating everybody and nobody. Kinds and arms without curves are left out.
std::vector<LineChart> curve_charts(const nlohmann::json& details, const std::vector<std::string>& arms,
                                    const std::string& what);

/// Reliability diagrams of arms before and after temperature scaling, with the calibration errors in words; none of
/// what the evaluation did not measure.
std::vector<LineChart> calibration_charts(const nlohmann::json& details, const std::vector<Figure>& figures,
                                          const std::vector<std::string>& arms);
/// Calibration error, Brier score and temperature of arms; no rows for those without probabilities.
Table calibration_table(const std::vector<Figure>& figures, const std::vector<std::string>& arms);
/// Which arms have no temperature, and why; empty where all have one.
std::string untempered_text(const nlohmann::json& details);

/// FROC curves of kinds of maps, details' member `key`; nothing without any.
std::optional<LineChart> froc_chart(const nlohmann::json& details, const std::string& key, const std::string& title,
                                    const std::vector<std::string>& kinds);

/// What the figures are: a row a definition, with the arms it is of where others of its figure are defined otherwise.
/// Findings, maps and boxes that share a definition share brackets.
Table definitions_table(const std::vector<Figure>& figures);

/// Macro AUROC by sex, age band, view and site with gaps, as far as the cohort knows them; no rows where it knows none.
Table subgroups_table(const nlohmann::json& details, const std::string& arm);

}  // namespace daug
