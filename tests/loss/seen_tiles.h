#pragma once
// What comes into tiles.

#include <ATen/core/Tensor.h>

#include <set>

#include "loss/tile_math.h"

namespace daug::test {

/// Tiles of another kind, which outlives it, that take down the types of the rows that they are made of; for a
/// TileMathGuard and the losses of one thread.
class SeenTiles final : public detail::TileMath {
 public:
  explicit SeenTiles(const TileMath& math)
      : TileMath(math.max_rows(), math.max_columns(), math.held(), math.takes_bfloat16()), math_(math) {}

  mutable std::set<at::ScalarType> types;  ///< those of the slabs met so far

  void add_softmax_sums(const detail::Tile& tile, const detail::SideSums& rows,
                        const detail::SideSums& columns) const override {
    see(tile);
    math_.add_softmax_sums(tile, rows, columns);
  }
  at::Tensor softmax_gradient(const detail::Tile& tile, const detail::SideSums& rows, const detail::SideSums& columns,
                              double scale) const override {
    see(tile);
    return math_.softmax_gradient(tile, rows, columns, scale);
  }
  void add_sigmoid_loss(const detail::Tile& tile, const at::Tensor& bias, const at::Tensor& total) const override {
    see(tile);
    math_.add_sigmoid_loss(tile, bias, total);
  }
  at::Tensor sigmoid_gradient(const detail::Tile& tile, const at::Tensor& bias, double scale,
                              const at::Tensor& total) const override {
    see(tile);
    return math_.sigmoid_gradient(tile, bias, scale, total);
  }

 private:
  void see(const detail::Tile& tile) const {
    types.insert({tile.text.rows.scalar_type(), tile.image.rows.scalar_type()});
  }

  const TileMath& math_;
};

}  // namespace daug::test
