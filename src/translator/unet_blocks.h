#pragma once
// The building blocks of guided-diffusion's UNet family; parameter names are upstream's.

#include <torch/nn/module.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/conv3x3.h"
#include "backend/fused_ops.h"
#include "daug/translator/denoiser_unet.h"

namespace daug::detail {

/// Sinusoidal embedding [B, dim] of timesteps [B]: cosines, then sines, of t * 10000^(-i / (dim/2)).
at::Tensor timestep_embedding(const at::Tensor& timesteps, std::int64_t dim, at::ScalarType dtype);

/// Most floats that a forward pass of the trunk holds at once for an item, without gradients; an upper bound for the
/// operators as they are called here.
std::int64_t activation_floats(const UNetOptions& options, std::int64_t height, std::int64_t width);

/// Most floats that the trunk's way down and back holds for an item while the gradient to its input is computed; an
/// upper bound likewise, without `use_checkpoint`.
std::int64_t gradient_floats(const UNetOptions& options, std::int64_t height, std::int64_t width);

/// Bytes of each of those floats in a network with such a parameter: float32's for half types, whose norms and scores
/// of attention are computed in it.
std::int64_t float_bytes(const at::Tensor& parameter);

/// Which dropout masks are drawn.
struct DropoutMasks {
  std::uint64_t seed = 0;  ///< fixes those of a pass, and of its repetition in the backward pass
  std::int64_t first = 0;  ///< the items of a pass are those from this one on ...
  std::int64_t items = 0;  ///< ... of so many for which masks are drawn; 0: of as many as the pass has
};

/// What every layer of one forward pass is told.
struct Pass {
  at::Tensor embedding;  ///< [B, 4 * model_channels], SiLU of the sum of those of timestep and condition
  DropoutMasks masks;
  at::Tensor projected = {};  ///< what UNetTrunk::projected made of it, which then need not be given; or undefined
  bool inference = false;     ///< no gradient is recorded, nor will be when a part is computed again: sizes may change
                              ///< within other operations, in other bits
  bool doubles = false;       ///< the layer's result is wanted at twice height and width, by residual_add_doubled
  bool doubled = false;       ///< the layer's input came so, when it is one that doubles its input
};

/// One numbered entry of a TimestepEmbedSequential.
class UNetLayer : public torch::nn::Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x, const Pass& pass) = 0;
  /// Whether the layer begins by doubling its input's height and width. Only residual blocks and attention, which obey
  /// Pass::doubles, come before one.
  virtual bool doubles_input() const { return false; }
};

/// y = x W^T + b with parameters named weight and bias.
class LinearLayer : public torch::nn::Module {
 public:
  LinearLayer(std::int64_t in, std::int64_t out);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias;
};

/// 1-D or 2-D convolution, padding kernel / 2, parameters named weight and bias. `zero` starts both at zero, as
/// upstream's zero_module does.
class ConvLayer : public UNetLayer {
 public:
  ConvLayer(std::int64_t dims, std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride = 1,
            bool zero = false);
  at::Tensor forward(const at::Tensor& x) const { return convolved(x, bias); }
  at::Tensor forward(const at::Tensor& x, const Pass&) override { return forward(x); }
  /// For who adds the bias later, with something else: LibTorch's convolutions for devices add it in a pass of its own.
  at::Tensor forward_without_bias(const at::Tensor& x) const { return convolved(x, {}); }
  at::Tensor weight, bias;

 private:
  at::Tensor convolved(const at::Tensor& x, const at::Tensor& added) const;

  std::int64_t dims_, kernel_, stride_;
  std::shared_ptr<backend::WinogradFilters> filters_ = std::make_shared<backend::WinogradFilters>();
};

/// A table [rows, columns] with its only parameter named weight, drawn from N(0, deviation^2).
class TableLayer : public torch::nn::Module {
 public:
  TableLayer(std::int64_t rows, std::int64_t columns, double deviation);
  at::Tensor weight;
};

/// A module that only groups children under a number, like the nn.Sequential containers upstream's keys come from.
class Group : public torch::nn::Module {
 public:
  template <class M>
  std::shared_ptr<M> add(std::int64_t index, std::shared_ptr<M> child) {
    return register_module(std::to_string(index), std::move(child));
  }
};

/// Group norm over channels with parameters named weight and bias.
class NormLayer : public torch::nn::Module {
 public:
  NormLayer(std::int64_t channels, const UNetOptions& options);
  at::Tensor forward(const at::Tensor& x) const;
  /// Norm and SiLU, with what a residual block adds before and does after it, as `backend::group_norm_silu`.
  at::Tensor silu(const at::Tensor& x, const backend::GroupNormExtras& extras = {}) const;
  /// Norm and SiLU of an image, and the image itself, in another size, as `backend::group_norm_silu_resized`.
  std::pair<at::Tensor, at::Tensor> silu_resized(const at::Tensor& x, backend::SizeChange change) const;
  at::Tensor weight, bias;

 private:
  static constexpr double kEps = 1e-5;
  std::int64_t groups_;
  Execution execution_;
};

/// Whether LibTorch has fused attention for tensors there that wants the channels of a position side by side: flash
/// attention for heads of up to 256, another kernel for wider ones. Elsewhere the operators, and bits, stay what they
/// were.
bool attends_to_rows(at::DeviceType device, at::ScalarType type);

/// Queries, keys and values [B, heads, L, width] in one projection [B, 3 * heads * width, L]; `legacy` splits heads
/// before q, k, v. They are views of it; with `rows` numbers of a position lie side by side, as LibTorch's fused
/// kernels read them, for which a projection whose channels do not lie last is copied.
std::array<at::Tensor, 3> attention_inputs(const at::Tensor& qkv, std::int64_t heads, bool legacy, bool rows);

/// Attention over positions, q k v from one projection as above, with rows where it attends to them; [B, heads * width,
/// L].
at::Tensor qkv_attention(const at::Tensor& qkv, std::int64_t heads, bool legacy);

/// How the images of a network lie.
enum class ImageLayout { kAsGiven, kContiguous, kChannelsLast };

/// In which layout convolutions of such images are fastest: channels last on the CPU, in half types and where autocast
/// makes them so, else as they are; kContiguous for LibTorch's operators alone.
ImageLayout image_layout(at::DeviceType device, at::ScalarType type, bool autocast, Execution execution);

/// The network up to its output head. Registers every parameter on `owner` under upstream's name.
class UNetTrunk {
 public:
  UNetTrunk(torch::nn::Module& owner, const UNetOptions& options, std::int64_t in_channels, bool with_decoder);

  /// Throws kInvalidArgument naming `function` for an input of another type than the parameters'.
  void require_type(const at::Tensor& x, const char* function) const;
  /// Embedding [B, 4 * model_channels] of timesteps, in the schedule's counting.
  at::Tensor embed(const at::Tensor& timesteps, at::ScalarType dtype) const;
  /// The input as image_layout says.
  at::Tensor laid_out(const at::Tensor& x) const;
  /// Down path and middle. Fills `features` with the inputs of the skip connections.
  at::Tensor encode(at::Tensor h, const Pass& pass, std::vector<at::Tensor>& features) const;
  /// Up path; consumes the skip connections of `features`.
  at::Tensor decode(at::Tensor h, const Pass& pass, std::vector<at::Tensor> features) const;

  /// From here on the masks of training passes are a function of these and of how many passes went before. Throws
  /// kInvalidArgument naming `function` for masks.first outside [0, masks.items].
  void seed_dropout(const DropoutMasks& masks, const char* function);
  /// The pass about to be made with the sum of its embeddings. Throws kInvalidArgument naming `function` for more items
  /// than masks are drawn for.
  Pass next_pass(const at::Tensor& embedding, bool training, const char* function);
  /// The same with what `projected` made of the sum. No gradient goes on to the layers that did.
  Pass next_projected_pass(const at::Tensor& projected, bool training, const char* function);

  /// What all residual blocks read of a sum of embeddings [B, 4 * model_channels], [B, projected_channels()].
  at::Tensor projected(const at::Tensor& embedding) const;
  std::int64_t projected_channels() const { return projected_channels_; }

  std::int64_t first_channels() const { return first_channels_; }
  std::int64_t last_channels() const { return last_channels_; }
  std::int64_t feature_channels() const { return feature_channels_; }
  std::int64_t final_downsample() const { return final_downsample_; }

 private:
  using Block = std::vector<std::shared_ptr<UNetLayer>>;
  at::Tensor run(const Block& block, std::uint64_t number, at::Tensor h, const Pass& pass) const;
  DropoutMasks next_masks(std::int64_t items, bool training, const char* function);

  std::int64_t model_channels_;
  double timestep_scale_;
  bool checkpoint_;
  Execution execution_;
  double dropout_;
  DropoutMasks masks_;
  std::uint64_t passes_ = 0;
  std::shared_ptr<LinearLayer> time_in_, time_out_;
  std::vector<std::shared_ptr<LinearLayer>> projections_;  ///< of the residual blocks, as their columns lie
  std::int64_t projected_channels_ = 0;
  std::vector<Block> down_, up_;
  Block middle_;
  std::int64_t first_channels_ = 0, last_channels_ = 0, feature_channels_ = 0, final_downsample_ = 1;
};

}  // namespace daug::detail
