#pragma once
// What a reader needs to repeat a run, in words and in numbers.

#include <string>
#include <utility>
#include <vector>

#include "run_impl.h"

namespace daug {

/// A methods section for a paper, ready to paste: paragraphs, then one paragraph a reference.
std::vector<std::string> methods_text(const RunConfig& config, const RunData& data);

/// The command that makes the run, and what it was made with: versions, processor, threads.
std::vector<std::pair<std::string, std::string>> provenance_facts(const RunConfig& config);

}  // namespace daug
