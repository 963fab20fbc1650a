#pragma once
// The targets of networks.cpp.

#include <vector>

#include "targets.h"

namespace daug::fuzz {

/// These targets and those of networks.cpp.
std::vector<Target> with_networks(std::vector<Target> targets);

}  // namespace daug::fuzz
