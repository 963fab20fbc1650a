// The image and text towers of the quickstart.

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

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
