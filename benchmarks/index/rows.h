#pragma once
// Vectors for benchmarks of the index.

#include <cstdint>

#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"

namespace daug::bench {

/// Rows of length 1, evenly over all directions.
inline RowMatrix random_rows(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  RowMatrix matrix(rows, columns);
  RandomStream stream(seed, 0, "bench index");
  for (std::int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(stream.normal());
  matrix.rowwise().normalize();
  return matrix;
}

/// Rows of length 1 around a thousand directions, the same for every seed, as embeddings lie: the difference to a row's
/// own direction is two thirds as long as that.
inline RowMatrix clustered_rows(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  const RowMatrix centres = random_rows(1000, columns, 5);
  RowMatrix matrix = random_rows(rows, columns, seed);
  RandomStream stream(seed, 1, "bench index");
  for (std::int64_t i = 0; i < rows; ++i) matrix.row(i) += 1.5F * centres.row(stream.below(1000));
  matrix.rowwise().normalize();
  return matrix;
}

}  // namespace daug::bench
