// How the activations of image towers lie in memory.

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "daug/encoder/image_encoder.h"
#include "encoder/conv_layers.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/tensor.h"
#include "train/autocast.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Convolutions that this thread makes while one lives, and those of them that are given an image whose channels do not
/// lie last; one at a time.
class SeenConvolutions {
 public:
  SeenConvolutions() : callback_(at::addThreadLocalCallback(at::RecordFunctionCallback(&see).needsInputs(true))) {
    all_ = others_ = 0;
  }
  ~SeenConvolutions() { at::removeCallback(callback_); }
  SeenConvolutions(const SeenConvolutions&) = delete;
  SeenConvolutions& operator=(const SeenConvolutions&) = delete;
  std::int64_t all() const { return all_; }
  std::int64_t others() const { return others_; }

 private:
  static std::unique_ptr<at::ObserverContext> see(const at::RecordFunction& call) {
    if (std::string_view(call.name()) != "aten::convolution") return nullptr;
    ++all_;
    // What LibTorch's convolutions go by.
    if (call.inputs()[0].toTensor().suggest_memory_format() != at::MemoryFormat::ChannelsLast) ++others_;
    return nullptr;
  }

  static inline thread_local std::int64_t all_ = 0, others_ = 0;
  at::CallbackHandle callback_;
};

/// A tower of each kind for one channel and two maps, whose last map has more than one position, and its convolutions.
std::vector<std::pair<ImageEncoderOptions, std::int64_t>> towers_and_convolutions() {
  ImageEncoderOptions options;
  options.image_size = 64;
  options.extra_channels = 2;
  options.embed_dim = 6;
  options.conv.base_width = 16;
  options.conv.pooling = ImagePooling::kMean;
  options.vit.patch_size = 16;
  options.vit.width = 16;
  options.vit.mlp_width = 24;
  options.vit.depth = 1;
  options.resnet.blocks = {1, 1, 1, 1};
  options.resnet.base_width = 8;
  options.densenet.layers = {1, 2, 1, 1};
  options.densenet.base_width = 8;
  options.densenet.growth = 8;
  const auto of = [&](ImageEncoderKind kind) {
    options.kind = kind;
    return options;
  };
  // Two of the stem, whose maps have their own; two a block and one where its skip connection changes width; two a
  // dense layer and one a transition.
  return {{of(ImageEncoderKind::kConv), 2 + 2 * 2 + 1},
          {of(ImageEncoderKind::kResNet), 2 + 4 * 2 + 3},
          {of(ImageEncoderKind::kDenseNet), 2 + 5 * 2 + 3},
          {of(ImageEncoderKind::kViT), 2}};
}

}  // namespace

TEST_CASE("towers have the UNets' group norm where LibTorch's would move channels that lie last", "[encoder]") {
  const c10::Device device(at::kCUDA, 0), cpu(at::kCPU);
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    CHECK(daug::detail::norms_in_layout(device, type));
    CHECK_FALSE(daug::detail::norms_in_layout(cpu, type));
  }
  for (const auto type : {at::kFloat, at::kDouble}) {
    CHECK_FALSE(daug::detail::norms_in_layout(device, type));
    CHECK_FALSE(daug::detail::norms_in_layout(cpu, type));
  }
}

TEST_CASE("every convolution of a tower is given an image whose channels lie last", "[encoder]") {
  const at::Tensor x = float_tensor({3, 3, 64, 64}, 1);
  for (const auto& [options, convolutions] : towers_and_convolutions()) {
    INFO("kind " << static_cast<int>(options.kind));
    ImageEncoder encoder(options, /*seed=*/2);
    const SeenConvolutions seen;
    (void)encoder->forward(x);
    CHECK(seen.all() == convolutions);
    CHECK(seen.others() == 0);
  }
}

TEST_CASE("on a device towers of half types are those of the CPU, and their channels lie last", "[encoder][gpu]") {
  if (no_device()) return;
  const c10::Device device(at::kCUDA, 0);
  const at::Tensor x = float_tensor({3, 3, 64, 64}, 1), towards = float_tensor({3, 6}, 2);
  const auto relative = [](const at::Tensor& found, const at::Tensor& expected) {
    return (found.to(at::kCPU, at::kFloat) - expected).norm().item<double>() / expected.norm().item<double>();
  };
  for (const auto& [options, convolutions] : towers_and_convolutions())
    for (const bool autocast : {true, false}) {
      INFO("kind " << static_cast<int>(options.kind) << ", autocast " << autocast);
      // Embeddings, and the gradient along given directions by the first of the parameters.
      const auto pass = [&, &kind = options](const c10::Device& where, TrainingPrecision precision,
                                             at::ScalarType type) {
        ImageEncoder encoder(kind, /*seed=*/2);
        encoder->eval();
        encoder->to(where);
        encoder->to(type);
        at::Tensor embedding;
        {
          const Autocast cast(precision, where);
          embedding = encoder->forward(x.to(where, type));
        }
        (embedding.to(at::kFloat) * towards.to(where)).sum().backward();
        return std::pair(embedding.detach(), encoder->parameters().front().grad());
      };
      const auto expected = pass(at::kCPU, TrainingPrecision::kFloat32, at::kFloat);
      const SeenConvolutions seen;
      const auto found = pass(device, autocast ? TrainingPrecision::kBfloat16 : TrainingPrecision::kFloat32,
                              autocast ? at::kFloat : at::kBFloat16);
      CHECK(seen.all() == convolutions);
      CHECK(seen.others() == 0);
      CHECK(relative(found.first, expected.first) < 0.03);
      CHECK(relative(found.second, expected.second) < 0.1);
    }
}
