#pragma once
// What a reader needs to repeat a run, in words and in numbers.

#include <string>
#include <utility>
#include <vector>

#include "run_impl.h"

namespace daug {

/// A methods section for a paper, ready to paste: paragraphs, then one paragraph a reference. Options of the encoders'
/// training are named, and what they are from is cited, where they differ from the default.
std::vector<std::string> methods_text(const RunConfig& config, const RunData& data);

/// Its references as BibTeX entries, in the order of their numbers.
std::string methods_bibtex(const RunConfig& config);

/// The command line of this process as it was given, words quoted for a shell where they need it; empty where the
/// system does not tell.
std::string process_command();

/// A command that gives the run's settings, and what the page was made with: versions, processor, threads.
std::vector<std::pair<std::string, std::string>> provenance_facts(const RunConfig& config);

}  // namespace daug
