#include "unet_blocks.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "backend/conv3x3.h"
#include "backend/recomputed.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/core/random.h"

namespace daug::detail {

namespace {

class Downsample : public UNetLayer {
 public:
  Downsample(std::int64_t channels, bool with_conv) {
    if (with_conv) conv_ = register_module("op", std::make_shared<ConvLayer>(2, channels, channels, 3, 2));
  }
  at::Tensor forward(const at::Tensor& x, const Pass&) override {
    return conv_ ? conv_->forward(x) : backend::resized_by_two(x, backend::SizeChange::kHalved);
  }

 private:
  std::shared_ptr<ConvLayer> conv_;
};

class Upsample : public UNetLayer {
 public:
  Upsample(std::int64_t channels, bool with_conv) {
    if (with_conv) conv_ = register_module("conv", std::make_shared<ConvLayer>(2, channels, channels, 3));
  }
  at::Tensor forward(const at::Tensor& x, const Pass& pass) override {
    const at::Tensor larger = pass.doubled ? x : backend::resized_by_two(x, backend::SizeChange::kDoubled);
    return conv_ ? conv_->forward(larger) : larger;
  }
  bool doubles_input() const override { return true; }

 private:
  std::shared_ptr<ConvLayer> conv_;
};

std::int64_t level_width(const UNetOptions& options, double mult) {
  return static_cast<std::int64_t>(mult * options.model_channels);
}

bool attends_at(const UNetOptions& options, std::int64_t downsample) {
  const auto& list = options.attention_downsample;
  return std::find(list.begin(), list.end(), downsample) != list.end();
}

/// Whether `num_heads_upsample` counts the heads.
bool own_heads(const UNetOptions& options, bool up) {
  return up && options.num_head_channels == -1 && options.num_heads_upsample != -1;
}

std::int64_t attention_heads(const UNetOptions& options, std::int64_t channels, bool up = false) {
  if (own_heads(options, up)) return options.num_heads_upsample;
  return options.num_head_channels == -1 ? options.num_heads : channels / options.num_head_channels;
}

/// h with entries set to zero with probability p, the others scaled to keep the mean. The masks are a function of
/// `masks` and the shape alone; those of all its items are drawn, so that an item's do not depend on what it stands
/// beside in a pass.
at::Tensor dropped(const at::Tensor& h, double p, const DropoutMasks& masks) {
  std::vector<std::int64_t> shape = h.sizes().vec();
  if (masks.items > 0) shape[0] = masks.items;
  const at::Tensor all = at::empty(shape, h.options().device(at::kCPU).requires_grad(false));
  all.bernoulli_(1 - p, at::make_generator<at::CPUGeneratorImpl>(masks.seed));
  const at::Tensor mask = all.narrow(0, masks.first, h.size(0));
  return h * backend::upload(mask / (1 - p), h.device());
}

/// h + skip + bias of the channels, in h's layout and type: autocast enlarges images in float32. Doubled where the pass
/// wants that. The kernel for it is devices' alone; blocks leave it biases on the CPU, too, where fused execution is
/// asked for.
at::Tensor with_skip(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias, bool in_place,
                     const Pass& pass, Execution execution) {
  const auto add = pass.doubles ? backend::residual_add_doubled : backend::residual_add;
  return add(h, skip.to(h.scalar_type()), bias, in_place, h.is_cuda() ? execution : Execution::kAuto);
}

class ResBlock : public UNetLayer {
 public:
  /// Its columns of Pass::projected begin at `column`.
  ResBlock(std::int64_t in, std::int64_t out, std::int64_t embedding, std::int64_t column, const UNetOptions& options,
           std::optional<backend::SizeChange> change)
      : scale_shift_(options.use_scale_shift_norm),
        dropout_(options.dropout),
        execution_(options.execution),
        column_(column),
        change_(change) {
    auto in_layers = register_module("in_layers", std::make_shared<Group>());
    in_norm_ = in_layers->add(0, std::make_shared<NormLayer>(in, options));
    in_conv_ = in_layers->add(2, std::make_shared<ConvLayer>(2, in, out, 3));
    auto emb_layers = register_module("emb_layers", std::make_shared<Group>());
    emb_ = emb_layers->add(1, std::make_shared<LinearLayer>(embedding, scale_shift_ ? 2 * out : out));
    auto out_layers = register_module("out_layers", std::make_shared<Group>());
    out_norm_ = out_layers->add(0, std::make_shared<NormLayer>(out, options));
    out_conv_ = out_layers->add(3, std::make_shared<ConvLayer>(2, out, out, 3, 1, true));
    if (in != out) skip_ = register_module("skip_connection", std::make_shared<ConvLayer>(2, in, out, 1));
  }

  const std::shared_ptr<LinearLayer>& projection() const { return emb_; }

  at::Tensor forward(const at::Tensor& x, const Pass& pass) override {
    at::Tensor h, skip = x;
    if (change_ && pass.inference) {
      std::tie(h, skip) = in_norm_->silu_resized(x, *change_);
    } else {
      h = in_norm_->silu(x);
      if (change_) h = backend::resized_by_two(h, *change_), skip = backend::resized_by_two(x, *change_);
    }
    // Biases that the second norm and the sum add on their way.
    const bool later = backend::fuses_residuals(x, execution_);
    h = later ? in_conv_->forward_without_bias(h) : in_conv_->forward(h);
    const at::Tensor embedded = pass.projected.defined() ? pass.projected.narrow(1, column_, emb_->weight.size(0))
                                                         : emb_->forward(pass.embedding);
    backend::GroupNormExtras extras;
    if (scale_shift_) {
      const auto parts = embedded.chunk(2, 1);
      extras.scale = parts[0];
      extras.shift = parts[1];
      if (later) extras.offset = in_conv_->bias.expand({h.size(0), h.size(1)});
    } else {
      extras.offset = later ? embedded + in_conv_->bias : embedded;
    }
    extras.in_place = true;
    h = out_norm_->silu(h, extras);
    if (dropout_ > 0 && is_training()) h = dropped(h, dropout_, pass.masks);
    if (later) {
      const at::Tensor bias = skip_ ? out_conv_->bias + skip_->bias : out_conv_->bias;
      if (skip_) skip = skip_->forward_without_bias(skip);
      return with_skip(out_conv_->forward_without_bias(h), skip, bias, !at::GradMode::is_enabled(), pass, execution_);
    }
    h = out_conv_->forward(h);
    if (skip_) skip = skip_->forward(skip);
    // Autocast enlarges images in float32: there a pass without gradients has the types of one with them.
    const bool in_place = !at::GradMode::is_enabled() && skip.scalar_type() == h.scalar_type();
    return in_place ? h.add_(skip) : skip + h;
  }

 private:
  bool scale_shift_;
  double dropout_;
  Execution execution_;
  std::int64_t column_;
  std::optional<backend::SizeChange> change_;  ///< on the way, without a convolution of its own
  std::shared_ptr<NormLayer> in_norm_, out_norm_;
  std::shared_ptr<ConvLayer> in_conv_, out_conv_, skip_;
  std::shared_ptr<LinearLayer> emb_;
};

class AttentionBlock : public UNetLayer {
 public:
  AttentionBlock(std::int64_t channels, const UNetOptions& options, bool up = false)
      : legacy_(!options.use_new_attention_order),
        heads_(attention_heads(options, channels, up)),
        execution_(options.execution) {
    const bool by_count = options.num_head_channels == -1;
    const char* name = own_heads(options, up) ? "num_heads_upsample" : by_count ? "num_heads" : "num_head_channels";
    const std::int64_t divisor = by_count ? heads_ : options.num_head_channels;
    require(channels % divisor == 0, "daug::UNetOptions", name, concat("a divisor of the attention width ", channels),
            divisor);
    norm_ = register_module("norm", std::make_shared<NormLayer>(channels, options));
    qkv_ = register_module("qkv", std::make_shared<ConvLayer>(1, channels, 3 * channels, 1));
    proj_ = register_module("proj_out", std::make_shared<ConvLayer>(1, channels, channels, 1, 1, true));
  }

  at::Tensor forward(const at::Tensor& x, const Pass& pass) override {
    const at::Tensor flat = x.flatten(2);
    // An image that is normed as one keeps its channels last, up to q, k and v.
    const bool rows = attends_to_rows(x.device().type(), x.scalar_type());
    const at::Tensor normed = rows ? norm_->forward(x).reshape(flat.sizes()) : norm_->forward(flat);
    const at::Tensor h = qkv_attention(qkv_->forward(normed), heads_, legacy_);
    if (backend::fuses_residuals(x, execution_))
      return with_skip(x, proj_->forward_without_bias(h).reshape(x.sizes()), proj_->bias, false, pass, execution_);
    return x + proj_->forward(h).reshape(x.sizes());  // in x's layout
  }

 private:
  bool legacy_;
  std::int64_t heads_;
  Execution execution_;
  std::shared_ptr<NormLayer> norm_;
  std::shared_ptr<ConvLayer> qkv_, proj_;
};

}  // namespace

at::Tensor timestep_embedding(const at::Tensor& timesteps, std::int64_t dim, at::ScalarType dtype) {
  const std::int64_t half = dim / 2;
  // The frequencies are float32 in upstream's code whatever the network's precision; parity needs the same bits.
  const auto device = timesteps.device();
  const at::Tensor index = at::arange(half, at::TensorOptions().dtype(at::kFloat).device(device));
  const at::Tensor frequencies = at::exp(index * static_cast<float>(-std::log(10000.0)) / static_cast<double>(half));
  const auto wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor angles = timesteps.to(wide).unsqueeze(1) * frequencies.to(wide).unsqueeze(0);
  at::Tensor embedding = at::cat({angles.cos(), angles.sin()}, 1);
  if (dim % 2) embedding = at::cat({embedding, at::zeros_like(embedding.narrow(1, 0, 1))}, 1);
  return embedding.to(dtype);
}

LinearLayer::LinearLayer(std::int64_t in, std::int64_t out) {
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  weight = register_parameter("weight", at::empty({out, in}).uniform_(-bound, bound));
  bias = register_parameter("bias", at::empty({out}).uniform_(-bound, bound));
}

at::Tensor LinearLayer::forward(const at::Tensor& x) const { return at::linear(x, weight, bias); }

ConvLayer::ConvLayer(std::int64_t dims, std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                     bool zero)
    : dims_(dims), kernel_(kernel), stride_(stride) {
  std::vector<std::int64_t> shape = {out, in};
  shape.insert(shape.end(), static_cast<std::size_t>(dims), kernel);
  const double bound = 1 / std::sqrt(static_cast<double>(in) * std::pow(static_cast<double>(kernel), dims));
  weight = at::zeros(shape);
  bias = at::zeros({out});
  if (!zero) {
    weight.uniform_(-bound, bound);
    bias.uniform_(-bound, bound);
  }
  register_parameter("weight", weight);
  register_parameter("bias", bias);
}

at::Tensor ConvLayer::convolved(const at::Tensor& x, const at::Tensor& added) const {
  if (dims_ == 1) return at::conv1d(x, weight, added, stride_, kernel_ / 2);
  if (stride_ == 1 && backend::takes_conv3x3(x, weight, added)) return backend::conv3x3(x, weight, added, filters_);
  return at::conv2d(x, weight, added, stride_, kernel_ / 2);
}

TableLayer::TableLayer(std::int64_t rows, std::int64_t columns, double deviation) {
  weight = register_parameter("weight", at::empty({rows, columns}).normal_(0, deviation));
}

NormLayer::NormLayer(std::int64_t channels, const UNetOptions& options)
    : groups_(options.norm_groups), execution_(options.execution) {
  require(channels % groups_ == 0, "daug::UNetOptions", "norm_groups", concat("a divisor of the width ", channels),
          groups_);
  weight = register_parameter("weight", at::ones({channels}));
  bias = register_parameter("bias", at::zeros({channels}));
}

at::Tensor NormLayer::forward(const at::Tensor& x) const {
  if (!at::isReducedFloatingType(x.scalar_type())) return at::group_norm(x, groups_, weight, bias, kEps);
  backend::GroupNormExtras norm_alone;
  norm_alone.silu = false;
  return silu(x, norm_alone);
}

at::Tensor NormLayer::silu(const at::Tensor& x, const backend::GroupNormExtras& extras) const {
  return backend::group_norm_silu(x, groups_, weight, bias, kEps, extras, execution_);
}

std::pair<at::Tensor, at::Tensor> NormLayer::silu_resized(const at::Tensor& x, backend::SizeChange change) const {
  return backend::group_norm_silu_resized(x, groups_, weight, bias, kEps, change, execution_);
}

bool attends_to_rows(at::DeviceType device, at::ScalarType type) {
  return device == at::kCUDA && at::isReducedFloatingType(type);
}

std::array<at::Tensor, 3> attention_inputs(const at::Tensor& qkv, std::int64_t heads, bool legacy, bool rows) {
  const std::int64_t batch = qkv.size(0), width = qkv.size(1) / (3 * heads), length = qkv.size(2);
  const at::Tensor laid = rows ? qkv.transpose(1, 2).contiguous().transpose(1, 2) : qkv;
  // Both orders become [3][B, heads, length, width].
  const at::Tensor parts = legacy ? laid.reshape({batch, heads, 3, width, length}).permute({2, 0, 1, 4, 3})
                                  : laid.reshape({batch, 3, heads, width, length}).permute({1, 0, 2, 4, 3});
  return {parts[0], parts[1], parts[2]};
}

at::Tensor qkv_attention(const at::Tensor& qkv, std::int64_t heads, bool legacy) {
  const bool rows = attends_to_rows(qkv.device().type(), qkv.scalar_type());
  const auto [q, k, v] = attention_inputs(qkv, heads, legacy, rows);
  // Upstream's 1/sqrt(sqrt(width)) on q and k is the operator's own scale.
  const at::Tensor out = at::scaled_dot_product_attention(q, k, v);
  return out.transpose(2, 3).reshape({qkv.size(0), qkv.size(1) / 3, qkv.size(2)});
}

std::int64_t activation_floats(const UNetOptions& options, std::int64_t height, std::int64_t width) {
  std::int64_t area = height * width, channels = level_width(options, options.channel_mult.front()), downsample = 1;
  std::vector<std::int64_t> kept = {channels * area};  // by the features that wait for the decoder
  std::int64_t kept_sum = kept.back(), most = 0;
  const auto visit = [&](std::int64_t floats) { most = std::max(most, kept_sum + floats); };
  // The block's input, and what goes into and comes out of its first or second convolution, twice: oneDNN may lay
  // both out anew.
  const auto block = [&](std::int64_t in, std::int64_t out, bool attention, bool up = false) {
    visit((in + std::max(2 * in + 2 * out, 4 * out)) * area);
    if (!attention) return;
    const std::int64_t heads = attention_heads(options, out, up);
    visit(14 * out * area + 2 * heads * area * area);  // q, k and v twice, layouts around them; scores, softmax
  };
  const auto keep = [&] { kept_sum += channels * area, kept.push_back(channels * area); };
  const std::size_t levels = options.channel_mult.size();
  for (std::size_t level = 0; level < levels; ++level) {
    const std::int64_t out = level_width(options, options.channel_mult[level]);
    for (std::int64_t i = 0; i < options.num_res_blocks; ++i) {
      block(channels, out, attends_at(options, downsample));
      channels = out;
      keep();
    }
    if (level + 1 == levels) break;
    visit(2 * channels * area);
    area /= 4, downsample *= 2;
    keep();
  }
  block(channels, channels, true);
  for (std::size_t level = levels; level-- > 0;) {
    const std::int64_t out = level_width(options, options.channel_mult[level]);
    for (std::int64_t i = 0; i <= options.num_res_blocks; ++i) {
      const std::int64_t joined = channels + kept.back() / area;
      visit((channels + joined) * area);
      kept_sum -= kept.back(), kept.pop_back();
      block(joined, out, attends_at(options, downsample), true);
      channels = out;
    }
    if (level > 0) visit(9 * channels * area), area *= 4, downsample /= 2;  // the larger image and its convolution
  }
  return most;
}

std::int64_t gradient_floats(const UNetOptions& options, std::int64_t height, std::int64_t width) {
  std::int64_t area = height * width, channels = level_width(options, options.channel_mult.front()), downsample = 1;
  std::int64_t sum = channels * area;
  // What the backward pass wants again: of each norm, SiLU and convolution what went into it, and the two pooled
  // images.
  const auto block = [&](std::int64_t in, std::int64_t out, std::int64_t to) {
    sum += 2 * in * area + (to == area ? 0 : 2 * in * to) + 5 * out * to;
  };
  const auto attention = [&] { sum += 12 * channels * area + 2 * attention_heads(options, channels) * area * area; };
  const std::size_t levels = options.channel_mult.size();
  for (std::size_t level = 0; level < levels; ++level) {
    const std::int64_t out = level_width(options, options.channel_mult[level]);
    for (std::int64_t i = 0; i < options.num_res_blocks; ++i) {
      block(channels, out, area);
      channels = out;
      if (attends_at(options, downsample)) attention();
    }
    if (level + 1 == levels) break;
    if (options.resblock_updown)
      block(channels, channels, area / 4);
    else
      sum += channels * area / 4;
    area /= 4, downsample *= 2;
  }
  block(channels, channels, area);
  attention();
  block(channels, channels, area);
  attention();  // the head, which may pool by attention
  return sum;
}

std::int64_t float_bytes(const at::Tensor& parameter) {
  return std::max<std::int64_t>(4, static_cast<std::int64_t>(parameter.element_size()));
}

UNetTrunk::UNetTrunk(torch::nn::Module& owner, const UNetOptions& options, std::int64_t in_channels, bool with_decoder)
    : model_channels_(options.model_channels),
      timestep_scale_(options.timestep_scale),
      checkpoint_(options.use_checkpoint),
      execution_(options.execution),
      dropout_(options.dropout) {
  const std::int64_t embedding = 4 * options.model_channels;
  using Change = std::optional<backend::SizeChange>;
  const auto res_block = [&](std::int64_t in, std::int64_t out, Change change = {}) {
    auto block = std::make_shared<ResBlock>(in, out, embedding, projected_channels_, options, change);
    projections_.push_back(block->projection());
    projected_channels_ += block->projection()->weight.size(0);
    return block;
  };
  const auto add_block = [](Group& parent, std::size_t index, const Block& layers) {
    auto group = parent.add(static_cast<std::int64_t>(index), std::make_shared<Group>());
    for (std::size_t i = 0; i < layers.size(); ++i) group->add(static_cast<std::int64_t>(i), layers[i]);
  };

  auto time = owner.register_module("time_embed", std::make_shared<Group>());
  time_in_ = time->add(0, std::make_shared<LinearLayer>(options.model_channels, embedding));
  time_out_ = time->add(2, std::make_shared<LinearLayer>(embedding, embedding));

  auto inputs = owner.register_module("input_blocks", std::make_shared<Group>());
  std::int64_t channels = level_width(options, options.channel_mult.front());
  first_channels_ = channels;
  std::vector<std::int64_t> skips = {channels};
  down_.push_back({std::make_shared<ConvLayer>(2, in_channels, channels, 3)});
  std::int64_t downsample = 1;
  for (std::size_t level = 0; level < options.channel_mult.size(); ++level) {
    for (std::int64_t i = 0; i < options.num_res_blocks; ++i) {
      const std::int64_t out = level_width(options, options.channel_mult[level]);
      Block block = {res_block(channels, out)};
      channels = out;
      if (attends_at(options, downsample)) block.push_back(std::make_shared<AttentionBlock>(channels, options));
      down_.push_back(std::move(block));
      skips.push_back(channels);
    }
    if (level + 1 == options.channel_mult.size()) break;
    if (options.resblock_updown)
      down_.push_back({res_block(channels, channels, backend::SizeChange::kHalved)});
    else
      down_.push_back({std::make_shared<Downsample>(channels, options.conv_resample)});
    skips.push_back(channels);
    downsample *= 2;
  }
  for (std::size_t i = 0; i < down_.size(); ++i) add_block(*inputs, i, down_[i]);
  for (std::int64_t skip : skips) feature_channels_ += skip;
  feature_channels_ += channels;
  final_downsample_ = downsample;

  auto middle = owner.register_module("middle_block", std::make_shared<Group>());
  middle_ = {res_block(channels, channels), std::make_shared<AttentionBlock>(channels, options),
             res_block(channels, channels)};
  for (std::size_t i = 0; i < middle_.size(); ++i) middle->add(static_cast<std::int64_t>(i), middle_[i]);
  last_channels_ = channels;
  if (!with_decoder) return;

  auto outputs = owner.register_module("output_blocks", std::make_shared<Group>());
  for (std::size_t level = options.channel_mult.size(); level-- > 0;) {
    for (std::int64_t i = 0; i <= options.num_res_blocks; ++i) {
      const std::int64_t out = level_width(options, options.channel_mult[level]);
      Block block = {res_block(channels + skips.back(), out)};
      skips.pop_back();
      channels = out;
      if (attends_at(options, downsample)) block.push_back(std::make_shared<AttentionBlock>(channels, options, true));
      if (level > 0 && i == options.num_res_blocks) {
        if (options.resblock_updown)
          block.push_back(res_block(channels, channels, backend::SizeChange::kDoubled));
        else
          block.push_back(std::make_shared<Upsample>(channels, options.conv_resample));
        downsample /= 2;
      }
      up_.push_back(std::move(block));
    }
  }
  for (std::size_t i = 0; i < up_.size(); ++i) add_block(*outputs, i, up_[i]);
  last_channels_ = channels;
}

void UNetTrunk::require_type(const at::Tensor& x, const char* function) const {
  const at::ScalarType type = time_in_->weight.scalar_type();
  require(x.scalar_type() == type, function, "x", concat("the parameters' type ", type), x.scalar_type());
}

at::Tensor UNetTrunk::embed(const at::Tensor& timesteps, at::ScalarType dtype) const {
  // Scaled in float32 whatever the network's precision, as upstream does.
  const at::Tensor scaled = timestep_scale_ == 1 ? timesteps : timesteps.to(at::kFloat) * timestep_scale_;
  return time_out_->forward(at::silu(time_in_->forward(timestep_embedding(scaled, model_channels_, dtype))));
}

ImageLayout image_layout(at::DeviceType device, at::ScalarType type, bool autocast, Execution execution) {
  if (execution == Execution::kReference) return ImageLayout::kContiguous;
  const bool faster = device == at::kCPU || at::isReducedFloatingType(type) || autocast;
  return faster ? ImageLayout::kChannelsLast : ImageLayout::kAsGiven;
}

at::Tensor UNetTrunk::laid_out(const at::Tensor& x) const {
  const auto device = x.device().type();
  const at::ScalarType type = x.scalar_type();
  // Not every kind of device has autocast to ask for.
  const bool autocast = !at::isReducedFloatingType(type) && at::autocast::is_autocast_enabled(device);
  const ImageLayout layout = image_layout(device, type, autocast, execution_);
  if (layout == ImageLayout::kContiguous) return x.contiguous();
  if (layout == ImageLayout::kAsGiven) return x;
  const at::Tensor last = x.contiguous(at::MemoryFormat::ChannelsLast);
  // One channel lies both ways, and strides alone tell the convolutions which of them is meant.
  const std::int64_t channels = x.size(1), row = x.size(3) * channels;
  return last.as_strided(last.sizes(), {x.size(2) * row, 1, row, channels});
}

void UNetTrunk::seed_dropout(const DropoutMasks& masks, const char* function) {
  require_range(masks.first, 0, masks.items, function, "first");
  masks_ = masks;
  passes_ = 0;
}

DropoutMasks UNetTrunk::next_masks(std::int64_t items, bool training, const char* function) {
  // Counting only where it matters keeps inference free of shared state.
  const bool drops = training && dropout_ > 0;
  if (drops && masks_.items > 0)
    require_range(items, 0, masks_.items - masks_.first, function, "x: items after seed_dropout");
  DropoutMasks masks = masks_;
  masks.seed = mix64(masks.seed ^ mix64(drops ? ++passes_ : 0));
  return masks;
}

Pass UNetTrunk::next_pass(const at::Tensor& embedding, bool training, const char* function) {
  const DropoutMasks masks = next_masks(embedding.size(0), training, function);
  return {at::silu(embedding), masks};
}

Pass UNetTrunk::next_projected_pass(const at::Tensor& projected, bool training, const char* function) {
  return {{}, next_masks(projected.size(0), training, function), projected};
}

at::Tensor UNetTrunk::projected(const at::Tensor& embedding) const {
  const at::Tensor shown = at::silu(embedding);
  std::vector<at::Tensor> parts;
  for (const auto& projection : projections_) parts.push_back(projection->forward(shown));
  return at::cat(parts, 1);
}

at::Tensor UNetTrunk::run(const Block& block, std::uint64_t number, at::Tensor h, const Pass& pass) const {
  DropoutMasks masks = pass.masks;
  masks.seed = mix64(masks.seed ^ number);
  const auto forward = [layers = block, masks, projected = pass.projected, inference = !at::GradMode::is_enabled(),
                        execution = execution_](at::Tensor x, const at::Tensor& embedding) {
    Pass shown{embedding, masks, projected, inference};
    for (std::size_t i = 0; i < layers.size(); ++i) {
      shown.doubles = inference && i + 1 < layers.size() && layers[i + 1]->doubles_input() &&
                      backend::fuses_residuals(x, execution);
      x = layers[i]->forward(x, shown);
      shown.doubled = shown.doubles;
      ++shown.masks.seed;
    }
    return x;
  };
  if (!checkpoint_ || !at::GradMode::is_enabled() || pass.projected.defined())
    return forward(std::move(h), pass.embedding);
  std::vector<at::Tensor> parameters;
  for (const auto& layer : block)
    for (const auto& parameter : layer->parameters()) parameters.push_back(parameter);
  return backend::recomputed(forward, h, pass.embedding, parameters);
}

at::Tensor UNetTrunk::encode(at::Tensor h, const Pass& pass, std::vector<at::Tensor>& features) const {
  for (std::size_t i = 0; i < down_.size(); ++i) {
    h = run(down_[i], i, std::move(h), pass);
    features.push_back(h);
  }
  return run(middle_, down_.size(), std::move(h), pass);
}

at::Tensor UNetTrunk::decode(at::Tensor h, const Pass& pass, std::vector<at::Tensor> features) const {
  for (std::size_t i = 0; i < up_.size(); ++i) {
    h = at::cat({h, features.back()}, 1);
    features.pop_back();
    h = run(up_[i], down_.size() + 1 + i, std::move(h), pass);
  }
  return h;
}

}  // namespace daug::detail
