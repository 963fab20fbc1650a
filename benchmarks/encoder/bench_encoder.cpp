// The image and text towers of the quickstart, and the published image towers on radiographs of 256 x 256. With
// DAUG_PEER_FILES the vision transformer's weights, inputs and outputs are written for peers/bench_encoder_peers.py.

#include <ATen/ATen.h>

#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/image_encoder.h"
#include "daug/encoder/text_encoder.h"
#include "daug/io/weights.h"
#include "support/flops.h"
#include "support/networks.h"
#include "support/peer_files.h"
#include "support/rates.h"
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

/// vit_b_32_CHANNELS.weights.safetensors as open_clip has it, the maps' weights in its first layer, with its
/// configuration beside it, and vit_b_32_CHANNELS.io.safetensors: x and output.
void write_for_peers(const daug::ImageEncoder& encoder, const at::Tensor& x, const at::Tensor& output) {
  const std::string name = "vit_b_32_" + std::to_string(x.size(1));
  if (daug::bench::peer_file(name).empty()) return;
  daug::bench::once("peer files of " + name, [&] {
    daug::TextEncoderOptions text;
    text.embed_dim = encoder->options().embed_dim;
    daug::ClipModel model;
    model.image = encoder;
    model.text = daug::TextEncoder(text);
    model.logit_scale = at::zeros({});
    daug::save_open_clip(daug::bench::peer_file(name + ".weights.safetensors"), daug::bench::peer_file(name + ".json"),
                         model);
    daug::save_weights(daug::bench::peer_file(name + ".io.safetensors"),
                       daug::NamedTensors{{"x", x}, {"output", output}});
    return 0.0;
  });
}

/// 16 images of 3 channels and as many maps as the argument says.
void forward_16(benchmark::State& state, daug::ImageEncoderKind kind) {
  c10::InferenceMode inference;
  auto options = published(kind);
  options.extra_channels = state.range(0);
  daug::ImageEncoder encoder(options);
  daug::bench::fill_zeros(*encoder);
  encoder->eval();
  const at::Tensor x = at::randn({16, 3 + state.range(0), 256, 256});
  at::Tensor output;
  const double flops = daug::bench::count_flops([&] { output = encoder->forward(x); });
  if (kind == daug::ImageEncoderKind::kViT) write_for_peers(encoder, x, output);
  for (auto _ : state) benchmark::DoNotOptimize(encoder->forward(x));
  state.SetItemsProcessed(state.iterations() * 16);
  daug::bench::report_flops(state, flops);
}
void without_and_with_maps(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("maps")->Arg(0)->Arg(7)->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK_CAPTURE(forward_16, vit_b_32, daug::ImageEncoderKind::kViT)->Apply(without_and_with_maps);
BENCHMARK_CAPTURE(forward_16, resnet_50, daug::ImageEncoderKind::kResNet)->Apply(without_and_with_maps);
BENCHMARK_CAPTURE(forward_16, densenet_121, daug::ImageEncoderKind::kDenseNet)->Apply(without_and_with_maps);

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
