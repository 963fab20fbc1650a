#pragma once
// The order of rows by the scores that decide, where estimates leave it open.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "daug/index/retrieval_index.h"

namespace daug::detail {

/// Norms of rows. Throws kInvalidArgument for a value that is not finite and, under cosine, for a zero vector.
std::vector<double> norms_of_rows(Metric metric, const RowMatrixRef& vectors, const char* function,
                                  const char* argument);

/// Vectors of which every one has its norm.
struct NormedRows {
  const RowMatrixRef& rows;
  std::vector<double> norms;

  const float* values(std::int64_t row) const { return rows.data() + row * rows.outerStride(); }
  double norm(std::int64_t row) const { return norms[static_cast<std::size_t>(row)]; }
};

/// Puts rows that are in the order of estimates, the nearest and smallest first, into that of RetrievalIndex::search
/// with rows for ids. Estimates that differ by more than `reach` are in the right order.
void settle_order(Metric metric, const NormedRows& queries, std::int64_t query, const NormedRows& items,
                  const double* estimates, double reach, std::int64_t* order, std::size_t count);

}  // namespace daug::detail
