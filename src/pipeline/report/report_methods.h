#pragma once
// What a reader needs to repeat a run, in words.

#include <string>
#include <vector>

#include "pipeline/run_impl.h"

namespace daug {

/// A methods section for a paper, ready to paste: paragraphs, then one paragraph a reference. Options of the encoders'
/// training are named, and what they are from is cited, where they differ from the default.
std::vector<std::string> methods_text(const RunConfig& config, const RunData& data);

/// Its references as BibTeX entries, in the order of their numbers.
std::string methods_bibtex(const RunConfig& config);

}  // namespace daug
