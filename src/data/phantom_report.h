#pragma once
// The grammar that puts planted findings into words.

#include "daug/core/random.h"
#include "daug/data/phantom.h"
#include "phantom_scene.h"

namespace daug::phantom {

struct Report {
  std::string text;
  std::vector<LabelState> states;  // what the text says, by finding index
};

/// Writes a report on the findings that `planted` marks. Sentences come in random order; a finding left out is
/// kNotMentioned, a hedged one kUncertain.
Report write_report(const PhantomOptions& options, const std::vector<LabelState>& truth,
                    const Descriptions& descriptions, RandomStream random);

}  // namespace daug::phantom
