// The image and text towers of the quickstart, and the published image towers on radiographs of 256 x 256.

#include <ATen/ATen.h>

#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "support/torch_context.h"

namespace {

void image_forward(benchmark::State& state) {
  c10::InferenceMode inference;
  daug::ImageEncoderOptions options;
  options.extra_channels = 6;
  daug::ImageEncoder encoder(options);
  const at::Tensor x = at::randn({state.range(0), 7, 32, 32});
  for (auto _ : state) benchmark::DoNotOptimize(encoder->forward(x));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(image_forward)->Arg(1)->Arg(32)->Unit(benchmark::kMillisecond);

void text_forward(benchmark::State& state) {
  c10::InferenceMode inference;
  daug::TextEncoder encoder(daug::TextEncoderOptions{});
  const at::Tensor ids = at::randint(0, 500, {state.range(0), 48}, at::kLong);
  const at::Tensor end = at::full({state.range(0)}, 47, at::kLong);
  for (auto _ : state) benchmark::DoNotOptimize(encoder->forward(ids, end));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(text_forward)->Arg(1)->Arg(32)->Unit(benchmark::kMillisecond);

daug::ImageEncoderOptions published(daug::ImageEncoderKind kind) {
  daug::ImageEncoderOptions options;
  options.kind = kind;
  options.in_channels = 3;
  options.image_size = 256;
  options.embed_dim = 512;
  options.vit.patch_size = 32;
  options.vit.width = 768;
  options.vit.depth = options.vit.heads = 12;
  options.vit.mlp_width = 3072;
  options.resnet = daug::ResNetTowerOptions::of_depth(50);
  return options;
}

/// 16 images of 3 channels and as many maps as the argument says.
void forward_16(benchmark::State& state, daug::ImageEncoderKind kind) {
  c10::InferenceMode inference;
  auto options = published(kind);
  options.extra_channels = state.range(0);
  daug::ImageEncoder encoder(options);
  encoder->eval();
  const at::Tensor x = at::randn({16, 3 + state.range(0), 256, 256});
  for (auto _ : state) benchmark::DoNotOptimize(encoder->forward(x));
  state.SetItemsProcessed(state.iterations() * 16);
}
BENCHMARK_CAPTURE(forward_16, vit_b_32, daug::ImageEncoderKind::kViT)->Arg(0)->Arg(7)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward_16, resnet_50, daug::ImageEncoderKind::kResNet)
    ->Arg(0)
    ->Arg(7)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward_16, densenet_121, daug::ImageEncoderKind::kDenseNet)
    ->Arg(0)
    ->Arg(7)
    ->Unit(benchmark::kMillisecond);

/// Forward and backward of the vision transformer; the argument is use_checkpoint.
void vit_training(benchmark::State& state) {
  auto options = published(daug::ImageEncoderKind::kViT);
  options.use_checkpoint = state.range(0) != 0;
  daug::ImageEncoder encoder(options);
  const at::Tensor x = at::randn({16, 3, 256, 256});
  for (auto _ : state) encoder->forward(x).sum().backward();
  state.SetItemsProcessed(state.iterations() * 16);
}
BENCHMARK(vit_training)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
