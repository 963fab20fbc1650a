// What happens to maps after the network: differences, blur, scaling, and getting them into an encoder's input.

#include <ATen/ATen.h>

#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/map_scaler.h"
#include "daug/heatmap/maps.h"
#include "support/torch_context.h"

namespace {

constexpr std::int64_t kBatch = 8, kMaps = 13;

void post_process(benchmark::State& state) {
  c10::InferenceMode inference;
  const std::int64_t size = state.range(0);
  const at::Tensor x = at::randn({kBatch, 1, size, size}), images = at::randn({kBatch, kMaps, 1, size, size});
  for (auto _ : state)
    benchmark::DoNotOptimize(daug::min_max_scaled(daug::smoothed(daug::difference_map(x, images), 1)));
}
BENCHMARK(post_process)->Arg(32)->Arg(256)->Unit(benchmark::kMillisecond);

void augment(benchmark::State& state) {
  c10::InferenceMode inference;
  const std::int64_t size = state.range(0);
  daug::ChannelAugmenterOptions options;
  options.max_rotation = 10;
  options.max_shift = 0.1;
  const daug::HeatmapChannelAugmenter augmenter(options);
  const at::Tensor image = at::randn({kBatch, 1, size, size}), maps = at::randn({kBatch, kMaps, size, size});
  for (auto _ : state) {
    at::Tensor moved_image = image, moved_maps = maps;
    augmenter.augment(moved_image, moved_maps, {0, 1, 2, 3, 4, 5, 6, 7}, 0);
    benchmark::DoNotOptimize(augmenter.apply(moved_image, moved_maps));
  }
}
BENCHMARK(augment)->Arg(32)->Arg(256)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
