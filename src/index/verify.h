#pragma once
// Whether everything in a snapshot is what it should be.

#include "snapshot.h"

namespace daug::detail {

/// Throws kFormat naming what is not.
IndexCheck verify_snapshot(const Snapshot& snapshot);

}  // namespace daug::detail
