#pragma once
// The galleries of a run, their indexes, and what is found in them.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/index/retrieval_index.h"
#include "pipeline/run_impl.h"

namespace daug {

/// Training rows of the encoders followed by the validation rows: what retrieval searches.
std::vector<std::size_t> gallery_rows(const RunData& data);

/// Index file of an arm.
std::string index_file(const Arm& arm);

/// What the index of an arm carries, and queries that the arm's encoders embed say (SearchOptions::fingerprint).
std::string index_fingerprint(Run::Impl& run, const Arm& arm);

/// The index of an arm; refuses other fingerprints.
RetrievalIndex load_index(Run::Impl& run, const Arm& arm);

/// Embeddings [end - begin, D] of the gallery positions from begin to end, as they were when the index was made.
at::Tensor stored_embeddings(const RetrievalIndex& index, std::size_t begin, std::size_t end);

/// What the index of a run says of an image, for filters: study, patient, view, split, positive findings, and whatever
/// else the cohort's files say under the names of their columns (source, site, date, age ...).
Metadata item_metadata(const RunData& data, std::size_t row);

/// Gallery positions (the index's ids) of the ten nearest items of every query embedding [Q, D], best first, those of
/// the query's own patient left out; `patients` [Q] as in the index, `made_by` the fingerprint of the queries. On a
/// CUDA `device` they are searched there (DeviceSearch) once one has run the kernel for it; the result is the same.
/// Throws kMismatch for an index that something else made.
std::vector<std::vector<std::int64_t>> search_positions(const RetrievalIndex& index, const at::Tensor& queries,
                                                        const std::vector<std::string>& patients,
                                                        const std::string& made_by, const c10::Device& device);

}  // namespace daug
