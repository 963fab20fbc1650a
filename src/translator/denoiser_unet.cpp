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

at::Tensor DenoiserUNetImpl::forward(const at::Tensor& x, const at::Tensor& timesteps, const at::Tensor& condition) {
  constexpr const char* kFunction = "daug::DenoiserUNet::forward";
  const std::int64_t unit = options_.patch << (options_.channel_mult.size() - 1);
  if (x.dim() != 4 || x.size(1) != options_.in_channels || x.size(2) % unit || x.size(3) % unit)
    fail(ErrorCode::kInvalidArgument, kFunction, "x",
         detail::concat("shape [B, ", options_.in_channels, ", H, W] with H and W multiples of ", unit), x.sizes());
  trunk_->require_type(x, kFunction);
  if (timesteps.dim() != 1 || timesteps.size(0) != x.size(0))
    fail(ErrorCode::kInvalidArgument, kFunction, "timesteps", detail::concat("shape [", x.size(0), "]"),
         timesteps.sizes());
  at::Tensor embedding = trunk_->embed(timesteps.to(x.device()), x.scalar_type());
  if (condition.defined()) {
    if (label_emb_.defined()) {
      require(condition.dim() == 1 && condition.size(0) == x.size(0), kFunction, "condition",
              detail::concat("class indices of shape [", x.size(0), "]"), condition.sizes());
      embedding = embedding + at::embedding(label_emb_, condition.to(x.device()));
    } else {
      require(condition.dim() == 2 && condition.size(0) == x.size(0) && condition.size(1) == options_.num_findings,
              kFunction, "condition", detail::concat("shape [", x.size(0), ", ", options_.num_findings, "]"),
              condition.sizes());
      const at::Tensor states = condition.to(x.options());
      const at::Tensor present_absent = at::cat({states.clamp_min(0), (-states).clamp_min(0)}, 1);
      embedding = embedding + at::linear(present_absent, condition_embed_);
    }
  } else {
    require(!label_emb_.defined(), kFunction, "condition", "class indices for a class-conditional network", "none");
  }
  at::Tensor h = trunk_->laid_out(options_.patch > 1 ? at::pixel_unshuffle(x, options_.patch) : x);
  const detail::Pass pass = trunk_->next_pass(embedding, is_training(), kFunction);
  std::vector<at::Tensor> features;
  h = trunk_->encode(std::move(h), pass, features);
  h = trunk_->decode(std::move(h), pass, std::move(features));
  h = head_conv_->forward(head_norm_->silu(h));
  if (options_.patch > 1) h = at::pixel_shuffle(h, options_.patch);
  return h.contiguous();
}

}  // namespace daug
