#pragma once
// The targets of cohorts.cpp.

#include <vector>

#include "targets.h"

namespace daug::fuzz {

/// These targets and those of cohorts.cpp.
std::vector<Target> with_cohorts(std::vector<Target> targets);

}  // namespace daug::fuzz
