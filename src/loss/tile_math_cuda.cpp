#include <ATen/ATen.h>

#include "backend/device_kernels.h"
#include "daug/core/error.h"
#include "kernels/contrastive_tile.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/device.h"
#include "loss/loss_inputs.h"
#include "loss/tile_math.h"

namespace daug::detail {
namespace {

kernels::SoftmaxSums device_sums(const SideSums& rows, const SideSums& columns) {
  const auto data = [](const at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); };
  return {data(rows.max), data(rows.sum), data(rows.attraction), data(columns.max), data(columns.sum)};
}

/// A number of float64 for each block of a tile, to be added up in their order.
struct BlockSums {
  at::Tensor sums;

  BlockSums(const Tile& tile, const at::Tensor& total)
      : sums(at::empty({kernels::cuda::tile_blocks(tile.text.count)}, total.options())) {}
  double* data() const { return sums.mutable_data_ptr<double>(); }
};

void require_queued(const kernels::LaunchError& error) { backend::require_launched(error, kLossFunction); }

class DeviceTileMath final : public TileMath {
 public:
  using TileMath::TileMath;

  void add_softmax_sums(const Tile& tile, const SideSums& rows, const SideSums& columns) const override {
    const at::Tensor workspace =
        at::empty({2 * kernels::cuda::tile_blocks(tile.text.count) * tile.image.count}, tile.buffer.options());
    const bool kept = !tile.products.is_same(tile.buffer);
    require_queued(kernels::add_softmax_sums_device(
        kernel_tile(tile), kept ? tile.products.mutable_data_ptr<float>() : nullptr, device_sums(rows, columns),
        workspace.mutable_data_ptr<float>(), backend::stream_of(tile.products)));
  }

  at::Tensor softmax_gradient(const Tile& tile, const SideSums& rows, const SideSums& columns,
                              double scale) const override {
    require_queued(kernels::softmax_gradient_device(
        kernel_tile(tile), device_sums(rows, columns), static_cast<float>(scale), tile.narrow.mutable_data_ptr(),
        tile.narrow.scalar_type() == at::kBFloat16, backend::stream_of(tile.products)));
    return tile.narrow;
  }

  void add_sigmoid_loss(const Tile& tile, const at::Tensor& bias, const at::Tensor& total) const override {
    const BlockSums blocks(tile, total);
    require_queued(kernels::sigmoid_loss_device(kernel_tile(tile), bias.const_data_ptr<float>(), blocks.data(),
                                                backend::stream_of(tile.products)));
    total.add_(blocks.sums.sum());
  }

  at::Tensor sigmoid_gradient(const Tile& tile, const at::Tensor& bias, double scale,
                              const at::Tensor& total) const override {
    const BlockSums blocks(tile, total);
    require_queued(kernels::sigmoid_gradient_device(
        kernel_tile(tile), bias.const_data_ptr<float>(), static_cast<float>(scale), tile.narrow.mutable_data_ptr(),
        tile.narrow.scalar_type() == at::kBFloat16, blocks.data(), backend::stream_of(tile.products)));
    total.add_(blocks.sums.sum());
    return tile.narrow;
  }
};

}  // namespace

std::unique_ptr<const TileMath> device_tile_math(std::int64_t max_rows, std::int64_t max_columns) {
  if (!kernels::device_kernels_compiled())
    fail(ErrorCode::kUnsupported, kLossFunction, "execution", "a build with CUDA kernels (DAUG_CUDA)", "one without");
  require(kernels::cuda::fits_tile(max_rows, max_columns), kLossFunction, "tiles",
          concat("at most ", kernels::cuda::kMostTileColumns, " columns"), concat(max_rows, " x ", max_columns));
  return std::make_unique<DeviceTileMath>(max_rows, max_columns, kKernelTileNumbers, /*bfloat16=*/true);
}

}  // namespace daug::detail
