#pragma once
// The cohort of a run's settings, for whoever needs no more of the run.

#include <string>

#include "daug/data/cohort.h"
#include "daug/pipeline/run_config.h"

namespace daug {

/// The cohort in a folder with the findings that the settings name, so that no other column has to be one. Which of its
/// files are there is left to loading them. Throws as read_cohort and read_vocabulary.
Cohort read_run_cohort(const std::string& folder, const RunConfig& config);

}  // namespace daug
