#include "daug/encoder/torchvision_checkpoint.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/weights.h"
#include "encoder/python.h"
#include "encoder/torchvision_reference.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

ImageEncoderOptions options_for(ImageEncoderKind kind, bool bottleneck = false) {
  ImageEncoderOptions options;
  options.kind = kind;
  options.in_channels = 3;
  options.image_size = 35;
  options.embed_dim = 5;
  options.projection_bias = true;
  options.resnet.blocks = {1, 2, 1, 1};
  options.resnet.base_width = 8;
  options.resnet.bottleneck = bottleneck;
  options.densenet.layers = {2, 1, 3, 1};
  options.densenet.base_width = 10;
  options.densenet.growth = 4;
  options.densenet.bottleneck = 3;
  return options;
}

const std::vector<ImageEncoderOptions>& families() {
  static const std::vector<ImageEncoderOptions> all = {options_for(ImageEncoderKind::kResNet),
                                                       options_for(ImageEncoderKind::kResNet, true),
                                                       options_for(ImageEncoderKind::kDenseNet)};
  return all;
}

/// A made-up state dict of such a network: running statistics, gains and biases take part.
ImageEncoder made_up(const ImageEncoderOptions& options) {
  ImageEncoder encoder(options, 11);
  const torch::NoGradGuard no_grad;
  std::uint64_t seed = 700;
  for (const auto& [name, tensor] : named_tensors(*encoder)) {
    if (tensor.dim() == 1) at::Tensor(tensor).add_(0.3 * random_tensor(tensor.sizes().vec(), ++seed).abs());
    if (tensor.dim() == 0) at::Tensor(tensor).fill_(17);
  }
  encoder->eval();
  return encoder;
}

at::Tensor pixels(std::int64_t channels = 3) { return random_tensor({2, channels, 35, 35}, 12).to(at::kFloat); }

std::string head_of(const ImageEncoderOptions& options) {
  return options.kind == ImageEncoderKind::kResNet ? "fc" : "classifier";
}

TorchvisionLoadOptions keeping_the_head() {
  TorchvisionLoadOptions options;
  options.image_size = 35;
  options.head = TorchvisionHead::kKeep;
  return options;
}

/// The message of the error that loading `path` after a change throws.
std::string error_after(const std::string& path, const std::function<void(SafetensorsFile&)>& change,
                        ErrorCode code = ErrorCode::kMismatch,
                        const TorchvisionLoadOptions& options = keeping_the_head()) {
  SafetensorsFile file = read_safetensors(path);
  change(file);
  write_safetensors(path + ".changed", file);
  try {
    load_torchvision(path + ".changed", options);
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a state dict becomes the network that it is for", "[torchvision]") {
  Scratch scratch;
  const std::string path = scratch.path("weights");
  for (const auto& options : families()) {
    ImageEncoder written = made_up(options);
    save_torchvision(path, written);
    // The file alone, put into the formulas.
    NamedTensors tensors;
    for (const auto& [name, array] : read_safetensors(path).tensors)
      tensors.emplace(name, tensor_from(array).to(at::kDouble));
    const at::Tensor expected = at::addmm(tensors.at(head_of(options) + ".bias"),
                                          TorchvisionReference(tensors).features(pixels().to(at::kDouble)),
                                          tensors.at(head_of(options) + ".weight").t());
    TorchvisionReport report;
    ImageEncoder loaded = load_torchvision(path, keeping_the_head(), &report);
    loaded->eval();
    CHECK(loaded->options().embed_dim == 5);
    CHECK(loaded->options().resnet.blocks ==
          (options.kind == ImageEncoderKind::kResNet ? options.resnet.blocks : ResNetTowerOptions{}.blocks));
    CHECK(report.left_out.empty());
    CHECK(report.untouched.empty());
    const torch::NoGradGuard no_grad;
    CHECK(at::equal(loaded(pixels()), written(pixels())));
    CHECK((loaded(pixels()) - expected).abs().max().item<double>() < 1e-5 * (1 + expected.abs().max().item<double>()));
    for (const auto& [name, tensor] : named_tensors(*loaded))
      if (name.ends_with("num_batches_tracked")) CHECK(tensor.item<std::int64_t>() == 17);
  }
}

TEST_CASE("a classifier is kept or replaced, never in silence", "[torchvision]") {
  Scratch scratch;
  const std::string path = scratch.path("weights");
  for (const auto& options : families()) {
    save_torchvision(path, made_up(options));
    const std::string head = head_of(options);
    TorchvisionLoadOptions how;
    how.image_size = 35;
    how.embed_dim = 9;
    how.seed = 4;
    TorchvisionReport report;
    ImageEncoder replaced = load_torchvision(path, how, &report);
    CHECK(report.left_out == std::vector<std::string>{head + ".weight", head + ".bias"});
    CHECK(report.untouched == std::vector<std::string>{"visual_projection.weight"});
    // The projection is the one that an encoder of this seed has.
    ImageEncoder fresh(replaced->options(), 4);
    CHECK(at::equal(named_tensors(*replaced).at("visual_projection.weight"),
                    named_tensors(*fresh).at("visual_projection.weight")));
    CHECK(replaced->options().embed_dim == 9);
    // A file without a classifier will do; but not where it is to be kept.
    const auto without = [&](SafetensorsFile& file) {
      file.tensors.erase(head + ".weight");
      file.tensors.erase(head + ".bias");
    };
    CHECK(error_after(path, without, ErrorCode::kMismatch, how) == "no error");
    contains(error_after(path, without), head + ".weight");
    // Into an encoder with a projection of another size.
    ImageEncoderOptions other = options;
    other.embed_dim = 6;
    ImageEncoder encoder(other);
    CHECK(load_torchvision(path, encoder, TorchvisionHead::kReplace).untouched.size() == 2);
    contains(caught([&] { load_torchvision(path, encoder, TorchvisionHead::kKeep); }).what(),
             head + ".weight: expected [6, ");
  }
}

TEST_CASE("chest-radiograph weights load once what is no network is left out", "[torchvision]") {
  // The layout of torchxrayvision's DenseNets: one channel, 18 findings and their thresholds, pixels in [-1024, 1024].
  Scratch scratch;
  const std::string path = scratch.path("weights");
  ImageEncoderOptions options = options_for(ImageEncoderKind::kDenseNet);
  options.in_channels = 1;
  options.embed_dim = 18;
  save_torchvision(path, made_up(options));
  SafetensorsFile file = read_safetensors(path);
  NamedTensors tensors;
  for (const auto& [name, array] : file.tensors) tensors.emplace(name, tensor_from(array).to(at::kDouble));
  contains(error_after(path,
                       [](SafetensorsFile& theirs) {
                         theirs.tensors["op_threshs"] = Array::from(std::vector<float>(18, 0.5F), {18});
                       }),
           "1 unexpected: op_threshs");
  ImageEncoder loaded = load_torchvision(path, keeping_the_head());
  loaded->eval();
  CHECK(loaded->options().in_channels == 1);
  CHECK(loaded->options().embed_dim == 18);
  const at::Tensor gray = pixels(1).tanh();
  const at::Tensor features = TorchvisionReference(tensors).features(gray.to(at::kDouble) * 1024);
  const at::Tensor expected = at::addmm(tensors.at("classifier.bias"), features, tensors.at("classifier.weight").t());
  const torch::NoGradGuard no_grad;
  const at::Tensor found = loaded(scaled_pixels(gray, kRadiographPixels, 1));
  CHECK((found - expected).abs().max().item<double>() < 1e-5 * (1 + expected.abs().max().item<double>()));
}

TEST_CASE("keys that are missing, unexpected or of another shape are reported", "[torchvision]") {
  Scratch scratch;
  const std::string path = scratch.path("weights");
  for (const auto& options : families()) {
    save_torchvision(path, made_up(options));
    const bool resnet = options.kind == ImageEncoderKind::kResNet;
    const std::string norm = resnet ? "layer2.1.bn1" : "features.denseblock3.denselayer2.norm1";
    const std::string first = resnet ? "conv1.weight" : "features.conv0.weight";
    const std::string message = error_after(path, [&](SafetensorsFile& file) {
      file.tensors.erase(norm + ".running_mean");
      file.tensors["stranger"] = Array::from(std::vector<float>{1}, {1});
      file.tensors[norm + ".bias"] = Array::from(std::vector<float>{1, 2}, {2});
    });
    contains(message, "1 missing: " + norm + ".running_mean");
    contains(message, "1 unexpected: stranger");
    contains(message, "1 mismatched: " + norm + ".bias: expected [");
    const auto as = [](at::ScalarType type, const std::string& key) {
      return [=](SafetensorsFile& file) { file.tensors.at(key) = array_from(tensor_from(file.at(key)).to(type)); };
    };
    for (const auto& key : {first, norm + ".running_mean", head_of(options) + ".bias"})
      contains(error_after(path, as(at::kChar, key)), "1 mismatched: " + key + ": expected floating point, got I8");
    // A counter may be a real number, which is whole.
    const std::string counter = norm + ".num_batches_tracked";
    CHECK(error_after(path, as(at::kFloat, counter)) == "no error");
    contains(error_after(path, [&](auto& file) { file.tensors[counter] = Array::from(std::vector<float>{0.5F}, {}); }),
             counter + ": expected whole numbers, got F32");
    // One counter may not be absent, all may.
    contains(error_after(path, [&](auto& file) { file.tensors.erase(norm + ".num_batches_tracked"); }),
             norm + ".num_batches_tracked");
    SafetensorsFile old = read_safetensors(path);
    std::erase_if(old.tensors, [](const auto& item) { return item.first.ends_with("num_batches_tracked"); });
    write_safetensors(scratch.path("old"), old);
    TorchvisionReport report;
    ImageEncoder loaded = load_torchvision(scratch.path("old"), keeping_the_head(), &report);
    CHECK(report.untouched.size() == read_safetensors(path).tensors.size() - old.tensors.size());
    for (const auto& name : report.untouched) CHECK(named_tensors(*loaded).at(name).item<std::int64_t>() == 0);
    // What the layout is read off.
    contains(error_after(path, [&](auto& file) { file.tensors.erase(first); }), "conv1.weight");
    contains(error_after(path, [&](auto& file) { file.tensors[first] = Array::from(std::vector<float>{1}, {1}); }),
             first);
    // A number that would make a network far larger than the file.
    contains(error_after(path,
                         [&](auto& file) {
                           const std::string far =
                               resnet ? "layer4.63.conv1.weight" : "features.denseblock4.denselayer128.conv1.weight";
                           file.tensors[far] = Array::from(std::vector<float>{1}, {1});
                         }),
             resnet ? "numbers" : "features.denseblock4.denselayer10");
  }
  CHECK(error_after(path, [](auto& file) { file.tensors.clear(); }).find("conv1.weight") != std::string::npos);
}

TEST_CASE("the names of torchvision's first DenseNet files are read", "[torchvision]") {
  Scratch scratch;
  const std::string path = scratch.path("weights");
  ImageEncoder written = made_up(options_for(ImageEncoderKind::kDenseNet));
  save_torchvision(path, written);
  SafetensorsFile file = read_safetensors(path), old;
  for (const auto& [key, array] : file.tensors) {
    std::string name = key;
    const auto layer = name.find("denselayer");
    if (layer != std::string::npos) name.insert(name.find('.', layer) + 5, ".");  // norm1 -> norm.1
    old.tensors.emplace(name, array);
  }
  REQUIRE(old.contains("features.denseblock3.denselayer2.norm.1.weight"));
  write_safetensors(path, old);
  ImageEncoder loaded = load_torchvision(path, keeping_the_head());
  loaded->eval();
  const torch::NoGradGuard no_grad;
  CHECK(at::equal(loaded(pixels()), written(pixels())));
}

TEST_CASE("extra channels are written as part of the first convolution", "[torchvision]") {
  Scratch scratch;
  const std::string path = scratch.path("weights");
  for (const auto& options : families()) {
    ImageEncoder wide = made_up(options);
    wide->widen_input(2);
    const torch::NoGradGuard no_grad;
    for (const auto& [name, tensor] : named_tensors(*wide))
      if (name.ends_with("extra_weight")) at::Tensor(tensor).add_(0.1 * random_tensor(tensor.sizes().vec(), 5));
    save_torchvision(path, wide);
    ImageEncoder loaded = load_torchvision(path, keeping_the_head());
    loaded->eval();
    CHECK(loaded->options().in_channels == 5);
    CHECK((loaded(pixels(5)) - wide(pixels(5))).abs().max().item<double>() < 1e-4);
  }
}

TEST_CASE("a projection without bias is written as a classifier whose bias is zero", "[torchvision]") {
  Scratch scratch;
  const std::string path = scratch.path("weights");
  for (ImageEncoderOptions options : families()) {
    options.projection_bias = false;
    ImageEncoder written = made_up(options);
    REQUIRE(named_tensors(*written).count("visual_projection.bias") == 0);
    save_torchvision(path, written);
    const SafetensorsFile file = read_safetensors(path);
    const Array& bias = file.at(head_of(options) + ".bias");
    CHECK(bias.shape == std::vector<std::int64_t>{5});
    CHECK(bias.to_float() == std::vector<float>(5, 0.0F));
    ImageEncoder loaded = load_torchvision(path, keeping_the_head());
    loaded->eval();
    CHECK(loaded->options().projection_bias);
    const torch::NoGradGuard no_grad;
    const at::Tensor expected = written(pixels());
    CHECK((loaded(pixels()) - expected).abs().max().item<double>() < 1e-5 * (1 + expected.abs().max().item<double>()));
  }
}

TEST_CASE("what a state dict cannot hold is refused before anything is written", "[torchvision]") {
  Scratch scratch;
  const auto refused = [&](const ImageEncoderOptions& options, const std::string& part) {
    ImageEncoder encoder(options);
    contains(error_text(ErrorCode::kUnsupported, [&] { save_torchvision(scratch.path("a"), encoder); }), part);
  };
  refused(ImageEncoderOptions{}, "kind");
  auto options = options_for(ImageEncoderKind::kResNet);
  options.resnet.pooling = ImagePooling::kAttention;
  refused(options, "pooling");
  CHECK(scratch.count() == 0);
}

TEST_CASE("torchvision loads what is written here", "[torchvision]") {
  Scratch scratch;
  const std::string weights = scratch.path("weights.safetensors"), expected = scratch.path("expected.safetensors");
  const auto loads = [&](ImageEncoder encoder, at::ScalarType type) {
    if (type != at::kFloat) encoder->to(type);  // which converts the counters of batches, too
    save_torchvision(weights, encoder);
    encoder->to(at::kDouble);
    const torch::NoGradGuard no_grad;
    const at::Tensor x = pixels(encoder->first_layer_weight().size(1)).to(at::kDouble);
    save_weights(expected, NamedTensors{{"x", x}, {"y", encoder(x)}});
    return python_runs("torchvision", "load_torchvision.py", weights + " " + expected, scratch.path("log"));
  };
  for (auto options : families()) {
    options.resnet.base_width = 64;  // the only one of torchvision's
    ImageEncoder encoder = made_up(options);
    encoder->widen_input(1);
    if (!loads(encoder, at::kFloat)) return;
  }
  (void)loads(made_up(families().back()), at::kBFloat16);
}

namespace {

/// What a file's network reads its classifier from, in float64.
at::Tensor features_of(const std::string& path, const at::Tensor& x, std::int64_t features) {
  TorchvisionLoadOptions how;
  how.image_size = x.size(2);
  how.embed_dim = features;
  ImageEncoder bare = load_torchvision(path, how);
  bare->eval();
  bare->to(at::kDouble);
  at::Tensor(named_tensors(*bare).at("visual_projection.weight")).copy_(at::eye(features));
  return bare(x);
}

}  // namespace

TEST_CASE("the published networks go to torchvision and come back", "[torchvision]") {
  // Both sides compute in float64, see load_torchvision.py; an epsilon or a pooling of another kind would show.
  const torch::NoGradGuard no_grad;
  const std::pair<const char*, std::int64_t> networks[] = {
      {"resnet18", 512}, {"resnet50", 2048}, {"densenet121", 1024}};
  Scratch scratch;
  const std::string weights = scratch.path("weights.safetensors"), expected = scratch.path("expected.safetensors");
  const auto python = [&](const std::string& arguments) {
    return python_runs("torchvision", "load_torchvision.py", arguments, scratch.path("log"));
  };
  for (const auto& [name, features] : networks) {
    INFO(name);
    // There to here.
    if (!python("--write " + weights + " " + expected + " " + name)) return;
    const SafetensorsFile theirs = read_safetensors(expected);
    const at::Tensor x = tensor_from(theirs.at("x"));
    TorchvisionLoadOptions how = keeping_the_head();
    how.image_size = 64;
    ImageEncoder encoder = load_torchvision(weights, how);
    encoder->eval();
    encoder->to(at::kDouble);
    const auto check = [&](const char* output, const at::Tensor& ours) {
      INFO(output);
      const at::Tensor wanted = tensor_from(theirs.at(output));
      REQUIRE(wanted.scalar_type() == at::kDouble);
      REQUIRE(ours.sizes() == wanted.sizes());
      CHECK((ours - wanted).abs().max().item<double>() < 1e-10 * (1 + wanted.abs().max().item<double>()));
    };
    check("y", encoder(x));
    check("features", features_of(weights, x, features));
    // Here to there: weights of our own, in the builder's network.
    ImageEncoder own = made_up(encoder->options());
    save_torchvision(weights, own);
    own->to(at::kDouble);
    save_weights(expected, NamedTensors{{"x", x}, {"y", own(x)}, {"features", features_of(weights, x, features)}});
    CHECK(python(weights + " " + expected + " " + name));
  }
}
