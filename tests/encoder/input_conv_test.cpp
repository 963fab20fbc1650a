// First convolutions by themselves, in every form that a stem may give them.

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <cstdint>

#include "daug/core/random.h"
#include "daug/encoder/image_encoder.h"
#include "encoder/image_tower.h"
#include "support/catch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a widened first convolution of any stem starts bit-identical and trains, with a bias and without",
          "[encoder]") {
  struct Stem {
    std::int64_t kernel, stride, padding;
  };
  constexpr std::int64_t kOut = 5, kMaps = 7;
  constexpr double kStep = 1e-3;
  for (const Stem& stem : {Stem{3, 1, 1}, Stem{3, 2, 1}, Stem{7, 2, 3}, Stem{8, 8, 0}})
    for (const std::int64_t channels : {1, 3})
      for (const bool bias : {false, true})
        for (const bool gates : {false, true}) {
          INFO("kernel " << stem.kernel << " stride " << stem.stride << " channels " << channels << " bias " << bias
                         << " gates " << gates);
          ImageEncoderOptions options;
          options.in_channels = channels;
          daug::detail::InputConv layer(options, kOut, stem.kernel, stem.stride, stem.padding, bias);
          REQUIRE(layer->named_parameters().size() == (bias ? 2 : 1));
          {
            const torch::NoGradGuard no_grad;
            for (auto& item : layer->named_parameters())
              item.value().copy_(random_tensor(item.value().sizes().vec(), hash_text(item.key())));
          }
          const at::Tensor offset = bias ? layer->named_parameters()["bias"].detach().to(at::kDouble) : at::Tensor();
          const auto one_convolution = [&](const at::Tensor& input) {
            return at::conv2d(input.to(at::kDouble), layer->weight().detach().to(at::kDouble), offset, stem.stride,
                              stem.padding);
          };
          const auto off = [](const at::Tensor& found, const at::Tensor& expected) {
            return (found - expected).abs().max().item<double>() / expected.abs().max().item<double>();
          };
          const at::Tensor x = float_tensor({4, channels, 16, 16}, 80), maps = float_tensor({4, kMaps, 16, 16}, 81);
          const at::Tensor both = at::cat({x, maps}, 1);
          const at::Tensor before = layer(x).detach();
          CHECK(off(before, one_convolution(x)) < 1e-5);

          layer->widen(kMaps, gates);
          const at::Tensor extra = layer->named_parameters()["extra_weight"];
          REQUIRE(extra.sizes() == at::IntArrayRef({kOut, kMaps, stem.kernel, stem.kernel}));
          CHECK(layer->named_parameters().contains("extra_gate") == gates);
          for (const at::Tensor& shown : {maps, 100 * maps, maps.sign() * 3e38, at::zeros_like(maps)})
            CHECK(identical(layer(at::cat({x, shown}, 1)), before));
          CHECK(identical(layer(both.contiguous(at::MemoryFormat::ChannelsLast)), before));
          CHECK(identical(layer(x), before));

          // A sum that is linear in the weights falls by the step times the gradient's square.
          const at::Tensor direction = float_tensor(before.sizes().vec(), 82);
          (layer(both) * direction).sum().backward();
          const at::Tensor gradient = extra.grad();
          REQUIRE(gradient.defined());
          CHECK(gradient.abs().min().item<double>() > 0);
          const torch::NoGradGuard no_grad;
          extra.sub_(gradient, kStep);
          const at::Tensor after = layer(both);
          const double moved = ((after.to(at::kDouble) - before) * direction).sum().item<double>();
          CHECK(moved == Approx(-kStep * gradient.to(at::kDouble).square().sum().item<double>()).epsilon(1e-3));
          CHECK(off(after, one_convolution(both)) < 1e-5);
        }
}
