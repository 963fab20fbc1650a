#pragma once
// Access to the indexes of a run.

#include <vector>

#include "daug/index/retrieval_index.h"
#include "run_impl.h"

namespace daug {

/// The index of an arm; refuses other fingerprints.
RetrievalIndex load_index(Run::Impl& run, const Arm& arm);

/// Gallery positions (the index's ids) of the ten nearest items of every query embedding [Q, D], best first.
std::vector<std::vector<std::int64_t>> search_positions(const RetrievalIndex& index, const at::Tensor& queries);

}  // namespace daug
