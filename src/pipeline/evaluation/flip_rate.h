#pragma once
// How often a classifier no longer sees a disease after translation away from it.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daug/metrics/retrieval_values.h"
#include "pipeline/run_impl.h"

namespace daug {

/// Whether a classifier that saw a disease no longer sees it after translation, by row and finding: of a row that is
/// positive for a finding and called so (probability above 0.5), 1 where it is called negative (below 0.5) once it was
/// translated away from the finding's map, else 0; NaN everywhere else. before [rows, F]; after(map) [rows, F].
RetrievalValues flips(const RunData& data, const std::vector<std::size_t>& rows, const at::Tensor& before,
                      const std::function<at::Tensor(std::int64_t map)>& after);
/// The definition of their mean where the classifier is image_only_classifier.
std::string flip_rate_definition(const RunData& data);

}  // namespace daug
