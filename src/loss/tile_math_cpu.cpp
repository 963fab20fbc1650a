#include <ATen/ATen.h>

#include <vector>

#include "backend/threads.h"
#include "kernels/contrastive_tile.h"
#include "loss/tile_math.h"

namespace daug::detail {

kernels::ScoreTile kernel_tile(const Tile& tile) {
  const auto data = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
  };
  kernels::ScoreTile t;
  t.rows = tile.text.count, t.columns = tile.image.count;
  t.products = data(tile.products), t.scaled = tile.scaled;
  t.row_factor = data(tile.text.factor), t.column_factor = data(tile.image.factor);
  t.own = tile.own;
  t.row_positive = data(tile.text.positive), t.column_positive = data(tile.image.positive);
  t.row_ignored = data(tile.text.ignored), t.column_ignored = data(tile.image.ignored);
  t.row_weight = data(tile.text.weight);
  t.soft = data(tile.soft), t.column_weight = data(tile.image.weight);
  return t;
}

namespace {

/// One number a row of a tile, to be added up in the order of the rows.
struct RowSums {
  std::vector<double> rows;

  explicit RowSums(const Tile& tile) : rows(static_cast<std::size_t>(tile.text.count)) {}
  void add_to(const at::Tensor& total) const {
    double& sum = *total.mutable_data_ptr<double>();
    for (const double row : rows) sum += row;
  }
};

class KernelTileMath final : public TileMath {
 public:
  using TileMath::TileMath;

  void add_softmax_sums(const Tile& tile, const SideSums& rows, const SideSums& columns) const override {
    kernels::add_softmax_sums(kernel_tile(tile), tile.products.mutable_data_ptr<float>(),
                              {rows.max.mutable_data_ptr<float>(), rows.sum.mutable_data_ptr<float>(),
                               rows.attraction.mutable_data_ptr<float>(), columns.max.mutable_data_ptr<float>(),
                               columns.sum.mutable_data_ptr<float>()},
                              backend::torch_threads());
  }

  at::Tensor softmax_gradient(const Tile& tile, const SideSums& rows, const SideSums& columns,
                              double scale) const override {
    const at::Tensor row_log = rows.sum.log(), column_log = columns.sum.log();
    kernels::softmax_gradient(kernel_tile(tile),
                              {rows.max.const_data_ptr<float>(), row_log.const_data_ptr<float>(),
                               columns.max.const_data_ptr<float>(), column_log.const_data_ptr<float>()},
                              static_cast<float>(scale), tile.buffer.mutable_data_ptr<float>(),
                              backend::torch_threads());
    return tile.buffer;
  }

  void add_sigmoid_loss(const Tile& tile, const at::Tensor& bias, const at::Tensor& total) const override {
    RowSums sums(tile);
    kernels::add_sigmoid_loss(kernel_tile(tile), *bias.const_data_ptr<float>(), sums.rows.data(),
                              backend::torch_threads());
    sums.add_to(total);
  }

  at::Tensor sigmoid_gradient(const Tile& tile, const at::Tensor& bias, double scale,
                              const at::Tensor& total) const override {
    RowSums sums(tile);
    kernels::sigmoid_gradient(kernel_tile(tile), *bias.const_data_ptr<float>(), static_cast<float>(scale),
                              tile.buffer.mutable_data_ptr<float>(), sums.rows.data(), backend::torch_threads());
    sums.add_to(total);
    return tile.buffer;
  }
};

}  // namespace

std::unique_ptr<const TileMath> kernel_tile_math(std::int64_t max_rows, std::int64_t max_columns) {
  return std::make_unique<KernelTileMath>(max_rows, max_columns, kKernelTileNumbers, /*bfloat16=*/false);
}

}  // namespace daug::detail
