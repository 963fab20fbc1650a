#include "exact_order.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "daug/core/error.h"
#include "exact_score.h"

namespace daug::detail {

std::vector<double> norms_of_rows(Metric metric, const RowMatrixRef& vectors, const char* function,
                                  const char* argument) {
  constexpr Eigen::Index kTogether = 4;  // in the time of one; their distances from the origin are norm_of, bit for bit
  const std::vector<float> origin(static_cast<std::size_t>(vectors.cols()));
  std::vector<double> norms(static_cast<std::size_t>(vectors.rows()));
  std::array<double, kTogether> squares{};
  for (Eigen::Index i = 0; i < vectors.rows(); ++i) {
    if (i % kTogether == 0) {
      std::array<const float*, kTogether> rows;  // the last again where fewer are left
      for (Eigen::Index j = 0; j < kTogether; ++j)
        rows[static_cast<std::size_t>(j)] =
            vectors.data() + std::min(i + j, vectors.rows() - 1) * vectors.outerStride();
      squares = squared_distances(origin.data(), rows, origin.size());
    }
    const double norm = std::sqrt(squares[static_cast<std::size_t>(i % kTogether)]);
    if (!std::isfinite(norm))
      fail(ErrorCode::kInvalidArgument, function, concat(argument, " row ", i), "finite values",
           "an infinite value or not-a-number");
    if (metric == Metric::kCosine && norm == 0)
      fail(ErrorCode::kInvalidArgument, function, concat(argument, " row ", i), "a direction (metric cosine)",
           "a zero vector");
    norms[static_cast<std::size_t>(i)] = norm;
  }
  return norms;
}

void settle_order(Metric metric, const NormedRows& queries, std::int64_t query, const NormedRows& items,
                  const double* estimates, double reach, std::int64_t* order, std::size_t count) {
  const auto dimension = static_cast<std::size_t>(items.rows.cols());
  Hits close;
  for (std::size_t first = 0, last = 1; first < count; first = last++) {
    while (last < count && estimates[last] - estimates[last - 1] <= reach) ++last;
    if (last - first == 1) continue;
    close.clear();
    for (std::size_t i = first; i < last; ++i)
      close.push_back({order[i], exact_scores<1>(metric, dimension, queries.values(query), queries.norm(query),
                                                 {items.values(order[i])}, {items.norm(order[i])})[0]});
    std::sort(close.begin(), close.end(), Nearer{metric});
    for (std::size_t i = first; i < last; ++i) order[i] = close[i - first].id;
  }
}

}  // namespace daug::detail
