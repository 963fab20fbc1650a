// Decoding and preprocessing of radiographs.

#include "daug/core/random.h"
#include "daug/image/decode.h"
#include "daug/image/png.h"
#include "daug/image/preprocess.h"
#include "support/context.h"

namespace {

daug::GrayImage noisy_gradient(int side) {
  daug::GrayImage image = daug::GrayImage::filled(side, side);
  daug::RandomStream stream(0, 0, "bench image");
  for (int y = 0; y < side; ++y)
    for (int x = 0; x < side; ++x)
      image.at(x, y) = static_cast<float>(0.8 * (x + y) / (2.0 * side) + 0.1 * stream.uniform());
  return image;
}

void decode_png(benchmark::State& state) {
  const auto bytes = daug::encode_png(noisy_gradient(static_cast<int>(state.range(0))));
  for (auto _ : state) benchmark::DoNotOptimize(daug::decode_image(bytes, "memory"));
  state.SetBytesProcessed(state.iterations() * state.range(0) * state.range(0));
}
BENCHMARK(decode_png)->Arg(256)->Arg(1024)->Unit(benchmark::kMillisecond);

void preprocess(benchmark::State& state) {
  const auto image = noisy_gradient(1024);
  daug::PreprocessOptions options;
  options.size = static_cast<int>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(daug::preprocess(image, options));
}
BENCHMARK(preprocess)->Arg(64)->Arg(256)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_BENCHMARK_MAIN()
