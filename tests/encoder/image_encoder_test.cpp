#include "daug/encoder/image_encoder.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/io/weights.h"
#include "encoder/item_noise.h"
#include "encoder/transformer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Every kind of image encoder, small: 16 x 16 pixels (32 x 32 where less is too little), 6 dimensions.
std::vector<ImageEncoderOptions> all_kinds() {
  ImageEncoderOptions options;
  options.image_size = 16;
  options.embed_dim = 6;
  options.conv.base_width = 8;
  options.conv.norm_group_width = 2;
  options.conv.stages = 2;
  options.vit.width = 16;
  options.vit.mlp_width = 24;
  options.vit.depth = 2;
  options.vit.heads = 2;
  options.resnet.blocks = {1, 1, 1, 1};
  options.resnet.base_width = 8;
  options.densenet.layers = {1, 2, 1, 1};
  options.densenet.base_width = 8;
  options.densenet.growth = 8;
  options.densenet.heads = 3;  // of a last width of 18
  std::vector<ImageEncoderOptions> kinds;
  for (const auto pooling : {ImagePooling::kFlatten, ImagePooling::kAttention, ImagePooling::kMean}) {
    kinds.push_back(options);
    kinds.back().conv.pooling = pooling;
  }
  kinds.push_back(options);
  kinds.back().kind = ImageEncoderKind::kResNet;
  kinds.back().resnet.pooling = ImagePooling::kFlatten;
  kinds.push_back(options);
  kinds.back().kind = ImageEncoderKind::kResNet;
  kinds.back().resnet.bottleneck = true;
  kinds.push_back(options);
  kinds.back().kind = ImageEncoderKind::kDenseNet;
  kinds.back().densenet.pooling = ImagePooling::kAttention;
  kinds.back().image_size = 32;
  kinds.push_back(options);
  kinds.back().kind = ImageEncoderKind::kViT;
  kinds.back().vit.patch_bias = true;
  for (const auto pooling : {VitPooling::kMean, VitPooling::kAttention, VitPooling::kClassToken}) {
    kinds.push_back(options);
    kinds.back().kind = ImageEncoderKind::kViT;
    kinds.back().vit.pooling = pooling;
  }
  return kinds;
}

at::Tensor images(std::int64_t batch, std::int64_t channels, std::uint64_t seed, std::int64_t size = 16) {
  return random_tensor({batch, channels, size, size}, seed).to(at::kFloat);
}

/// One step of plain gradient descent on a made-up loss, so that no weight stays at its initial value.
void train_a_little(ImageEncoder& encoder, const at::Tensor& x) {
  encoder->train();
  encoder(x).square().sum().backward();
  const torch::NoGradGuard no_grad;
  for (auto& parameter : encoder->parameters()) parameter.sub_(parameter.grad(), 1e-3);
  encoder->eval();
}

void copy_weights(const ImageEncoder& from, ImageEncoder& to) {
  const torch::NoGradGuard no_grad;
  const auto tensors = named_tensors(*to);
  for (const auto& [name, tensor] : named_tensors(*from)) at::Tensor(tensors.at(name)).copy_(tensor);
}

}  // namespace

TEST_CASE("an image becomes one embedding, whatever its batch", "[encoder]") {
  const torch::NoGradGuard no_grad;
  for (const auto& options : all_kinds()) {
    ImageEncoder encoder(options);
    encoder->eval();
    const at::Tensor x = images(5, 1, 3, options.image_size);
    const at::Tensor together = encoder(x);
    REQUIRE(together.sizes() == at::IntArrayRef({5, 6}));
    CHECK(together.std().item<double>() > 1e-3);
    for (std::int64_t i = 0; i < 5; ++i) {
      const at::Tensor alone = encoder(x.slice(0, i, i + 1))[0];
      CHECK((alone - together[i]).abs().max().item<double>() < 1e-6 * (1 + together.abs().max().item<double>()));
    }
    CHECK(at::equal(encoder(x), together));
  }
}

TEST_CASE("weights depend on options and seed alone", "[encoder]") {
  const torch::NoGradGuard no_grad;
  for (const auto& options : all_kinds()) {
    const at::Tensor x = images(2, 1, 4, options.image_size);
    ImageEncoder first(options, 7);
    (void)at::randn({100});  // the global generator must not matter
    ImageEncoder second(options, 7), other(options, 8);
    CHECK(at::equal(first(x), second(x)));
    CHECK_FALSE(at::equal(first(x), other(x)));
  }
}

TEST_CASE("a widened network starts bit-identical", "[encoder]") {
  for (const auto& options : all_kinds())
    for (const std::int64_t channels : {1, 3})
      for (const bool trained : {false, true}) {
        ImageEncoderOptions narrow_options = options;
        narrow_options.in_channels = channels;
        ImageEncoder narrow(narrow_options, 1);
        const auto size = options.image_size;
        const at::Tensor x = images(4, channels, 5, size), extra = images(4, 7, 6, size) * 100;
        narrow->eval();
        if (trained) train_a_little(narrow, x);
        ImageEncoder wide(narrow_options, 1);
        copy_weights(narrow, wide);
        wide->widen_input(7);
        wide->eval();
        CHECK(wide->options().extra_channels == 7);
        const at::Tensor both = at::cat({x, extra}, 1);
        // As large as float32 has them: sums of two are infinite, and nothing may add maps up before they meet a zero.
        const at::Tensor largest = at::cat({x, extra.sign() * 3e38}, 1);
        REQUIRE(largest.isfinite().all().item<bool>());
        for (const at::Tensor& input : {both, both.contiguous(at::MemoryFormat::ChannelsLast), largest}) {
          const torch::NoGradGuard no_grad;
          CHECK(identical(narrow(x), wide(input)));
        }
        // The same network made wide from the start, and what training does to it.
        narrow_options.extra_channels = 7;
        ImageEncoder born_wide(narrow_options, 1);
        born_wide->eval();
        if (!trained) CHECK(at::equal(born_wide(both), narrow(x)));
        const at::Tensor weight = wide->first_layer_weight();
        REQUIRE(weight.size(1) == channels + 7);
        CHECK(at::equal(weight.slice(1, 0, channels), narrow->first_layer_weight()));
        CHECK(weight.slice(1, channels).abs().max().item<double>() == 0);
        train_a_little(wide, both);
        CHECK(wide->first_layer_weight().slice(1, channels).abs().min().item<double>() > 0);
        CHECK_FALSE(at::equal(wide(both), wide(at::cat({x, -extra}, 1))));
        CHECK(error_text(ErrorCode::kUnsupported, [&] { wide->widen_input(1); }).find("7 extra") != std::string::npos);
      }
}

TEST_CASE("the first layer of a widened network is one convolution over all channels", "[encoder]") {
  // Two convolutions added up equal one with the joined weight, up to rounding.
  ImageEncoderOptions options = all_kinds().front();
  options.extra_channels = 2;
  ImageEncoder joined(options, 3);
  const at::Tensor both = images(3, 3, 8);
  train_a_little(joined, both);
  options.in_channels = 3;
  options.extra_channels = 0;
  ImageEncoder one(options, 3);
  const torch::NoGradGuard no_grad;
  for (const auto& item : joined->named_parameters())
    if (item.key().find("stem") == std::string::npos) one->named_parameters()[item.key()].copy_(item.value());
  one->named_parameters()["vision_model.stem.weight"].copy_(joined->first_layer_weight());
  CHECK((one(both) - joined(both)).abs().max().item<double>() < 1e-5);
}

TEST_CASE("gradients of the image encoders agree with finite differences", "[encoder]") {
  for (const auto& options : all_kinds()) {
    ImageEncoder encoder(options, 2);
    encoder->widen_input(1);
    encoder->to(at::kDouble);
    encoder->eval();
    // An input at which no step of a parameter takes a ReLU or a maximum across its kink.
    const at::Tensor x = random_tensor({2, 2, options.image_size, options.image_size}, 19).requires_grad_(true);
    const at::Tensor direction = random_tensor({2, 6}, 20);
    std::vector<at::Tensor> leaves = encoder->parameters();
    leaves.push_back(x);
    check_gradients([&] { return (encoder(x) * direction).sum(); }, leaves, 3);
  }
}

TEST_CASE("pooling keeps the position of a feature, or forgets it", "[encoder]") {
  // Moving the pattern by the whole downsampling factor moves the last feature map by one cell. Away from the border
  // the mean is the same; flattened or attended features are not.
  const torch::NoGradGuard no_grad;
  for (ImageEncoderOptions options : all_kinds()) {
    if (options.kind != ImageEncoderKind::kConv && options.kind != ImageEncoderKind::kViT) continue;
    options.image_size = 64;
    options.conv.norm_group_width = 8;
    ImageEncoder encoder(options, 4);
    const at::Tensor x = at::zeros({2, 1, 64, 64});
    const at::Tensor blob = images(1, 1, 11, 4)[0][0];
    x[0][0].slice(0, 28, 32).slice(1, 28, 32).copy_(blob);
    x[1][0].slice(0, 28, 32).slice(1, 32, 36).copy_(blob);
    const at::Tensor y = encoder(x);
    const double moved = (y[0] - y[1]).abs().max().item<double>() / y.abs().max().item<double>();
    const bool forgets = options.kind == ImageEncoderKind::kConv && options.conv.pooling == ImagePooling::kMean;
    INFO("kind " << int(options.kind) << " pooling " << int(options.conv.pooling));
    if (forgets) {
      CHECK(moved < 1e-5);
    } else {
      CHECK(moved > 1e-3);
    }
  }
}

TEST_CASE("the vision transformer is the written-out formula", "[encoder]") {
  // One patch, one head, so that softmax attention over two tokens can be spelt out in plain tensor algebra.
  ImageEncoderOptions options;
  options.kind = ImageEncoderKind::kViT;
  options.image_size = 2;
  options.embed_dim = 3;
  options.vit = {2, 4, 1, 1, 5, Activation::kGelu};
  ImageEncoder encoder(options, 5);
  encoder->to(at::kDouble);
  const torch::NoGradGuard no_grad;
  auto parameters = encoder->named_parameters();
  std::uint64_t seed = 100;
  for (auto& item : parameters) item.value().copy_(0.5 * random_tensor(item.value().sizes().vec(), ++seed));
  const auto get = [&](const std::string& name) { return parameters["vision_model." + name]; };
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    const at::Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-5).sqrt() * get(name + ".weight") + get(name + ".bias");
  };
  const auto linear = [&](const at::Tensor& x, const std::string& name) {
    return x.matmul(get(name + ".weight").t()) + get(name + ".bias");
  };

  const at::Tensor x = random_tensor({1, 1, 2, 2}, 12);
  const at::Tensor patch = get("embeddings.patch_embedding.weight").reshape({4, 4}).matmul(x.reshape({4}));
  at::Tensor h = at::stack({get("embeddings.class_embedding"), patch}) + get("embeddings.position_embedding.weight");
  h = norm(h, "pre_layrnorm");
  const std::string layer = "encoder.layers.0.";
  const at::Tensor n = norm(h, layer + "layer_norm1");
  const at::Tensor scores =
      linear(n, layer + "self_attn.q_proj").matmul(linear(n, layer + "self_attn.k_proj").t()) / 2;  // sqrt(width 4)
  const at::Tensor mixed = scores.softmax(-1).matmul(linear(n, layer + "self_attn.v_proj"));
  h = h + linear(mixed, layer + "self_attn.out_proj");
  const at::Tensor hidden = linear(norm(h, layer + "layer_norm2"), layer + "mlp.fc1");
  h = h + linear(hidden * 0.5 * (1 + (hidden / std::sqrt(2.0)).erf()), layer + "mlp.fc2");
  const at::Tensor expected = norm(h[0], "post_layernorm").matmul(parameters["visual_projection.weight"].t());
  CHECK((encoder(x)[0] - expected).abs().max().item<double>() < 1e-12);
}

TEST_CASE("parameters of the vision transformer carry CLIP's names and shapes", "[encoder]") {
  ImageEncoder encoder(all_kinds().back());
  const auto parameters = encoder->named_parameters();
  const auto shape = [&](const std::string& name) {
    REQUIRE(parameters.contains(name));
    return parameters[name].sizes().vec();
  };
  using Shape = std::vector<std::int64_t>;
  CHECK(parameters.size() == 8 + 2 * 16);
  CHECK(shape("vision_model.embeddings.class_embedding") == Shape{16});
  CHECK(shape("vision_model.embeddings.patch_embedding.weight") == Shape{16, 1, 4, 4});
  CHECK(shape("vision_model.embeddings.position_embedding.weight") == Shape{17, 16});
  CHECK(shape("vision_model.pre_layrnorm.weight") == Shape{16});
  CHECK(shape("vision_model.encoder.layers.1.self_attn.q_proj.weight") == Shape{16, 16});
  CHECK(shape("vision_model.encoder.layers.1.mlp.fc1.weight") == Shape{24, 16});
  CHECK(shape("vision_model.encoder.layers.1.layer_norm2.bias") == Shape{16});
  CHECK(shape("vision_model.post_layernorm.bias") == Shape{16});
  CHECK(shape("visual_projection.weight") == Shape{6, 16});
}

TEST_CASE("initial weights have the documented spread", "[encoder]") {
  ImageEncoderOptions options;
  options.kind = ImageEncoderKind::kViT;
  ImageEncoder encoder(options, 6);
  const auto parameters = encoder->named_parameters();
  const auto spread = [&](const std::string& name) { return parameters[name].std().item<double>(); };
  const double width = 64, depth = 4;
  const std::string layer = "vision_model.encoder.layers.2.";
  CHECK(spread(layer + "self_attn.q_proj.weight") == Approx(1 / std::sqrt(width)).epsilon(0.05));
  CHECK(spread(layer + "self_attn.out_proj.weight") == Approx(1 / std::sqrt(2 * width * depth)).epsilon(0.05));
  CHECK(spread(layer + "mlp.fc1.weight") == Approx(1 / std::sqrt(2 * width)).epsilon(0.05));
  CHECK(spread(layer + "mlp.fc2.weight") == Approx(1 / std::sqrt(2 * width * depth)).epsilon(0.05));
  CHECK(parameters[layer + "layer_norm1.weight"].min().item<double>() == 1);
  CHECK(parameters[layer + "mlp.fc1.bias"].abs().max().item<double>() == 0);
}

TEST_CASE("input that does not fit the image encoder is named", "[encoder]") {
  for (const auto& options : all_kinds()) {
    ImageEncoder encoder(options);
    const auto message = [&](const at::Tensor& x) { return error_text(ErrorCode::kMismatch, [&] { encoder(x); }); };
    const auto size = options.image_size;
    const std::string side = std::to_string(size), sides = side + ", " + side + "]", good = "[B, 1, " + sides;
    contains(message(images(2, 3, 1, size)), "expected shape " + good + " of Float, got shape [2, 3, " + sides);
    contains(message(images(2, 1, 1, 48)), "[2, 1, 48, 48]");
    contains(message(images(2, 1, 1, size).to(at::kDouble)), "of Double");
    contains(message(images(2, 1, 1, size)[0]), "[1, " + sides);
    contains(message(images(2, 1, 1, size).slice(0, 0, 0)), "[0, 1, " + sides);
    contains(message({}), "undefined");
  }
  const auto invalid = [&](const std::function<void(ImageEncoderOptions&)>& change) {
    ImageEncoderOptions options = all_kinds().front();
    change(options);
    return error_text(ErrorCode::kInvalidArgument, [&] { ImageEncoder encoder(options); });
  };
  contains(invalid([](auto& o) { o.in_channels = 0; }), "in_channels");
  contains(invalid([](auto& o) { o.image_size = 18; }), "image_size");
  contains(invalid([](auto& o) { o.conv.norm_group_width = 3; }), "norm_group_width");
  contains(invalid([](auto& o) { o.conv.stages = 0; }), "stages");
  contains(invalid([](auto& o) { o.kind = ImageEncoderKind::kViT, o.vit.heads = 3; }), "heads");
  contains(invalid([](auto& o) { o.kind = ImageEncoderKind::kViT, o.vit.patch_size = 5; }), "patch_size");
  contains(invalid([](auto& o) { o.conv.pooling = ImagePooling::kAttention, o.conv.heads = 5; }), "heads");
  contains(invalid([](auto& o) { o.kind = ImageEncoderKind::kResNet, o.resnet.blocks[2] = 0; }), "blocks");
  contains(invalid([](auto& o) { o.kind = ImageEncoderKind::kResNet, o.resnet.base_width = 0; }), "base_width");
  contains(invalid([](auto& o) { o.kind = ImageEncoderKind::kDenseNet, o.image_size = 28; }), "image_size");
  contains(invalid([](auto& o) { o.kind = ImageEncoderKind::kDenseNet, o.densenet.growth = 0; }), "growth");
  contains(error_text(ErrorCode::kInvalidArgument, [] { ResNetTowerOptions::of_depth(20); }), "18, 34, 50 or 101");
  contains(error_text(ErrorCode::kInvalidArgument, [] { DenseNetTowerOptions::of_depth(18); }), "121 or 169");
}

TEST_CASE("the transformer's poolings are their written-out formulas", "[encoder]") {
  ImageEncoderOptions options = all_kinds().back();
  options.vit.heads = 1;  // so that attention is one softmax
  options.vit.activation = Activation::kGelu;
  const torch::NoGradGuard no_grad;
  const at::Tensor x = random_tensor({3, 1, 16, 16}, 40);
  // With layers that add nothing, the tokens behind them are known.
  const auto made = [&](VitPooling pooling) {
    options.vit.pooling = pooling;
    ImageEncoder encoder(options, 41);
    encoder->to(at::kDouble);
    std::uint64_t seed = 600;
    for (auto& item : encoder->named_parameters()) {
      at::Tensor& parameter = item.value();
      const bool layer = item.key().find(".encoder.layers.") != std::string::npos;
      if (layer)
        parameter.zero_();
      else
        parameter.copy_(0.4 * random_tensor(parameter.sizes().vec(), hash_text(item.key()) ^ seed));
    }
    return encoder;
  };
  ImageEncoder mean = made(VitPooling::kMean), probe = made(VitPooling::kAttention);
  auto parameters = probe->named_parameters();
  const auto get = [&](const std::string& name) { return parameters["vision_model." + name]; };
  const auto norm = [&](const at::Tensor& t, const std::string& name) {
    const at::Tensor centred = t - t.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-5).sqrt() * get(name + ".weight") + get(name + ".bias");
  };
  const auto linear = [&](const at::Tensor& t, const std::string& name) {
    return t.matmul(get(name + ".weight").t()) + get(name + ".bias");
  };
  const at::Tensor patches = at::conv2d(x, get("embeddings.patch_embedding.weight"), {}, 4).flatten(2).transpose(1, 2) +
                             get("embeddings.position_embedding.weight").slice(0, 1);
  const at::Tensor tokens = norm(norm(patches, "pre_layrnorm"), "post_layernorm");
  const at::Tensor projection = parameters["visual_projection.weight"].t();
  CHECK((mean(x) - tokens.mean(1).matmul(projection)).abs().max().item<double>() < 1e-12);

  const auto fused = get("head.attention.in_proj_weight").chunk(3),
             biases = get("head.attention.in_proj_bias").chunk(3);
  const at::Tensor q = get("head.probe")[0].matmul(fused[0].t()) + biases[0],
                   k = tokens.matmul(fused[1].t()) + biases[1], v = tokens.matmul(fused[2].t()) + biases[2];
  const at::Tensor weights = (q.matmul(k.transpose(1, 2)) / 4).softmax(-1);  // sqrt(width 16)
  const at::Tensor h = linear(weights.matmul(v).squeeze(1), "head.attention.out_proj");
  const at::Tensor inner = linear(norm(h, "head.layernorm"), "head.mlp.fc1");
  const at::Tensor pooled = h + linear(inner * 0.5 * (1 + (inner / std::sqrt(2.0)).erf()), "head.mlp.fc2");
  CHECK((probe(x) - pooled.matmul(projection)).abs().max().item<double>() < 1e-12);
}

TEST_CASE("recomputed activations change neither values, gradients nor statistics", "[encoder]") {
  const std::vector<std::uint64_t> items = {7, 3, 100};
  for (auto options : all_kinds())
    for (const double drop_path : {0.0, 0.4}) {
      if (options.kind == ImageEncoderKind::kDenseNet && drop_path > 0) continue;
      options.drop_path = drop_path;
      const auto run = [&](bool again) {
        options.use_checkpoint = again;
        ImageEncoder encoder(options, 3);
        encoder->to(at::kDouble);
        const at::Tensor x = random_tensor({3, 1, options.image_size, options.image_size}, 50).requires_grad_(true);
        const at::Tensor y = encoder->forward_items(x, items, std::uint64_t{5});
        (y * random_tensor({3, 6}, 51)).sum().backward();
        std::vector<at::Tensor> results = {y.detach(), x.grad()};
        for (const auto& parameter : encoder->parameters()) results.push_back(parameter.grad());
        for (const auto& buffer : encoder->buffers()) results.push_back(buffer);
        return results;
      };
      const auto kept = run(false), again = run(true);
      REQUIRE(kept.size() == again.size());
      for (std::size_t i = 0; i < kept.size(); ++i)
        CHECK((kept[i] - again[i]).abs().max().item<double>() < 1e-11 * (1 + kept[i].abs().max().item<double>()));
    }
}

TEST_CASE("drop path leaves branches out with the documented probabilities", "[encoder]") {
  std::vector<std::uint64_t> items(4000);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = 3 * i + 1;
  const daug::detail::ItemNoise noise{items, 9};
  const at::Tensor like = at::empty({}, at::kDouble);
  const at::Tensor factors = daug::detail::path_factors(0.6, 3, 2, noise, like);
  REQUIRE(factors.sizes() == at::IntArrayRef({6, 4000}));
  for (std::int64_t row = 0; row < 6; ++row) {
    const double dropped = 0.2 * static_cast<double>(row / 2 + 1);
    const at::Tensor off = factors[row] == 0;
    CHECK(off.to(at::kDouble).mean().item<double>() == Approx(dropped).margin(0.03));  // four deviations
    CHECK((factors[row].masked_select(~off) - 1 / (1 - dropped)).abs().max().item<double>() < 1e-12);
  }
  // Branches are left out independently of each other.
  const double both = ((factors[4] == 0) & (factors[5] == 0)).to(at::kDouble).mean().item<double>();
  CHECK(both == Approx(0.36).margin(0.03));
  // An item's factors are its own.
  const std::vector<std::uint64_t> one = {items[17]};
  CHECK(at::equal(daug::detail::path_factors(0.6, 3, 2, {one, 9}, like).select(1, 0), factors.select(1, 17)));
}

TEST_CASE("a training pass with drop path scales every branch by its factor", "[encoder]") {
  const torch::NoGradGuard no_grad;
  daug::detail::Transformer transformer(
      daug::detail::TransformerOptions{8, 2, 2, 12, Activation::kGelu, 1e-5, false, false});
  transformer->to(at::kDouble);
  const at::Tensor x = random_tensor({3, 4, 8}, 60);
  CHECK(at::equal(transformer(x, at::zeros({4, 3}, at::kDouble)), x));
  CHECK(at::equal(transformer(x, at::ones({4, 3}, at::kDouble)), transformer(x)));
  // The second layer of the first item alone, without its attention.
  const at::Tensor paths = at::zeros({4, 3}, at::kDouble);
  paths[3][0].fill_(2);
  const at::Tensor y = transformer(x, paths);
  CHECK(at::equal(y.slice(0, 1), x.slice(0, 1)));
  const auto parameters = transformer->named_parameters();
  const auto at_layer = [&](const std::string& name) { return parameters["layers.1." + name]; };
  const at::Tensor normed = at::layer_norm(x[0], {8}, at_layer("layer_norm2.weight"), at_layer("layer_norm2.bias"));
  const at::Tensor inner = at::gelu(at::linear(normed, at_layer("mlp.fc1.weight"), at_layer("mlp.fc1.bias")));
  const at::Tensor branch = at::linear(inner, at_layer("mlp.fc2.weight"), at_layer("mlp.fc2.bias"));
  CHECK((y[0] - (x[0] + 2 * branch)).abs().max().item<double>() < 1e-12);

  // Whole encoders: an item's result does not depend on its batch, and nothing is drawn without numbers.
  for (auto options : all_kinds()) {
    if (options.kind == ImageEncoderKind::kDenseNet) continue;
    options.drop_path = 0.5;
    ImageEncoder encoder(options, 2);
    const auto side = options.image_size;
    const at::Tensor pixels = images(4, 1, 61, side);
    CHECK(error_text(ErrorCode::kInvalidArgument, [&] { encoder(pixels); }).find("items") != std::string::npos);
    encoder->eval();
    const std::vector<std::uint64_t> items = {1, 2, 3, 4}, last = {3, 4};
    const at::Tensor all = encoder->forward_items(pixels, items, std::uint64_t{8});
    CHECK((encoder->forward_items(pixels.slice(0, 2), last, std::uint64_t{8}) - all.slice(0, 2))
              .abs()
              .max()
              .item<double>() < 1e-5);
    CHECK_FALSE(at::allclose(encoder(pixels), all));
    contains(error_text(ErrorCode::kInvalidArgument, [&] { encoder->forward_items(pixels, last, std::uint64_t{8}); }),
             "4, one an image");
  }
  ImageEncoderOptions dense = all_kinds()[5];
  REQUIRE(dense.kind == ImageEncoderKind::kDenseNet);
  dense.drop_path = 0.1;
  CHECK(error_text(ErrorCode::kInvalidArgument, [&] { ImageEncoder encoder(dense); }).find("drop_path") !=
        std::string::npos);
}

TEST_CASE("gates start as nothing, train, and are part of the first layer's weight", "[encoder]") {
  for (auto options : all_kinds()) {
    ImageEncoder narrow(options, 1);
    narrow->eval();
    ImageEncoder wide(options, 1);
    wide->widen_input(3, {/*gates=*/true, /*dropout=*/0});
    options.extra.gates = true;
    wide->eval();
    const auto side = options.image_size;
    const at::Tensor x = images(3, 1, 70, side), maps = images(3, 3, 71, side), both = at::cat({x, maps}, 1);
    CHECK(at::equal(narrow(x), wide(both)));
    options.extra_channels = 3;
    ImageEncoder born_wide(options, 1);
    born_wide->eval();
    CHECK(at::equal(narrow(x), born_wide(both)));
    for (int i = 0; i < 20; ++i) train_a_little(wide, both);  // a gate has no gradient before its weights have moved
    const auto parameters = wide->named_parameters();
    at::Tensor gate;
    for (const auto& item : parameters)
      if (item.key().ends_with("extra_gate")) gate = item.value();
    REQUIRE(gate.sizes() == at::IntArrayRef({3}));
    CHECK((gate - 1).abs().min().item<double>() > 0);
    // A closed gate is a map of zeros, and the joined weight knows of it.
    const torch::NoGradGuard no_grad;
    gate[1].fill_(0);
    const at::Tensor without = both.clone();
    without.select(1, 2).zero_();
    CHECK(at::allclose(wide(both), wide(without), 1e-5, 1e-6));
    CHECK(wide->first_layer_weight().select(1, 2).abs().max().item<double>() == 0);
    CHECK(wide->first_layer_weight().select(1, 3).abs().max().item<double>() > 0);
  }
}

TEST_CASE("gradients of gates agree with finite differences", "[encoder]") {
  ImageEncoderOptions options = all_kinds().back();
  options.extra.gates = true;
  options.extra_channels = 2;
  ImageEncoder encoder(options, 2);
  encoder->to(at::kDouble);
  {
    const torch::NoGradGuard no_grad;
    for (auto& item : encoder->named_parameters())
      if (item.key().find("extra_") != std::string::npos)
        item.value().add_(0.3 * random_tensor(item.value().sizes().vec(), 72));
  }
  const at::Tensor x = random_tensor({2, 3, 16, 16}, 73), direction = random_tensor({2, 6}, 74);
  const std::string layer = "vision_model.embeddings.patch_embedding.";
  auto parameters = encoder->named_parameters();
  check_gradients([&] { return (encoder(x) * direction).sum(); },
                  {parameters[layer + "extra_gate"], parameters[layer + "extra_weight"]}, 4);
}

TEST_CASE("a training pass hides whole maps of an image", "[encoder]") {
  constexpr std::int64_t kImages = 600, kMaps = 2;
  constexpr double kRate = 0.3;
  ImageEncoderOptions options = all_kinds().front();
  options.extra.dropout = kRate;
  options.extra_channels = kMaps;
  ImageEncoder encoder(options, 1);
  const at::Tensor one = images(1, 1 + kMaps, 75);
  const torch::NoGradGuard no_grad;
  for (auto& item : encoder->named_parameters())
    if (item.key().ends_with("extra_weight")) item.value().copy_(0.2 * random_tensor(item.value().sizes().vec(), 76));
  CHECK(error_text(ErrorCode::kInvalidArgument, [&] { encoder(one); }).find("extra.dropout") != std::string::npos);
  std::vector<std::uint64_t> items(kImages);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = 10 * i;
  const at::Tensor found = encoder->forward_items(one.expand({kImages, -1, -1, -1}), items, std::uint64_t{4});
  encoder->eval();
  // The same image with every subset of its maps: each result is one of these, as often as documented.
  std::int64_t explained = 0;
  for (int shown = 0; shown < 4; ++shown) {
    const at::Tensor x = one.clone();
    for (int map = 0; map < kMaps; ++map)
      if (!(shown >> map & 1)) x.select(1, 1 + map).zero_();
    const std::int64_t count = ((found - encoder(x)).abs().amax(1) < 1e-5).sum().item<std::int64_t>();
    explained += count;
    const double each = (1 - kRate) * (shown & 1 ? 1 - kRate : kRate) * (shown & 2 ? 1 - kRate : kRate);
    const double expected = shown == 0 ? kRate + each : each;
    INFO("shown " << shown);
    CHECK(static_cast<double>(count) / kImages == Approx(expected).margin(0.08));  // four deviations
    if (shown == 0) CHECK(at::allclose(encoder(one.narrow(1, 0, 1)), encoder(x), 1e-5, 1e-6));
  }
  CHECK(explained == kImages);
  // Whatever the batch.
  const std::vector<std::uint64_t> some = {items[5], items[3]};
  const at::Tensor again = encoder->forward_items(one.expand({2, -1, -1, -1}), some, std::uint64_t{4});
  CHECK(at::allclose(again, at::stack({found[5], found[3]}), 1e-5, 1e-6));
  // Without this training, maps that lack are a mistake.
  options.extra.dropout = 0;
  ImageEncoder strict(options, 1);
  CHECK(error_text(ErrorCode::kMismatch, [&] { strict(one.narrow(1, 0, 1)); }).find("[B, 3, 16, 16]") !=
        std::string::npos);
}

TEST_CASE("every kind of tower is trained with hidden maps, gated or not", "[encoder]") {
  constexpr std::int64_t kImages = 24;
  std::vector<std::uint64_t> items(kImages);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = 7 * i + 2;
  const torch::NoGradGuard no_grad;
  at::Tensor drawn;  // which maps an image does not see, for all towers the same
  for (auto options : all_kinds())
    for (const bool gates : {false, true}) {
      INFO("kind " << int(options.kind) << ", gates " << gates);
      options.extra_channels = 2;
      options.extra.gates = gates;
      options.extra.dropout = 0.4;
      ImageEncoder encoder(options, 1);
      for (auto& item : encoder->named_parameters()) {
        if (item.key().ends_with("extra_weight"))
          item.value().copy_(0.2 * random_tensor(item.value().sizes().vec(), 77));
        if (item.key().ends_with("extra_gate")) item.value().copy_(at::tensor({1.5F, -0.7F}));
      }
      const at::Tensor x = images(kImages, 3, 78, options.image_size);
      contains(error_text(ErrorCode::kInvalidArgument, [&] { encoder(x); }), "extra.dropout");
      encoder->eval();
      const at::Tensor found = encoder->forward_items(x, items, std::uint64_t{4});
      const double tolerance = 1e-5 * (1 + found.abs().max().item<double>());
      // Distances to the same images with every subset of their maps: one of them is none, the others are.
      std::vector<at::Tensor> distances;
      for (int hidden = 0; hidden < 4; ++hidden) {
        const at::Tensor seen = x.clone();
        for (int map = 0; map < 2; ++map)
          if (hidden >> map & 1) seen.select(1, 1 + map).zero_();
        const at::Tensor expected = encoder(seen);
        distances.push_back((found - expected).abs().amax(1));
        if (hidden == 3) CHECK((encoder(x.narrow(1, 0, 1)) - expected).abs().max().item<double>() < tolerance);
      }
      const at::Tensor all = at::stack(distances), near = all < tolerance;
      CHECK((near.sum(0) == 1).all().item<bool>());
      CHECK(all.masked_select(~near).min().item<double>() > 5 * tolerance);
      if (!drawn.defined()) drawn = near;
      CHECK(at::equal(near, drawn));
    }
  CHECK(drawn.any(1).sum().item<std::int64_t>() >= 3);  // of the four subsets
}
