#pragma once
// The matrix of scores tile by tile: softmax sums, losses and gradients of a block of reports against a block of
// images, on every device. What is done to a tile is in tile_math.h.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loss/tile_math.h"

namespace daug::detail {

/// The reports (rows) or images (columns) of a block of scores S_ij = factor_i factor_j row_i . row_j.
struct ScoreSide {
  const TileMath* math = nullptr;  ///< the same of both sides

  at::Tensor rows;         ///< [N, D] with any strides; of bfloat16 where `math` takes it
  at::Tensor scale;        ///< [N] like rows, which are divided by it block by block; undefined: 1
  at::Tensor index;        ///< [n] int64, the rows that take part; undefined: all, n = N
  at::Tensor factor;       ///< [n], like rows or float32 beside bfloat16
  at::Tensor positive;     ///< [n] numbers of groups, like factor; undefined: an item attracts its own pair alone
  at::Tensor ignored;      ///< [n] numbers of groups, like factor; undefined: none
  at::Tensor states;       ///< [n, F] like factor: all other pairs attract too, see PairRules; undefined: none does
  double softness = 1;     ///< the same of both sides, see PairRules
  at::Tensor weight;       ///< [n] like factor: a pair attracts by the mean of its items'; undefined: 1
  std::int64_t first = 0;  ///< place of the block's first item in the whole batch

  std::int64_t count() const { return index.defined() ? index.size(0) : rows.size(0); }
};

/// Whether blocks of the rows are copied: gathered, divided, or for matrix products, which take rows or columns without
/// gaps alone. Asks for rows, scale and index.
bool copies_slabs(const ScoreSide& side);
/// Numbers of a tile: products and, where there are states, soft pairs.
std::int64_t tile_numbers(const ScoreSide& text, const ScoreSide& image);
/// Numbers that blocks of rows of these sides take at a time where they are copied.
std::int64_t copied_numbers(const ScoreSide& text, const ScoreSide& image);

/// Scores kept from the first pass for the second: the first tiles, as many as fit.
struct TileCache {
  std::int64_t room = 0;  ///< numbers it may still take
  std::vector<at::Tensor> tiles;
};

/// Rows and columns of a tile at most. 4 MB of float32; enough of either for the matrix products to run at full speed.
inline constexpr std::int64_t kTileRows = 512, kTileColumns = 2048;
/// The same of rows on a device, where every operation on a tile is to be queued: 16 MB of float32.
inline constexpr std::int64_t kDeviceTileRows = 2048;

/// By how much each report [n] attracts the images of the block together, weights apart. Both sides have states; of
/// their rows the number alone counts. None of these functions records gradients; all are deterministic.
at::Tensor attraction_sums(const ScoreSide& text, const ScoreSide& image);
/// Takes the block into the sums of both sides.
void add_softmax_sums(const ScoreSide& text, const ScoreSide& image, SideSums& rows, SideSums& columns,
                      TileCache* cache);
/// Adds scale times the gradient of sum (row softmax / 2 + column softmax / 2 - attraction) with respect to the rows,
/// taken along their direction and across it alike: see remove_radial.
void add_softmax_gradient(const ScoreSide& text, const ScoreSide& image, const SideSums& rows, const SideSums& columns,
                          const TileCache* cache, double scale, const at::Tensor& text_gradient,
                          const at::Tensor& image_gradient);
/// Sum of the sigmoid losses of the block, one float64 number where it is, as all numbers below are. The bias [], of
/// the factors' type, lies there too.
at::Tensor sigmoid_loss(const ScoreSide& text, const ScoreSide& image, const at::Tensor& bias);
/// The same for the sum of sigmoid losses; returns its derivative by the bias, not scaled.
at::Tensor add_sigmoid_gradient(const ScoreSide& text, const ScoreSide& image, const at::Tensor& bias, double scale,
                                const at::Tensor& text_gradient, const at::Tensor& image_gradient);

/// From the gradient by the unit vector divided by the norm, in place, to that by the row: removes what points along
/// the row. Returns the sum of row . gradient, the derivative of the loss by ln tau. With an undefined inverse norm [N]
/// it only returns that. A row is what `scale` [N] (undefined: 1) has divided. Rows that are not among `index`
/// (undefined: all) are left alone.
at::Tensor remove_radial(const at::Tensor& rows, const at::Tensor& scale, const at::Tensor& inverse_norm,
                         const at::Tensor& index, const at::Tensor& gradient);

}  // namespace daug::detail
