#pragma once
// What the convolutional towers share.

#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daug/encoder/image_encoder.h"
#include "image_tower.h"
#include "item_noise.h"
#include "transformer.h"

namespace daug::detail {

/// A convolution without bias whose output has ceil(side / stride) positions a side.
torch::nn::Conv2d conv(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride = 1);

/// Whether group norms of such values are computed as in the UNets: of half types on a CUDA device. LibTorch's own
/// answers there in rows, whatever lies channels last, and under autocast in float32.
bool norms_in_layout(const c10::Device& device, at::ScalarType type);

/// silu(norm(x)) of x [B, C, h, w]: LibTorch's operators, or where norms_in_layout in x's type and layout, computed in
/// float32.
at::Tensor normed_silu(torch::nn::GroupNorm& norm, const at::Tensor& x);

/// Batch norm over [B, C, h, w] with LibTorch's names, momentum 0.1 and epsilon 1e-5, which are torchvision's. Where
/// neither parameter takes a gradient it uses its running statistics after train() as well.
class BatchNormImpl : public torch::nn::Module {
 public:
  explicit BatchNormImpl(std::int64_t channels);
  at::Tensor forward(const at::Tensor& x);
  /// Whether the running statistics stay what they are in any state.
  bool is_frozen() const { return !weight_.requires_grad() && !bias_.requires_grad(); }

 private:
  at::Tensor weight_, bias_, running_mean_, running_var_, num_batches_tracked_;
};
TORCH_MODULE(BatchNorm);

/// A chain of residual blocks, called with the map and their row [1, B] of drop path's factors.
template <class Block>
at::Tensor residual_blocks(std::vector<Block>& blocks, at::Tensor h, double drop_path, bool checkpoint,
                           const ItemNoise* noise) {
  const auto count = static_cast<std::int64_t>(blocks.size());
  const at::Tensor factors = noise ? path_factors(drop_path, count, 1, *noise, h) : at::Tensor();
  for (std::int64_t i = 0; i < count; ++i) {
    const at::Tensor own = noise ? factors.narrow(0, i, 1) : factors;
    h = kept_or_recomputed(checkpoint, blocks[static_cast<std::size_t>(i)], h, own);
  }
  return h;
}

/// From the last map [B, width, side, side] to features [B, features()].
class MapPool {
 public:
  MapPool() = default;
  /// Parameters, which kAttention alone has, are registered on `owner` as `pool`.
  MapPool(torch::nn::Module& owner, ImagePooling kind, std::int64_t width, std::int64_t side, std::int64_t heads);

  at::Tensor operator()(const at::Tensor& map);
  std::int64_t features() const { return features_; }

 private:
  ImagePooling kind_ = ImagePooling::kMean;
  std::int64_t features_ = 0;
  AttentionPool attention_{nullptr};
};

/// A tower whose features are pooled from a last map.
class MapTower : public ImageTower {
 public:
  std::int64_t features() const final { return pool_.features(); }
  double deviation(const std::string& name, const at::Tensor& parameter) const final;

 protected:
  MapPool pool_;
};

}  // namespace daug::detail
