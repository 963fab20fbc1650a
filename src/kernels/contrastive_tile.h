#pragma once
// A tile of the matrix of scores of a contrastive loss: what its rows and columns add up to, and its gradient.

#include <cstdint>

#include "kernels/parallel.h"

namespace daug::kernels {

/// Scores S_ij = products_ij * (row_factor_i * column_factor_j) of some rows and columns. Numbers of groups are exact
/// in float32.
struct ScoreTile {
  std::int64_t rows = 0;                 ///< may be 0
  std::int64_t columns = 0;              ///< may be 0
  const float* products = nullptr;       ///< [rows, columns] without gaps
  bool scaled = false;                   ///< products are the scores already, those left out included
  const float* row_factor = nullptr;     ///< [rows]
  const float* column_factor = nullptr;  ///< [columns]

  std::int64_t own = 0;                    ///< an item's own pair stands in column row + own, if there is such a column
  const float* row_positive = nullptr;     ///< [rows] groups whose pairs attract; null: an item's own pair alone
  const float* column_positive = nullptr;  ///< [columns]; null like row_positive
  const float* row_ignored = nullptr;      ///< [rows] groups whose pairs are left out unless they attract; null: none
  const float* column_ignored = nullptr;   ///< [columns]; null like row_ignored
  const float* row_weight = nullptr;       ///< [rows] by how much a pair attracts; null: 1

  /// [rows, columns] without gaps, in [0, 1]: which part of its weight a pair attracts by, own pairs included; null:
  /// all or nothing, as above. With it a pair's weight is the mean of row_weight and column_weight, which softmax
  /// functions then need, and neither groups nor `own` are read.
  const float* soft = nullptr;
  const float* column_weight = nullptr;  ///< [columns], read with `soft` alone
};

/// What is known so far of the softmax over rows and columns: sum_j e^(S_ij - max) and the largest score, and
/// sum_j attraction_ij S_ij, where attraction_ij is a pair's weight times 1, 0 or soft_ij. To begin with max is the
/// lowest float, the others 0.
struct SoftmaxSums {
  float* row_max = nullptr;         ///< [rows]
  float* row_sum = nullptr;         ///< [rows]
  float* row_attraction = nullptr;  ///< [rows]
  float* column_max = nullptr;      ///< [columns]
  float* column_sum = nullptr;      ///< [columns]
};

/// Takes a tile into the sums and writes its scores, [rows, columns], to `scores` (which may be tile.products).
/// Bit-equal whatever `parallel` is.
void add_softmax_sums(const ScoreTile& tile, float* scores, const SoftmaxSums& sums, const Parallel& parallel);

/// The logarithm of the sums beside the largest score, apart because their sum would lose digits.
struct SoftmaxLogs {
  const float* row_max = nullptr;         ///< [rows]
  const float* row_log_sum = nullptr;     ///< [rows]
  const float* column_max = nullptr;      ///< [columns]
  const float* column_log_sum = nullptr;  ///< [columns]
};

/// gradient_ij = scale row_factor_i column_factor_j (row softmax_ij / 2 + column softmax_ij / 2 - attraction_ij), 0
/// where left out. `gradient` [rows, columns] may be tile.products. Bit-equal whatever `parallel` is.
void softmax_gradient(const ScoreTile& tile, const SoftmaxLogs& logs, float scale, float* gradient,
                      const Parallel& parallel);

/// row_sum[i] += sum_j of -log sigmoid(S_ij + bias) where the pair attracts (its weight is 1), -log sigmoid(-S_ij -
/// bias) elsewhere, the mean of both by `soft` with it, 0 where left out. Bit-equal whatever `parallel` is.
void add_sigmoid_loss(const ScoreTile& tile, float bias, double* row_sum, const Parallel& parallel);

/// gradient_ij = scale row_factor_i column_factor_j d_ij, d_ij = sigmoid(S_ij + bias) - 1, 0 or soft_ij, 0 where left
/// out, and row_sum[i] += sum_j d_ij. `gradient` [rows, columns] may be tile.products. Bit-equal whatever `parallel`
/// is.
void sigmoid_gradient(const ScoreTile& tile, float bias, float scale, float* gradient, double* row_sum,
                      const Parallel& parallel);

}  // namespace daug::kernels
