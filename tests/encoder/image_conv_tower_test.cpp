// The convolutional tower, and what convolutional networks pool their maps with, written out in float64.

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/encoder/image_encoder.h"
#include "daug/io/weights.h"
#include "encoder/item_noise.h"
#include "encoder/transformer.h"
#include "support/catch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

double largest_of(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

/// Every parameter becomes something of its own, in float64: gains and biases take part.
void fill_parameters(torch::nn::Module& module, std::uint64_t seed) {
  const torch::NoGradGuard no_grad;
  module.to(at::kDouble);
  for (auto& item : module.named_parameters())
    item.value().copy_(0.3 * random_tensor(item.value().sizes().vec(), ++seed));
}

/// Four residual blocks in two stages, the third of which strides.
ImageEncoder conv_encoder(ImagePooling pooling, double drop_path = 0) {
  ImageEncoderOptions options;
  options.in_channels = 2;
  options.image_size = 12;
  options.embed_dim = 5;
  options.drop_path = drop_path;
  options.conv.base_width = 6;
  options.conv.norm_group_width = 3;
  options.conv.stages = 2;
  options.conv.blocks = 2;
  options.conv.pooling = pooling;
  ImageEncoder encoder(options, 1);
  fill_parameters(*encoder, 20);
  return encoder;
}

/// The last map of such an encoder as a formula; `factors` [blocks, B] of the residual branches, or undefined.
at::Tensor conv_tower_map(const ImageEncoder& encoder, const at::Tensor& x, const at::Tensor& factors = {}) {
  const ConvTowerOptions& options = encoder->options().conv;
  const NamedTensors tensors = named_tensors(*encoder);
  const auto get = [&](const std::string& name) { return tensors.at("vision_model." + name); };
  const auto conv = [&](const at::Tensor& in, const std::string& name, std::int64_t stride) {
    const at::Tensor weight = get(name + ".weight");
    return at::conv2d(in, weight, {}, stride, weight.size(2) / 2);
  };
  const auto active = [&](const at::Tensor& in, const std::string& norm) {
    const at::Tensor groups = in.reshape({in.size(0), in.size(1) / options.norm_group_width, -1});
    const at::Tensor centred = groups - groups.mean(-1, true);
    const at::Tensor scaled = (centred / (centred.square().mean(-1, true) + 1e-5).sqrt()).reshape(in.sizes());
    const at::Tensor y = scaled * get(norm + ".weight").view({1, -1, 1, 1}) + get(norm + ".bias").view({1, -1, 1, 1});
    return y / (1 + (-y).exp());
  };
  at::Tensor h = conv(x, "stem", 2);
  for (std::int64_t block = 0; block < options.stages * options.blocks; ++block) {
    const std::string name = "blocks." + std::to_string(block) + ".";
    const bool halves = block > 0 && block % options.blocks == 0;
    const at::Tensor in = active(h, name + "norm1");
    at::Tensor branch = conv(active(conv(in, name + "conv1", halves ? 2 : 1), name + "norm2"), name + "conv2", 1);
    if (factors.defined()) branch = branch * factors[block].view({-1, 1, 1, 1});
    h = (halves ? conv(in, name + "skip", 2) : h) + branch;
  }
  return active(h, "norm");
}

/// CLIP's attention pooling of a map [B, W, h, w] as a formula; `prefix` of its parameters' names.
at::Tensor attention_pooled(const at::Tensor& map, const NamedTensors& tensors, const std::string& prefix,
                            std::int64_t heads) {
  const auto linear = [&](const at::Tensor& rows, const std::string& name) {
    const std::string full = prefix + "attention." + name;
    return rows.matmul(tensors.at(full + ".weight").t()) + tensors.at(full + ".bias");
  };
  std::vector<at::Tensor> tokens = {map.mean({2, 3})};
  for (std::int64_t row = 0; row < map.size(2); ++row)
    for (std::int64_t column = 0; column < map.size(3); ++column)
      tokens.push_back(map.select(3, column).select(2, row));
  const at::Tensor all = at::stack(tokens, 1) + tensors.at(prefix + "position_embedding.weight");
  const at::Tensor query = linear(all.select(1, 0), "q_proj"), keys = linear(all, "k_proj"),
                   values = linear(all, "v_proj");
  const std::int64_t each = query.size(1) / heads;
  std::vector<at::Tensor> mixed;
  for (std::int64_t head = 0; head < heads; ++head) {
    const auto own = [&](const at::Tensor& rows) { return rows.narrow(-1, head * each, each); };
    const at::Tensor scores =
        (own(keys) * own(query).unsqueeze(1)).sum(-1, /*keepdim=*/true) / std::sqrt(static_cast<double>(each));
    mixed.push_back((own(values) * scores.softmax(1)).sum(1));
  }
  return linear(at::cat(mixed, 1), "out_proj");
}

}  // namespace

TEST_CASE("the convolutional tower is its written-out formula", "[encoder]") {
  const torch::NoGradGuard no_grad;
  const at::Tensor x = random_tensor({3, 2, 12, 12}, 30);
  for (const auto pooling : {ImagePooling::kFlatten, ImagePooling::kMean}) {
    ImageEncoder encoder = conv_encoder(pooling);
    const at::Tensor map = conv_tower_map(encoder, x);
    REQUIRE(map.sizes() == at::IntArrayRef({3, 12, 3, 3}));
    const at::Tensor features = pooling == ImagePooling::kMean ? map.mean({2, 3}) : map.reshape({3, -1});
    const at::Tensor expected = features.matmul(named_tensors(*encoder).at("visual_projection.weight").t());
    CHECK(largest_of(expected) > 1e-3);
    CHECK(largest_of(encoder(x) - expected) < 1e-11 * (1 + largest_of(expected)));
  }
}

TEST_CASE("drop path of the convolutional tower scales branches and leaves skips alone", "[encoder]") {
  const torch::NoGradGuard no_grad;
  std::vector<std::uint64_t> items(24);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = 5 * i + 1;
  ImageEncoder encoder = conv_encoder(ImagePooling::kFlatten, 0.5);
  const at::Tensor x = random_tensor({24, 2, 12, 12}, 31);
  const at::Tensor factors = daug::detail::path_factors(0.5, 4, 1, {items, 9}, x);
  CHECK((factors[3] == 0).any().item<bool>());
  CHECK((factors[3] == 2).any().item<bool>());
  const at::Tensor projection = named_tensors(*encoder).at("visual_projection.weight").t();
  const at::Tensor expected = conv_tower_map(encoder, x, factors).reshape({24, -1}).matmul(projection);
  const at::Tensor found = encoder->forward_items(x, items, std::uint64_t{9});
  CHECK(largest_of(found - expected) < 1e-11 * (1 + largest_of(expected)));
}

TEST_CASE("attention pooling of maps is its written-out formula", "[encoder]") {
  const torch::NoGradGuard no_grad;
  for (const std::int64_t heads : {1, 2}) {
    INFO(heads << " heads");
    // Alone, of a map that is wider than high.
    daug::detail::AttentionPool pool(6, 2 * 3, heads);
    fill_parameters(*pool, 40);
    const at::Tensor map = random_tensor({3, 6, 2, 3}, 41);
    const at::Tensor alone = attention_pooled(map, named_tensors(*pool), "", heads);
    CHECK(largest_of(pool(map) - alone) < 1e-12 * (1 + largest_of(alone)));

    // In every network, of its last map: the embedding of a network that flattens and projects nothing.
    struct Network {
      ImageEncoderKind kind;
      std::int64_t image_size, width, side;
    };
    const Network networks[] = {{ImageEncoderKind::kConv, 16, 16, 4},
                                {ImageEncoderKind::kResNet, 64, 64, 2},
                                {ImageEncoderKind::kDenseNet, 64, 18, 2}};
    for (const auto& network : networks) {
      INFO("kind " << int(network.kind));
      ImageEncoderOptions options;
      options.kind = network.kind;
      options.image_size = network.image_size;
      options.embed_dim = 5;
      options.conv.base_width = options.resnet.base_width = options.densenet.base_width = 8;
      options.resnet.blocks = {1, 1, 1, 1};
      options.densenet.layers = {1, 2, 1, 1};
      options.densenet.growth = 8;
      options.conv.heads = options.resnet.heads = options.densenet.heads = heads;
      options.conv.pooling = options.resnet.pooling = options.densenet.pooling = ImagePooling::kAttention;
      ImageEncoder attending(options, 3);
      attending->to(at::kDouble);
      attending->eval();
      options.conv.pooling = options.resnet.pooling = options.densenet.pooling = ImagePooling::kFlatten;
      options.embed_dim = network.width * network.side * network.side;
      ImageEncoder flat(options, 4);
      flat->to(at::kDouble);
      flat->eval();
      const NamedTensors tensors = named_tensors(*attending);
      for (const auto& [name, tensor] : named_tensors(*flat))
        at::Tensor(tensor).copy_(name == "visual_projection.weight" ? at::eye(options.embed_dim, at::kDouble)
                                                                    : tensors.at(name));
      const at::Tensor x = random_tensor({2, 1, network.image_size, network.image_size}, 42);
      const at::Tensor last = flat(x).view({2, network.width, network.side, network.side});
      CHECK(largest_of(last) > 1e-3);
      const at::Tensor expected = attention_pooled(last, tensors, "vision_model.pool.", heads)
                                      .matmul(tensors.at("visual_projection.weight").t());
      CHECK(largest_of(attending(x) - expected) < 1e-11 * (1 + largest_of(expected)));
    }
  }
}
