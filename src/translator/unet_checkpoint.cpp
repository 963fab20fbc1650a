#include "daug/translator/unet_checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "daug/core/error.h"
#include "io/fillable.h"
#include "unet_values.h"

namespace daug {

namespace {

constexpr const char* kFunction = "daug::inspect_unet";

/// One entry of input_blocks.
struct InputBlock {
  bool residual = false, attention = false, convolution = false;  ///< none of them: pooling, which has no weights
  std::int64_t in = 0, out = 0;
};

class Shapes {
 public:
  explicit Shapes(const SafetensorsFile& file) : file_(file) {}

  bool has(const std::string& name) const { return file_.contains(name); }
  bool any(const std::string& prefix) const {
    const auto found = file_.tensors.lower_bound(prefix);
    return found != file_.tensors.end() && found->first.rfind(prefix, 0) == 0;
  }
  /// Size of one dimension of a tensor that must be there.
  std::int64_t size(const std::string& name, std::size_t dimension) const {
    const auto found = file_.tensors.find(name);
    if (found == file_.tensors.end())
      fail(ErrorCode::kMismatch, kFunction, "file", "weights of a UNet, with " + name, "no such tensor");
    const auto& shape = found->second.shape;  // an empty array would say a size of any number and hold none of it
    if (dimension >= shape.size() ||
        std::any_of(shape.begin(), shape.end(), [](std::int64_t size) { return size < 1; }))
      fail(ErrorCode::kMismatch, kFunction, name, detail::concat("more than ", dimension, " dimensions, none empty"),
           at::IntArrayRef(shape));
    return shape[dimension];
  }
  std::size_t rank(const std::string& name) const { return file_.at(name).shape.size(); }

 private:
  const SafetensorsFile& file_;
};

std::vector<InputBlock> input_blocks(const Shapes& shapes) {
  constexpr std::int64_t kMost = 1024;
  std::int64_t last = 0;
  for (std::int64_t i = 1; i < kMost; ++i)
    if (shapes.any(detail::concat("input_blocks.", i, "."))) last = i;
  std::vector<InputBlock> blocks;
  std::int64_t width = shapes.size("input_blocks.0.0.weight", 0);
  for (std::int64_t i = 1; i <= last; ++i) {
    const std::string prefix = detail::concat("input_blocks.", i, ".");
    InputBlock block;
    block.in = width;
    block.residual = shapes.has(prefix + "0.in_layers.2.weight");
    block.convolution = shapes.has(prefix + "0.op.weight");
    block.attention = shapes.has(prefix + "1.qkv.weight");
    block.out = block.residual ? shapes.size(prefix + "0.in_layers.2.weight", 0) : width;
    width = block.out;
    blocks.push_back(block);
  }
  return blocks;
}

/// How the entries of input_blocks fall into resolution levels.
struct Layout {
  std::int64_t num_res_blocks = 1;
  std::vector<std::int64_t> widths;     ///< of the levels
  std::vector<std::int64_t> attention;  ///< downsample factors
};

/// The layout with `count` residual blocks a level, if these blocks can be read that way.
std::optional<Layout> layout_of(const std::vector<InputBlock>& blocks, std::int64_t count, bool residual_down) {
  const auto total = static_cast<std::int64_t>(blocks.size());
  if (count < 1 || (total + 1) % (count + 1) != 0) return std::nullopt;
  Layout layout;
  layout.num_res_blocks = count;
  for (std::int64_t i = 0; i < total; ++i) {
    const InputBlock& block = blocks[static_cast<std::size_t>(i)];
    const std::int64_t level = i / (count + 1), place = i % (count + 1);
    if (place == count) {  // downsampling
      if (block.attention || block.residual != residual_down || block.in != block.out) return std::nullopt;
      continue;
    }
    if (!block.residual) return std::nullopt;
    if (place == 0) {
      layout.widths.push_back(block.out);
      if (block.attention) layout.attention.push_back(std::int64_t{1} << level);
    }
    const bool attends = !layout.attention.empty() && layout.attention.back() == std::int64_t{1} << level;
    if (block.out != layout.widths.back() || block.attention != attends) return std::nullopt;
  }
  if (layout.widths.size() > 16) return std::nullopt;
  return layout;
}

/// Residual blocks a level as output_blocks tell: the first one that ends a level also resamples.
std::int64_t blocks_before_upsampling(const Shapes& shapes, std::int64_t total) {
  for (std::int64_t i = 0; i <= total; ++i)
    for (const char* place : {".1.in_layers.2.weight", ".2.in_layers.2.weight"})
      if (shapes.has(detail::concat("output_blocks.", i, place))) return i;
  return total;  // one level: nothing is resampled
}

Layout find_layout(const Shapes& shapes, UNetCheckpoint& result, UNetOptions& options) {
  const auto blocks = input_blocks(shapes);
  const auto total = static_cast<std::int64_t>(blocks.size());
  const auto resamples = [](const InputBlock& block) { return !block.residual; };
  const auto first = std::find_if(blocks.begin(), blocks.end(), resamples);
  std::vector<Layout> fitting;
  const auto consider = [&](std::int64_t count, bool residual_down) {
    if (auto layout = layout_of(blocks, count, residual_down)) fitting.push_back(std::move(*layout));
  };
  if (first != blocks.end()) {
    options.conv_resample = first->convolution;
    consider(first - blocks.begin(), false);
  } else if (!result.is_classifier) {
    const std::int64_t count = blocks_before_upsampling(shapes, total);
    options.resblock_updown = count < total;
    consider(count, true);
  } else {
    // Without a decoder a resampling residual block looks like any other; upstream's usual count goes first.
    consider(2, true);
    for (std::int64_t count = 1; count <= total; ++count)
      if (count != 2) consider(count, true);
    options.resblock_updown = !fitting.empty() && fitting.front().widths.size() > 1;
  }
  if (fitting.empty())
    fail(ErrorCode::kMismatch, kFunction, "file", "input_blocks that divide into levels alike",
         detail::concat(total, " blocks that do not"));
  if (fitting.size() > 1)
    result.open.push_back(detail::concat("num_res_blocks (", fitting.front().num_res_blocks, " assumed; ",
                                         fitting.size() - 1, " other layouts have the same shapes)"));
  return fitting.front();
}

void read_common(const Shapes& shapes, UNetCheckpoint& result, UNetOptions& options) {
  options.model_channels = shapes.size("time_embed.0.weight", 1);
  options.in_channels = shapes.size("input_blocks.0.0.weight", 1);
  const Layout layout = find_layout(shapes, result, options);
  options.num_res_blocks = layout.num_res_blocks;
  options.attention_downsample = layout.attention;
  options.channel_mult.clear();
  std::int64_t divisor = 32;
  const auto base = static_cast<double>(options.model_channels);
  for (const std::int64_t width : layout.widths) {
    double mult = static_cast<double>(width) / base;
    // A network cuts the product to a whole number, and 30. / 22 * 22 is less than 30.
    if (mult * base < static_cast<double>(width)) mult = std::nextafter(mult, 2 * mult);
    options.channel_mult.push_back(mult);
    divisor = std::gcd(divisor, width);
  }
  options.use_scale_shift_norm = shapes.size("middle_block.0.emb_layers.1.weight", 0) == 2 * layout.widths.back();
  options.norm_groups = divisor;
  options.image_size = std::int64_t{8} << (layout.widths.size() - 1);
  result.open.push_back("num_heads (and num_heads_upsample) or num_head_channels, use_new_attention_order");
  result.open.push_back(detail::concat("norm_groups (", divisor, " assumed)"));
  result.open.push_back("timestep_scale (1 assumed; 1000 / T where rescale_timesteps was on in training with T steps)");
}

void read_head(const Shapes& shapes, UNetCheckpoint& result) {
  if (!result.is_classifier) {
    auto& options = result.denoiser;
    options.out_channels = shapes.size("out.2.weight", 0);
    if (shapes.has("label_emb.weight")) options.num_classes = shapes.size("label_emb.weight", 0);
    if (shapes.has("condition_embed.weight")) options.num_findings = shapes.size("condition_embed.weight", 1) / 2;
    result.open.push_back("image_size (any multiple of the deepest level's stride)");
    result.open.push_back("patch (1 assumed; channels are those of the image times its square)");
    return;
  }
  auto& options = result.classifier;
  if (shapes.has("out.2.positional_embedding")) {
    options.pool = ClassifierPool::kAttention;
    options.out_channels = shapes.size("out.2.c_proj.weight", 0);
    const auto side = static_cast<std::int64_t>(
        std::lround(std::sqrt(static_cast<double>(shapes.size("out.2.positional_embedding", 1) - 1))));
    options.image_size = side << (options.channel_mult.size() - 1);
    options.num_head_channels = shapes.size("out.2.positional_embedding", 0);
    for (const double mult : options.channel_mult)  // any divisor of every width has the same shapes
      options.num_head_channels =
          std::gcd(options.num_head_channels, std::lround(mult * static_cast<double>(options.model_channels)));
    return;
  }
  result.open.push_back("image_size (any multiple of the deepest level's stride)");
  if (shapes.has("out.3.weight")) {
    options.pool = shapes.rank("out.3.weight") == 4 ? ClassifierPool::kAdaptive : ClassifierPool::kSpatialV2;
    options.out_channels = shapes.size("out.3.weight", 0);
  } else {
    options.pool = ClassifierPool::kSpatial;
    options.out_channels = shapes.size("out.2.weight", 0);
  }
}

}  // namespace

UNetCheckpoint inspect_unet(const SafetensorsFile& file) {
  const Shapes shapes(file);
  UNetCheckpoint result;
  result.is_classifier = !shapes.any("output_blocks.");
  UNetOptions& common = result.is_classifier ? static_cast<UNetOptions&>(result.classifier) : result.denoiser;
  read_common(shapes, result, common);
  read_head(shapes, result);
  const auto compare = [&](const auto& options, const auto& build) {
    try {
      options.validate();
      detail::require_fillable(detail::values_of(options), file, kFunction, "file");
      result.report = compare_weights(*build(options), file);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInvalidArgument) throw;
      fail(ErrorCode::kMismatch, kFunction, "file", "sizes that a network can have", error.what());
    }
  };
  if (result.is_classifier)
    compare(result.classifier, [](const auto& options) { return NoiseAwareClassifier(options); });
  else
    compare(result.denoiser, [](const auto& options) { return DenoiserUNet(options); });
  return result;
}

}  // namespace daug
