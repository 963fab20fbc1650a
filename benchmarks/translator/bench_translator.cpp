// The denoiser's forward pass, a training step and a whole translation.

#include <ATen/ATen.h>

#include "daug/train/denoiser_trainer.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/translation.h"
#include "support/torch_context.h"

namespace {

constexpr std::int64_t kFindings = 5;

daug::DenoiserUNetOptions tiny() {
  daug::DenoiserUNetOptions options;
  options.image_size = 32;
  options.model_channels = 32;
  options.channel_mult = {1, 2};
  options.num_res_blocks = 1;
  options.patch = 2;
  options.norm_groups = 4;
  options.num_heads = 2;
  options.use_scale_shift_norm = true;
  options.num_findings = kFindings;
  return options;
}

/// The networks whose speed is compared across versions: 64 base channels, attention at 16x16 and 8x8.
daug::DenoiserUNetOptions fixed(std::int64_t size) {
  daug::DenoiserUNetOptions options;
  options.image_size = size;
  options.model_channels = 64;
  options.channel_mult = size == 64 ? std::vector<double>{1, 2, 2, 4} : std::vector<double>{1, 1, 2, 3, 4};
  options.attention_downsample = {size / 16, size / 8};
  options.num_heads = 4;
  options.out_channels = 2;
  options.num_classes = 15;
  return options;
}

/// The same network from LibTorch's operators in their default layout.
daug::DenoiserUNetOptions plain(daug::DenoiserUNetOptions options) {
  options.execution = daug::Execution::kReference;
  return options;
}

void forward(benchmark::State& state, const daug::DenoiserUNetOptions& options) {
  c10::InferenceMode inference;
  daug::DenoiserUNet network(options);
  const std::int64_t batch = state.range(0);
  const at::Tensor x = at::randn({batch, 1, options.image_size, options.image_size});
  const at::Tensor timesteps = at::full({batch}, 100, at::kLong);
  const at::Tensor condition = options.num_classes > 0 ? at::zeros({batch}, at::kLong) : at::zeros({batch, kFindings});
  for (auto _ : state) benchmark::DoNotOptimize(network->forward(x, timesteps, condition));
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK_CAPTURE(forward, tiny, tiny())->Arg(1)->Arg(100)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward, unet_64, fixed(64))->Arg(1)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward, unet_64_plain, plain(fixed(64)))->Arg(1)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward, unet_128, fixed(128))->Arg(1)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward, unet_128_plain, plain(fixed(128)))->Arg(1)->Arg(8)->Unit(benchmark::kMillisecond);

/// The rate of a large matrix product: what the convolutions could reach.
void matrix_product(benchmark::State& state) {
  c10::InferenceMode inference;
  const std::int64_t n = 2048;
  const at::Tensor a = at::randn({n, n}), b = at::randn({n, n});
  for (auto _ : state) benchmark::DoNotOptimize(a.matmul(b));
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * static_cast<double>(n * n * n), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(matrix_product)->Unit(benchmark::kMillisecond);

/// Two one-thread workers against one worker with two intra-op threads, at the same batch.
void training_steps(benchmark::State& state) {
  const auto schedule = daug::NoiseSchedule::linear();
  const at::Tensor images = at::rand({64, 1, 32, 32}) * 2 - 1, states = at::randn({64, kFindings}).sign();
  daug::DenoiserTrainerOptions options;
  options.network = tiny();
  options.workers = state.range(0);
  options.optimizer.steps = 20;
  for (auto _ : state) benchmark::DoNotOptimize(daug::train_denoiser(images, states, schedule, options));
  state.SetItemsProcessed(state.iterations() * options.optimizer.steps);
}
BENCHMARK(training_steps)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

void translate(benchmark::State& state) {
  c10::InferenceMode inference;
  const auto schedule = daug::NoiseSchedule::linear();
  const auto predictor = daug::make_noise_predictor(daug::DenoiserUNet(tiny()), schedule, daug::Prediction::kV);
  daug::TranslatorOptions options;
  options.level = 250;
  options.steps = 12;
  const daug::DiffusionTranslator translator(predictor, schedule, {"a", "b", "c", "d", "e"}, options);
  std::vector<daug::Target> targets;
  for (const auto& finding : translator.findings()) targets.push_back(daug::away_from(finding));
  const at::Tensor x = at::rand({state.range(0), 1, 32, 32}) * 2 - 1;
  for (auto _ : state) benchmark::DoNotOptimize(translator.translate(x, targets));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(translate)->Arg(1)->Arg(10)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
