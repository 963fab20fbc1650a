// ResNets and DenseNets against their formulas, and batch norm.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/utils.h>

#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/image_encoder.h"
#include "daug/io/weights.h"
#include "encoder/item_noise.h"
#include "encoder/torchvision_reference.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

ImageEncoderOptions resnet_options(bool bottleneck, std::int64_t image_size, std::int64_t base_width = 8) {
  ImageEncoderOptions options;
  options.kind = ImageEncoderKind::kResNet;
  options.in_channels = 3;
  options.image_size = image_size;
  options.embed_dim = 5;
  options.projection_bias = true;
  options.resnet.blocks = {2, 1, 2, 1};
  options.resnet.bottleneck = bottleneck;
  options.resnet.base_width = base_width;
  return options;
}

ImageEncoderOptions densenet_options(std::int64_t image_size, std::int64_t base_width = 8, std::int64_t growth = 6) {
  ImageEncoderOptions options = resnet_options(false, image_size);
  options.kind = ImageEncoderKind::kDenseNet;
  options.densenet.layers = {2, 3, 1, 2};
  options.densenet.base_width = base_width;
  options.densenet.growth = growth;
  options.densenet.bottleneck = 2;
  return options;
}

/// Of odd and even sizes.
std::vector<ImageEncoderOptions> families() {
  return {resnet_options(false, 33), resnet_options(true, 47), densenet_options(37), densenet_options(64)};
}

/// Every gain, bias and running statistic becomes something else than it starts as.
ImageEncoder made_up(const ImageEncoderOptions& options, at::ScalarType type = at::kDouble) {
  ImageEncoder encoder(options, 3);
  encoder->to(type);
  const torch::NoGradGuard no_grad;
  std::uint64_t seed = 500;
  for (const auto& [name, tensor] : named_tensors(*encoder)) {
    const at::Tensor target = tensor;
    if (target.dim() != 1) continue;
    const at::Tensor values = random_tensor({target.size(0)}, ++seed);
    target.copy_(name.ends_with("running_var") ? 0.5 + values.abs() : target.to(at::kDouble) + 0.3 * values);
  }
  encoder->eval();
  return encoder;
}

NamedTensors under_their_names(const ImageEncoder& encoder) {
  NamedTensors tensors;
  const std::string prefix = "vision_model.";
  for (const auto& [name, tensor] : named_tensors(*encoder))
    tensors.emplace(name.starts_with(prefix) ? name.substr(prefix.size()) : name, tensor);
  return tensors;
}

at::Tensor reference(const ImageEncoder& encoder, const at::Tensor& x, bool batch_statistics,
                     const at::Tensor& path_factors = {}) {
  const NamedTensors tensors = under_their_names(encoder);
  return TorchvisionReference(tensors, batch_statistics, path_factors)
             .features(x)
             .matmul(tensors.at("visual_projection.weight").t()) +
         tensors.at("visual_projection.bias");
}

double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

}  // namespace

TEST_CASE("ResNets and DenseNets are their written-out formulas", "[torchvision]") {
  for (const auto& options : families())
    for (const bool training : {false, true}) {
      INFO("kind " << int(options.kind) << ", side " << options.image_size << ", training " << training);
      ImageEncoder encoder = made_up(options);
      encoder->train(training);
      const auto side = options.image_size;
      const at::Tensor x = random_tensor({3, 3, side, side}, 4).requires_grad_(true);
      const at::Tensor direction = random_tensor({3, 5}, 5);
      // The reference goes first: a training pass changes the running statistics, which it does not read.
      const at::Tensor expected = reference(encoder, x, training);
      const at::Tensor wanted = torch::autograd::grad({(expected * direction).sum()}, {x})[0];
      const at::Tensor found = encoder(x);
      const at::Tensor gradient = torch::autograd::grad({(found * direction).sum()}, {x})[0];
      CHECK(largest(found - expected) < 1e-11 * (1 + largest(expected)));
      CHECK(largest(gradient - wanted) < 1e-10 * (1 + largest(wanted)));
    }
}

TEST_CASE("drop path of ResNets scales branches and leaves skips alone", "[torchvision]") {
  const torch::NoGradGuard no_grad;
  std::vector<std::uint64_t> items(24);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = 5 * i + 1;
  const at::Tensor x = random_tensor({24, 3, 33, 33}, 10);
  const at::Tensor factors = daug::detail::path_factors(0.5, 6, 1, {items, 9}, x);
  CHECK((factors[5] == 0).any().item<bool>());
  CHECK((factors[5] == 2).any().item<bool>());
  for (const bool bottleneck : {false, true}) {
    ImageEncoderOptions options = resnet_options(bottleneck, 33);
    options.drop_path = 0.5;
    ImageEncoder encoder = made_up(options);
    const at::Tensor expected = reference(encoder, x, false, factors);
    CHECK(largest(encoder->forward_items(x, items, std::uint64_t{9}) - expected) < 1e-11 * (1 + largest(expected)));
  }
}

TEST_CASE("the named depths have the published numbers of parameters", "[torchvision]") {
  // Without classifier: 11,689,512 - 513,000 and so on (torchvision's documentation).
  const auto count = [](const ImageEncoderOptions& options) {
    ImageEncoder encoder(options, LoadedLater{});
    std::int64_t values = 0;
    for (const auto& item : encoder->named_parameters())
      if (item.key().starts_with("vision_model.")) values += item.value().numel();
    return values;
  };
  ImageEncoderOptions options;
  options.in_channels = 3;
  options.image_size = 224;
  options.kind = ImageEncoderKind::kResNet;
  const std::pair<std::int64_t, std::int64_t> resnets[] = {
      {18, 11689512 - 513000}, {34, 21797672 - 513000}, {50, 25557032 - 2049000}, {101, 44549160 - 2049000}};
  for (const auto& [depth, parameters] : resnets) {
    options.resnet = ResNetTowerOptions::of_depth(depth);
    CHECK(count(options) == parameters);
  }
  options.kind = ImageEncoderKind::kDenseNet;
  const std::pair<std::int64_t, std::int64_t> densenets[] = {{121, 7978856 - 1025000}, {169, 14149480 - 1665000}};
  for (const auto& [depth, parameters] : densenets) {
    options.densenet = DenseNetTowerOptions::of_depth(depth);
    CHECK(count(options) == parameters);
  }
}

TEST_CASE("running statistics follow the batches of training", "[torchvision]") {
  for (const auto& options : families()) {
    ImageEncoder encoder = made_up(options);
    const NamedTensors tensors = under_their_names(encoder);
    const bool resnet = options.kind == ImageEncoderKind::kResNet;
    const std::string conv = resnet ? "conv1" : "features.conv0", norm = resnet ? "bn1" : "features.norm0";
    at::Tensor mean = tensors.at(norm + ".running_mean").clone(), variance = tensors.at(norm + ".running_var").clone();
    const auto side = options.image_size;
    encoder->train();
    for (std::uint64_t batch = 0; batch < 3; ++batch) {
      const at::Tensor x = random_tensor({2, 3, side, side}, 20 + batch);
      (void)encoder(x);
      const at::Tensor values =
          at::conv2d(x, tensors.at(conv + ".weight"), {}, 2, 3).transpose(0, 1).flatten(1).detach();
      mean = 0.9 * mean + 0.1 * values.mean(1);
      variance = 0.9 * variance + 0.1 * values.var(at::IntArrayRef{1}, /*unbiased=*/true);
    }
    CHECK(largest(tensors.at(norm + ".running_mean") - mean) < 1e-12);
    CHECK(largest(tensors.at(norm + ".running_var") - variance) < 1e-12);
    CHECK(tensors.at(norm + ".num_batches_tracked").item<std::int64_t>() == 3);
    // Use changes nothing.
    encoder->eval();
    (void)encoder(random_tensor({2, 3, side, side}, 30));
    CHECK(largest(tensors.at(norm + ".running_mean") - mean) < 1e-12);
    CHECK(tensors.at(norm + ".num_batches_tracked").item<std::int64_t>() == 3);
  }
}

TEST_CASE("batch statistics of one value a channel are refused", "[torchvision]") {
  ImageEncoder encoder(resnet_options(false, 32));
  const at::Tensor x = random_tensor({1, 3, 32, 32}, 6).to(at::kFloat);
  contains(error_text(ErrorCode::kInvalidArgument, [&] { encoder(x); }), "more than one value a channel");
  encoder->eval();
  CHECK(encoder(x).isfinite().all().item<bool>());
}

TEST_CASE("weights files carry the running statistics", "[torchvision]") {
  Scratch scratch;
  for (const auto& options : {resnet_options(true, 33), densenet_options(37)}) {
    ImageEncoder saved = made_up(options, at::kFloat), loaded(options, 9);
    save_weights(scratch.path("weights"), *saved);
    load_weights(*loaded, scratch.path("weights"));
    loaded->eval();
    const at::Tensor x = random_tensor({2, 3, options.image_size, options.image_size}, 7).to(at::kFloat);
    CHECK(at::equal(saved(x), loaded(x)));
  }
}

TEST_CASE("published widths start bit-identical when widened", "[torchvision]") {
  for (ImageEncoderOptions options : {resnet_options(false, 47, 64), densenet_options(47, 64, 32)}) {
    ImageEncoder narrow = made_up(options, at::kFloat), wide = made_up(options, at::kFloat);
    wide->widen_input(7);
    const at::Tensor x = random_tensor({2, 3, 47, 47}, 8).to(at::kFloat);
    const at::Tensor maps = random_tensor({2, 7, 47, 47}, 9).to(at::kFloat), both = at::cat({x, maps}, 1);
    CHECK(at::equal(narrow(x), wide(both)));
    wide->train();
    narrow->train();
    CHECK(at::equal(narrow(x), wide(both)));
    wide(both).square().sum().backward();
    CHECK(
        wide->named_parameters()[options.kind == ImageEncoderKind::kResNet ? "vision_model.conv1.extra_weight"
                                                                           : "vision_model.features.conv0.extra_weight"]
            .grad()
            .abs()
            .amax({0, 2, 3})
            .min()
            .item<double>() > 0);
  }
}
