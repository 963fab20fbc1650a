#include "daug/translator/denoiser_unet.h"

#include <ATen/ATen.h>

#include "daug/core/error.h"
#include "unet_blocks.h"

namespace daug {

void UNetOptions::validate() const {
  constexpr const char* kName = "daug::UNetOptions";
  require_range(image_size, 1, 1 << 16, kName, "image_size");
  require_range(in_channels, 1, 1 << 16, kName, "in_channels");
  require_range(out_channels, 1, 1 << 16, kName, "out_channels");
  require_range(model_channels, 1, 1 << 16, kName, "model_channels");
  require_range(num_res_blocks, 1, 64, kName, "num_res_blocks");
  require_range(channel_mult.size(), 1U, 16U, kName, "channel_mult: number of levels");
  for (double mult : channel_mult)
    require(mult * static_cast<double>(model_channels) >= 1 && mult <= 64, kName, "channel_mult",
            "a value in (0, 64] that leaves a channel", mult);
  require_range(num_heads, 1, 1 << 10, kName, "num_heads");
  require(num_heads_upsample == -1 || num_heads_upsample >= 1, kName, "num_heads_upsample", "-1 or at least 1",
          num_heads_upsample);
  require(num_head_channels == -1 || num_head_channels >= 1, kName, "num_head_channels", "-1 or at least 1",
          num_head_channels);
  require_range(norm_groups, 1, 1 << 12, kName, "norm_groups");
  require(dropout >= 0 && dropout < 1, kName, "dropout", "in [0, 1)", dropout);
  require(timestep_scale > 0 && timestep_scale <= 1000, kName, "timestep_scale", "in (0, 1000]", timestep_scale);
}

void DenoiserUNetOptions::validate() const {
  UNetOptions::validate();
  constexpr const char* kName = "daug::DenoiserUNetOptions";
  require_range(num_classes, 0, 1 << 20, kName, "num_classes");
  require_range(num_findings, 0, 1 << 12, kName, "num_findings");
  require(num_classes == 0 || num_findings == 0, kName, "num_classes", "0 beside a condition on findings", num_classes);
  require_range(patch, 1, 64, kName, "patch");
  require_range(condition_init, 0.0, 100.0, kName, "condition_init");
  const std::int64_t unit = patch << (channel_mult.size() - 1);
  require(image_size % unit == 0, kName, "image_size", detail::concat("a multiple of ", unit), image_size);
}

DenoiserUNetImpl::DenoiserUNetImpl(DenoiserUNetOptions options) : options_(std::move(options)) {
  options_.validate();
  const std::int64_t patch_area = options_.patch * options_.patch;
  trunk_ = std::make_shared<detail::UNetTrunk>(*this, options_, options_.in_channels * patch_area, true);
  const std::int64_t embedding = 4 * options_.model_channels;
  if (options_.num_classes > 0)
    label_emb_ =
        register_module("label_emb", std::make_shared<detail::TableLayer>(options_.num_classes, embedding, 1.0))
            ->weight;
  if (options_.num_findings > 0)
    condition_embed_ =
        register_module("condition_embed", std::make_shared<detail::TableLayer>(embedding, 2 * options_.num_findings,
                                                                                options_.condition_init))
            ->weight;
  auto head = register_module("out", std::make_shared<detail::Group>());
  head_norm_ = head->add(0, std::make_shared<detail::NormLayer>(trunk_->last_channels(), options_));
  head_conv_ = head->add(2, std::make_shared<detail::ConvLayer>(2, trunk_->first_channels(),
                                                                options_.out_channels * patch_area, 3, 1, true));
}

void DenoiserUNetImpl::seed_dropout(std::uint64_t seed, std::int64_t first, std::int64_t items) {
  trunk_->seed_dropout({seed, first, items}, "daug::DenoiserUNet::seed_dropout");
}

std::int64_t DenoiserUNetImpl::inference_bytes(std::int64_t height, std::int64_t width) const {
  return detail::activation_floats(options_, height / options_.patch, width / options_.patch) *
         detail::float_bytes(head_conv_->weight);
}

void DenoiserUNetImpl::require_input(const at::Tensor& x, const char* function) const {
  const std::int64_t unit = options_.patch << (options_.channel_mult.size() - 1);
  if (x.dim() != 4 || x.size(1) != options_.in_channels || x.size(2) % unit || x.size(3) % unit)
    fail(ErrorCode::kInvalidArgument, function, "x",
         detail::concat("shape [B, ", options_.in_channels, ", H, W] with H and W multiples of ", unit), x.sizes());
  trunk_->require_type(x, function);
}

/// The sum of the embeddings of timesteps [B] and their condition, in the type and on the device of `like`.
at::Tensor DenoiserUNetImpl::embedding(const at::Tensor& timesteps, const at::Tensor& condition, const at::Tensor& like,
                                       const char* function) const {
  const std::int64_t rows = timesteps.size(0);
  const at::Tensor of_time = trunk_->embed(timesteps.to(like.device()), like.scalar_type());
  if (!condition.defined()) {
    require(!label_emb_.defined(), function, "condition", "class indices for a class-conditional network", "none");
    return of_time;
  }
  if (label_emb_.defined()) {
    require(condition.dim() == 1 && condition.size(0) == rows, function, "condition",
            detail::concat("class indices of shape [", rows, "]"), condition.sizes());
    return of_time + at::embedding(label_emb_, condition.to(like.device()));
  }
  require(condition.dim() == 2 && condition.size(0) == rows && condition.size(1) == options_.num_findings, function,
          "condition", detail::concat("shape [", rows, ", ", options_.num_findings, "]"), condition.sizes());
  const at::Tensor states = condition.to(like.options());
  const at::Tensor present_absent = at::cat({states.clamp_min(0), (-states).clamp_min(0)}, 1);
  return of_time + at::linear(present_absent, condition_embed_);
}

/// From a valid x to the network's output.
at::Tensor DenoiserUNetImpl::answer(const at::Tensor& x, const detail::Pass& pass) const {
  at::Tensor h = trunk_->laid_out(options_.patch > 1 ? at::pixel_unshuffle(x, options_.patch) : x);
  std::vector<at::Tensor> features;
  h = trunk_->encode(std::move(h), pass, features);
  h = trunk_->decode(std::move(h), pass, std::move(features));
  h = head_conv_->forward(head_norm_->silu(h));
  if (options_.patch > 1) h = at::pixel_shuffle(h, options_.patch);
  return h.contiguous();
}

at::Tensor DenoiserUNetImpl::forward(const at::Tensor& x, const at::Tensor& timesteps, const at::Tensor& condition) {
  constexpr const char* kFunction = "daug::DenoiserUNet::forward";
  require_input(x, kFunction);
  if (timesteps.dim() != 1 || timesteps.size(0) != x.size(0))
    fail(ErrorCode::kInvalidArgument, kFunction, "timesteps", detail::concat("shape [", x.size(0), "]"),
         timesteps.sizes());
  return answer(x, trunk_->next_pass(embedding(timesteps, condition, x, kFunction), is_training(), kFunction));
}

at::Tensor DenoiserUNetImpl::embedded(const at::Tensor& timesteps, const at::Tensor& condition) const {
  constexpr const char* kFunction = "daug::DenoiserUNet::embedded";
  require(timesteps.dim() == 1, kFunction, "timesteps", "shape [B]", timesteps.sizes());
  return trunk_->projected(embedding(timesteps, condition, head_conv_->weight, kFunction));
}

at::Tensor DenoiserUNetImpl::forward_embedded(const at::Tensor& x, const at::Tensor& rows) {
  constexpr const char* kFunction = "daug::DenoiserUNet::forward_embedded";
  require_input(x, kFunction);
  require(rows.sizes() == at::IntArrayRef({x.size(0), embedded_channels()}), kFunction, "rows",
          detail::concat("shape [", x.size(0), ", ", embedded_channels(), "]"), rows.sizes());
  return answer(x, trunk_->next_projected_pass(rows, is_training(), kFunction));
}

std::int64_t DenoiserUNetImpl::embedded_channels() const { return trunk_->projected_channels(); }

}  // namespace daug
