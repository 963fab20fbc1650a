#pragma once
// What made a file or a report: versions, the processor, command lines.

#include <string>
#include <utility>
#include <vector>

#include "daug/pipeline/run_config.h"

namespace daug {

/// What wrote a file, name and version, as fingerprints and reports say it.
extern const char* const kLibrary;

/// The command line of this process as it was given, words quoted for a shell where they need it; empty where the
/// system does not tell.
std::string process_command();

/// A command that gives the run's settings, and what the page was made with: versions, processor, threads.
std::vector<std::pair<std::string, std::string>> provenance_facts(const RunConfig& config);

}  // namespace daug
