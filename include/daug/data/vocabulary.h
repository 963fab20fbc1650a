#pragma once
/// @file
/// Vocabulary files: which findings a run uses, in which order, and how they share heatmaps.

#include <string>
#include <vector>

#include "daug/data/labels.h"

namespace daug {

/// Findings in label order and heatmap groups in map order. No name has a comma or '|', which part names in lists.
struct Vocabulary {
  std::vector<std::string> findings;  ///< unique, not empty
  FindingGroups groups;               ///< members are among `findings`

  /// Throws kInvalidArgument (no finding, a duplicate, a name with a comma or '|') or what validate_groups throws.
  void validate() const;
};

/// Reads a vocabulary; the extension decides the format.
///
/// `.json`: `{"findings": ["Edema", ...], "groups": {"con": ["Edema", ...], ...}}`. Without `groups` each finding is
/// its own group; groups keep the order of the file. `.csv`: columns `finding` and `group` (the latter optional or
/// blank: a group of its own); findings and groups keep the order of first appearance, a finding listed again joins a
/// further group. Throws kNotFound, kUnsupported (other extensions), kFormat (naming the file), or what validate()
/// throws.
Vocabulary read_vocabulary(const std::string& path);

}  // namespace daug
