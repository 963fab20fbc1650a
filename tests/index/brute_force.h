#pragma once
// What searches are checked against: every item scored in double and all of them sorted; and the data to do it on.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "support/catch.h"

namespace daug::test {

inline constexpr Metric kMetrics[] = {Metric::kCosine, Metric::kInnerProduct, Metric::kL2};
using Ids = std::vector<std::int64_t>;

inline double brute_score(Metric metric, const Eigen::RowVectorXf& a, const Eigen::RowVectorXf& b) {
  double product = 0;
  double aa = 0;
  double bb = 0;
  double distance = 0;
  for (Eigen::Index i = 0; i < a.size(); ++i) {
    const double x = a[i];
    const double y = b[i];
    product += x * y;
    aa += x * x;
    bb += y * y;
    distance += (x - y) * (x - y);
  }
  if (metric == Metric::kL2) return distance;
  if (metric == Metric::kInnerProduct) return product;
  return std::min(1.0, std::max(-1.0, product / (std::sqrt(aa) * std::sqrt(bb))));
}

/// Every item scored and all of them sorted.
inline Hits brute_search(const RetrievalIndex& index, const Eigen::RowVectorXf& query, std::size_t k,
                         const Filter& filter) {
  Hits hits;
  for (const auto id : index.ids())
    if (filter.matches(id, index.metadata(id)))
      hits.push_back({id, brute_score(index.metric(), query, index.vector(id))});
  const double sign = index.metric() == Metric::kL2 ? 1 : -1;
  std::sort(hits.begin(), hits.end(), [&](const Hit& a, const Hit& b) {
    return a.score != b.score ? sign * a.score < sign * b.score : a.id < b.id;
  });
  hits.resize(std::min(k, hits.size()));
  return hits;
}

inline void require_same(const Hits& found, const Hits& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO("rank " << i << " score " << found[i].score << " expected " << expected[i].score);
    REQUIRE(found[i].id == expected[i].id);
    REQUIRE(std::abs(found[i].score - expected[i].score) <= 1e-12 * std::abs(expected[i].score));
  }
}

/// Kinds of data, from easy to as awkward as floats get.
enum class Kind { kGaussian, kGrid, kNearTies, kCopies, kWideRange, kTiny, kHuge, kCount };

inline RowMatrix random_rows(RandomStream& random, Kind kind, Eigen::Index rows, Eigen::Index columns) {
  RowMatrix matrix(rows, columns);
  for (Eigen::Index row = 0; row < rows; ++row) {
    const float scale = kind == Kind::kWideRange ? static_cast<float>(std::pow(10, random.uniform(-20, 20)))
                        : kind == Kind::kTiny    ? 1e-40F
                        : kind == Kind::kHuge    ? 1e38F
                                                 : 1.0F;
    for (Eigen::Index column = 0; column < columns; ++column) {
      const double value = kind == Kind::kGrid ? static_cast<double>(random.below(5)) / 4 - 0.5 : random.normal();
      matrix(row, column) = static_cast<float>(std::clamp(value, -3.0, 3.0)) * scale;
    }
    // Neighbours that differ by one rounding in one component: below what a float product can tell apart.
    if (kind == Kind::kNearTies && row > 0) {
      matrix.row(row) = matrix.row(row - 1);
      float& value = matrix(row, random.below(static_cast<std::uint32_t>(columns)));
      value = std::nextafter(value, random.below(2) ? 10.0F : -10.0F);
    }
    if (kind == Kind::kCopies && row > 0 && random.below(4) != 0)
      matrix.row(row) = matrix.row(random.below(static_cast<std::uint32_t>(row)));
    if (matrix.row(row).isZero(0)) matrix(row, 0) = scale;
  }
  return matrix;
}

inline Ids shuffled_ids(RandomStream& random, Eigen::Index count) {
  Ids ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), -count / 2);
  for (auto& id : ids) id *= 1'000'000'007;
  random.shuffle(ids.begin(), ids.end());
  return ids;
}

inline constexpr Storage kStorages[] = {Storage::kFloat32, Storage::kFloat16, Storage::kBFloat16, Storage::kInt8};

inline void require_identical(const std::vector<Hits>& a, const std::vector<Hits>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t q = 0; q < a.size(); ++q) {
    REQUIRE(a[q].size() == b[q].size());
    for (std::size_t i = 0; i < a[q].size(); ++i) {
      REQUIRE(a[q][i].id == b[q][i].id);
      REQUIRE(a[q][i].score == b[q][i].score);
    }
  }
}

}  // namespace daug::test
