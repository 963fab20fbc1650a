#pragma once
// Pieces of the report that follow from what the evaluation left in details.json alone.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "daug/report/html_report.h"

namespace daug {

/// ROC, precision-recall, calibration and decision curves of arms, all findings pooled. Arms without curves are left
/// out.
std::vector<LineChart> curve_charts(const nlohmann::json& details, const std::vector<std::string>& arms);

/// Macro AUROC by sex, age band, view and site with gaps, as far as the cohort knows them; no rows where it knows none.
Table subgroups_table(const nlohmann::json& details, const std::string& arm);

}  // namespace daug
