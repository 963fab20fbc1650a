#include "index_state.h"

#include <algorithm>
#include <cmath>

#include "daug/core/error.h"
#include "exact_score.h"

namespace daug::detail {

std::size_t IndexState::row_of_id(std::int64_t id, const char* function) const {
  const auto found = row_of.find(id);
  if (found == row_of.end()) fail(ErrorCode::kNotFound, function, "id", "an id of the index", id);
  return found->second;
}

std::vector<double> IndexState::checked_norms(const RowMatrixRef& vectors, const char* function,
                                              const char* argument) const {
  if (vectors.cols() != dimension)
    fail(ErrorCode::kMismatch, function, argument, concat(dimension, " columns"), vectors.cols());
  std::vector<double> checked(static_cast<std::size_t>(vectors.rows()));
  for (Eigen::Index i = 0; i < vectors.rows(); ++i) {
    const float* components = vectors.data() + i * vectors.outerStride();
    // Squares of finite floats cannot overflow a double, so a norm is finite exactly when every value is.
    const double norm = std::sqrt(dots<1>(components, {components}, static_cast<std::size_t>(dimension))[0]);
    if (!std::isfinite(norm))
      fail(ErrorCode::kInvalidArgument, function, concat(argument, " row ", i), "finite values",
           "an infinite value or not-a-number");
    if (metric == Metric::kCosine && norm == 0)
      fail(ErrorCode::kInvalidArgument, function, concat(argument, " row ", i), "a direction (metric cosine)",
           "a zero vector");
    checked[static_cast<std::size_t>(i)] = norm;
  }
  return checked;
}

void IndexState::truncate(std::size_t count) noexcept {
  values.resize(std::min(values.size(), count * static_cast<std::size_t>(dimension)));
  norms.resize(std::min(norms.size(), count));
  ids.resize(std::min(ids.size(), count));
  metadata.resize(std::min(metadata.size(), count));
  table.truncate(count);
  scans.truncate(count);
}

}  // namespace daug::detail
