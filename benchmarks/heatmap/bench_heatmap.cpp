// Kinds of maps by what they cost, and what happens to maps after the network: differences, blur, scaling, and getting
// them into an encoder's input. DAUG_BENCH_LARGE=1 adds maps with U-64, whose difference maps take minutes.

#include <ATen/ATen.h>

#include <cstdlib>
#include <numeric>

#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/map_scaler.h"
#include "daug/heatmap/maps.h"
#include "daug/translator/diffusion_translator.h"
#include "support/networks.h"
#include "support/rates.h"
#include "support/torch_context.h"

namespace {

constexpr std::int64_t kBatch = 8, kMaps = 13;

/// 13 maps an image. kDifference: 50 steps up to level 500, two evaluations each, and 50 down towards each target with
/// contrast guidance; the others at four levels. `side` 32: two images, the quickstart's network; 64: one image, U-64.
enum class Kind { kDifference, kScoreDifference, kEvidence };

void map_kind(benchmark::State& state, Kind kind) {
  c10::InferenceMode inference;
  const auto schedule = daug::NoiseSchedule::linear();
  const std::int64_t side = state.range(0);
  const daug::DenoiserUNetOptions network = daug::bench::unet_with_findings(side, kMaps);
  const auto predictor = daug::bench::make_predictor(network, schedule);
  const daug::DiffusionTranslator translator(predictor, schedule, daug::bench::finding_names(kMaps));
  const auto targets = daug::bench::away_from_each(translator.findings());
  daug::EvidenceOptions options;
  options.levels = {40, 100, 250, 400};
  const at::Tensor x = at::rand({side == 32 ? 2 : 1, 1, side, side}) * 2 - 1;
  std::vector<std::uint64_t> items(static_cast<std::size_t>(x.size(0)));
  std::iota(items.begin(), items.end(), 0);
  const std::int64_t draws = static_cast<std::int64_t>(options.levels.size()) * options.samples;
  const std::int64_t calls = kind == Kind::kDifference        ? translator.calls_per_image(kMaps).denoiser
                             : kind == Kind::kScoreDifference ? (kMaps + 1) * draws
                                                              : 2 * kMaps * draws;
  const auto maps = [&] {
    switch (kind) {
      case Kind::kDifference:
        return daug::difference_map(x, translator.decode(translator.encode(x), targets));
      case Kind::kScoreDifference:
        return daug::score_difference_maps(*predictor, schedule, x, items, kMaps, options);
      default:
        return daug::evidence_maps(*predictor, schedule, x, items, kMaps, options);
    }
  };
  for (auto _ : state) benchmark::DoNotOptimize(maps());
  state.SetItemsProcessed(state.iterations() * x.size(0));
  daug::bench::report_flops(state, static_cast<double>(x.size(0) * calls) * daug::bench::forward_flops(network));
}
void sides(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("side")->Arg(32)->Unit(benchmark::kMillisecond)->UseRealTime();
  if (std::getenv("DAUG_BENCH_LARGE")) benchmark->Arg(64);
}
BENCHMARK_CAPTURE(map_kind, difference, Kind::kDifference)->Apply(sides);
BENCHMARK_CAPTURE(map_kind, score_difference, Kind::kScoreDifference)->Apply(sides);
BENCHMARK_CAPTURE(map_kind, evidence, Kind::kEvidence)->Apply(sides);

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
