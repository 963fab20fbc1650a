#pragma once
/// @file
/// The denoising network: guided-diffusion's UNet with a multi-label condition.

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/execution.h"

namespace daug {

/// What the UNet family shares. Names follow guided-diffusion's options.
struct UNetOptions {
  std::int64_t image_size = 64;                     ///< height and width in pixels the network is built for, >= 1
  std::int64_t in_channels = 1;                     ///< image channels, >= 1
  std::int64_t out_channels = 1;                    ///< outputs: channels of the denoiser, logits of the classifier
  std::int64_t model_channels = 64;                 ///< width of the first level, >= 1
  std::int64_t num_res_blocks = 2;                  ///< residual blocks a level, >= 1
  std::vector<double> channel_mult = {1, 2, 2, 4};  ///< width of each level as a multiple of model_channels
  std::vector<std::int64_t> attention_downsample =
      {};                                  ///< downsample factors (1, 2, 4, ...) at which attention is used
  std::int64_t num_heads = 1;              ///< attention heads when num_head_channels is -1
  std::int64_t num_heads_upsample = -1;    ///< the same on the way up alone, or -1 to use num_heads there too
  std::int64_t num_head_channels = -1;     ///< channels a head, or -1 to use num_heads
  bool use_scale_shift_norm = false;       ///< time embedding scales and shifts the second norm
  bool resblock_updown = false;            ///< resample inside residual blocks
  bool conv_resample = true;               ///< resample with a convolution (else pooling / nearest)
  bool use_new_attention_order = false;    ///< q, k, v split before heads (else after)
  std::int64_t norm_groups = 32;           ///< groups of every group norm, divides every width
  double dropout = 0;                      ///< inside residual blocks while training, in [0, 1)
  bool use_checkpoint = false;             ///< compute activations again in the backward pass: less memory, more time
  double timestep_scale = 1;               ///< factor of timesteps, in (0, 1000]; rescale_timesteps upstream: 1000 / T
  Execution execution = Execution::kAuto;  ///< kReference: plain operators in the input's own layout, to compare with

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Settings of DenoiserUNet.
struct DenoiserUNetOptions : UNetOptions {
  std::int64_t num_classes = 0;   ///< single-label class embedding of upstream checkpoints, excludes findings; 0 = none
  std::int64_t num_findings = 0;  ///< findings of the ternary condition; 0 = none
  std::int64_t patch = 1;         ///< pixel-unshuffle factor before the network and its inverse after, >= 1
  /// Standard deviation of the initial condition embedding, >= 0. Small: random directions of size 0.5 make conditions
  /// change the whole image, which training then has to unlearn (docs/results.md).
  double condition_init = 0.05;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

namespace detail {
struct Pass;
class UNetTrunk;
class NormLayer;
class ConvLayer;
}  // namespace detail

/// UNet `x [B, C, H, W], timesteps [B] -> [B, out_channels, H, W]` in the input's dtype, which is that of the
/// parameters, and on its device, contiguous.
///
/// Parameter names are those of openai/guided-diffusion (guided_diffusion/unet.py, MIT) so that converted checkpoints
/// load; the multi-label extension adds `condition_embed.weight [4 * model_channels, 2 * num_findings]`. Height and
/// width must be divisible by patch * 2^(levels - 1). Deterministic on one thread count, dropout included: its masks
/// come from `seed_dropout`, not from LibTorch's generator.
class DenoiserUNetImpl : public torch::nn::Module {
 public:
  /// Draws initial weights from LibTorch's generator. Throws what DenoiserUNetOptions::validate throws.
  explicit DenoiserUNetImpl(DenoiserUNetOptions options);

  /// timesteps [B] in the schedule's own counting, integer or floating point; embedded is timestep_scale times that, in
  /// float32 and not rounded, as upstream does. condition: undefined; or [B, num_findings] with +1 present, -1 absent,
  /// 0 unknown (all zero is the unconditional network); or, for single-label networks, int64 [B] class indices, which
  /// they need. Throws kInvalidArgument for other shapes and for x of another dtype than the parameters'.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& timesteps, const at::Tensor& condition = {});

  /// What the residual blocks read of timesteps and condition, as `forward` is given them (there x.size(0) is B), for
  /// `forward_embedded`: [B, embedded_channels()] in the parameters' type, on their device. A function of the weights
  /// as they are now. Throws as `forward`.
  at::Tensor embedded(const at::Tensor& timesteps, const at::Tensor& condition = {}) const;

  /// forward(x, timesteps, condition) of what `embedded` made of the latter two, [B, embedded_channels()] in the same
  /// type and on the same device: the same bits for the same B, while a row of a larger batch may be rounded otherwise.
  /// Rows can be taken, repeated and joined. No gradient goes to the layers that made them, unless it was recorded
  /// there, and activations are not recomputed. Throws kInvalidArgument for other shapes and as `forward` for x.
  at::Tensor forward_embedded(const at::Tensor& x, const at::Tensor& rows);

  /// Columns of `embedded`.
  std::int64_t embedded_channels() const;

  /// About the most memory that `forward` holds at once for each item of height x width pixels, in bytes, where no
  /// gradient is recorded; without parameters. Half types count as float32, in which norms and attention are computed.
  std::int64_t inference_bytes(std::int64_t height, std::int64_t width) const;

  /// From here on the dropout masks of training passes are a function of the seed and the number of passes since. With
  /// `items` > 0 a pass is a part of a batch of that many items, the one that begins at item `first`, and gets the
  /// masks that these items have when the whole batch is one pass; to be called before each part. With `items` 0 a pass
  /// is a whole batch. Throws kInvalidArgument for `first` outside [0, items]; so does a pass of more items than are
  /// left.
  void seed_dropout(std::uint64_t seed, std::int64_t first = 0, std::int64_t items = 0);

  /// The settings it was built with.
  const DenoiserUNetOptions& options() const { return options_; }

 private:
  void require_input(const at::Tensor& x, const char* function) const;
  at::Tensor embedding(const at::Tensor& timesteps, const at::Tensor& condition, const at::Tensor& like,
                       const char* function) const;
  at::Tensor answer(const at::Tensor& x, const detail::Pass& pass) const;

  DenoiserUNetOptions options_;
  std::shared_ptr<detail::UNetTrunk> trunk_;
  std::shared_ptr<detail::NormLayer> head_norm_;
  std::shared_ptr<detail::ConvLayer> head_conv_;
  at::Tensor condition_embed_;
  at::Tensor label_emb_;
};
TORCH_MODULE(DenoiserUNet);

}  // namespace daug
