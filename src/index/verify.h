#pragma once
// Whether everything in a snapshot is what it should be.

#include "snapshot.h"

namespace daug::detail {

/// Throws kFormat naming what is not.
IndexCheck verify_snapshot(const Snapshot& snapshot);

/// Share of the ten nearest of `sample` stored vectors, themselves left out, that approximate searches find.
double measured_recall(const Snapshot& snapshot, std::int64_t sample, const SearchOptions& options);

}  // namespace daug::detail
