#pragma once
/// @file
/// Figures of several runs side by side.

#include <string>
#include <vector>

#include "daug/report/html_report.h"

namespace daug {

/// A page on the runs in these folders: what they differ in, key figures with their intervals beneath each other, and
/// every figure of their metrics.json side by side, a column a run. A figure whose definition is not the same in all
/// runs is named; a cell says n where the runs' differ. Every run whose predictions.safetensors belongs to its figures
/// and tells of the same test images and labels as the first one's is tested against that, arm by arm: paired patient
/// bootstraps and swap tests (resamples and seed of the first run) and DeLong's test by finding, with p-values by
/// Holm's correction; which runs are not, and why, is said. Reads config.json, metrics.json and predictions.safetensors
/// alone. Deterministic.
///
/// Throws kInvalidArgument for fewer than two folders or one that is given twice, kNotFound, kFormat and kUnsupported
/// as read_config and read_metrics do.
HtmlReport compare_runs(const std::vector<std::string>& run_folders);

/// The program: writes the page, its tables and figures. Returns the exit status: 0, 1 after an error, 2 for wrong
/// arguments.
int compare_program(int argc, const char* const* argv);

}  // namespace daug
