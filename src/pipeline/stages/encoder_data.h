#pragma once
// What encoders and the baselines beside them learn from, as the cohort has it.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string>
#include <vector>

#include "pipeline/run_impl.h"

namespace daug {

/// Report text of rows, or the label-derived template where the cohort has no reports.
std::vector<std::string> study_texts(const RunData& data, const std::vector<std::size_t>& rows);

/// Study of each row as a number, [rows]: rows of one patient with the same text in a metadata column, or of one
/// patient for "patient_id"; a row whose cell is blank is a study of its own. Undefined for no column. Throws kNotFound
/// naming encoder.study and the columns there are for one that no row has.
at::Tensor study_numbers(const RunData& data, const std::vector<std::size_t>& rows, const std::string& column);

/// Labels of -1 as the cohort has them, [rows, F] bool.
at::Tensor uncertain_labels(const RunData& data, const std::vector<std::size_t>& rows);

/// The columns of a list such as evaluate.metadata that the metadata-only baseline takes: those in which any study of
/// the cohort has a value, and "view". Others are left out of the default list, of which few cohorts have all; of any
/// other list kNotFound is thrown, naming evaluate.metadata and the columns there are.
std::vector<std::string> metadata_columns(const RunData& data, const std::string& list);

}  // namespace daug
