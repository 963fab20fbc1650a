// The denoiser's forward pass and training step beside the same network from LibTorch's operators in NCHW, and whole
// translations: one inversion for all targets against one for each. With DAUG_PEER_FILES the fixed networks' weights,
// inputs and outputs are written for peers/bench_translator_peers.py; DAUG_BENCH_LARGE=1 adds translations with U-64,
// which take minutes each.

#include <ATen/ATen.h>

#include <cstdlib>

#include "backend/conv3x3.h"
#include "daug/io/weights.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/translation.h"
#include "kernels/instruction_set.h"
#include "support/networks.h"
#include "support/peer_files.h"
#include "support/rates.h"
#include "support/torch_context.h"
#include "train/autocast.h"

namespace {

using daug::DenoiserUNet;
using daug::DenoiserUNetOptions;
using daug::TrainingPrecision;
using daug::bench::fixed_unet;
using daug::bench::forward_flops;
using daug::bench::once;
using daug::bench::plain;
using daug::bench::tiny_unet;
using daug::bench::UNetInputs;

std::string key(const DenoiserUNetOptions& options, std::int64_t batch) {
  return std::to_string(options.image_size) + "/" + std::to_string(batch);
}

/// NAME.weights.safetensors under upstream's names, and NAME.io.safetensors: x, timesteps, classes and output.
void write_for_peers(DenoiserUNet& network) {
  const auto& options = network->options();
  const std::string name = "unet_" + std::to_string(options.image_size), weights = name + ".weights.safetensors";
  if (daug::bench::peer_file(weights).empty() || options.num_classes == 0) return;
  once("peer files of " + name, [&] {
    const UNetInputs in(options, options.image_size == 256 ? 1 : 8);
    const at::Tensor output = network->forward(in.x, in.timesteps, in.condition);
    daug::save_weights(daug::bench::peer_file(weights), *network);
    daug::save_weights(
        daug::bench::peer_file(name + ".io.safetensors"),
        daug::NamedTensors{{"x", in.x}, {"timesteps", in.timesteps}, {"classes", in.condition}, {"output", output}});
    return 0.0;
  });
}

/// Says so where bfloat16 is not multiplied.
bool skips_bfloat16(benchmark::State& state) {
  if (daug::kernels::multiplies_bfloat16()) return false;
  state.SkipWithError("this processor does not multiply bfloat16");
  return true;
}

/// `error`: of the output, to the same weights in float32 from plain operators.
void forward(benchmark::State& state, const DenoiserUNetOptions& options, at::ScalarType type = at::kFloat) {
  if (type == at::kBFloat16 && skips_bfloat16(state)) return;
  const std::int64_t batch = state.range(0);
  DenoiserUNet network = daug::bench::make_unet(options);
  const c10::InferenceMode inference;
  const UNetInputs in(options, batch);
  const bool is_plain = options.execution == daug::Execution::kReference;
  if (!is_plain && type == at::kFloat) write_for_peers(network);
  network->to(type);
  const at::Tensor x = in.x.to(type);
  const daug::backend::SteadyFilters steady;  // as a walk calls it
  for (auto _ : state) benchmark::DoNotOptimize(network->forward(x, in.timesteps, in.condition));
  state.SetItemsProcessed(state.iterations() * batch);
  daug::bench::report_flops(state, static_cast<double>(batch) * forward_flops(options));
  if (is_plain) return;
  state.counters["error"] = once("error/" + key(options, batch) + c10::toString(type), [&] {
    const at::Tensor expected = daug::bench::make_unet(plain(options))->forward(in.x, in.timesteps, in.condition);
    return daug::bench::relative_error(network->forward(x, in.timesteps, in.condition).to(at::kFloat), expected);
  });
}
void batches(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1)->Arg(8)->Unit(benchmark::kMillisecond)->UseRealTime();
}
/// Eight images of 256 x 256 take a minute here.
void small_batches(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();
  if (std::getenv("DAUG_BENCH_LARGE")) benchmark->Arg(8);
}
BENCHMARK_CAPTURE(forward, tiny, tiny_unet(5))->Arg(1)->Arg(100)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(forward, unet_64, fixed_unet(64))->Apply(batches);
BENCHMARK_CAPTURE(forward, unet_64_plain, plain(fixed_unet(64)))->Apply(batches);
BENCHMARK_CAPTURE(forward, unet_64_bf16, fixed_unet(64), at::kBFloat16)->Apply(batches);
BENCHMARK_CAPTURE(forward, unet_128, fixed_unet(128))->Apply(batches);
BENCHMARK_CAPTURE(forward, unet_128_plain, plain(fixed_unet(128)))->Apply(batches);
BENCHMARK_CAPTURE(forward, unet_128_bf16, fixed_unet(128), at::kBFloat16)->Apply(batches);
BENCHMARK_CAPTURE(forward, unet_256, fixed_unet(256))->Apply(small_batches);
BENCHMARK_CAPTURE(forward, unet_256_plain, plain(fixed_unet(256)))->Apply(small_batches);
BENCHMARK_CAPTURE(forward, unet_256_bf16, fixed_unet(256), at::kBFloat16)->Apply(small_batches);

/// One step of a fixed network on 8 images: forward, backward, AdamW. One worker computes with all of LibTorch's
/// threads, several compute with one each.
void training(benchmark::State& state, const DenoiserUNetOptions& options,
              TrainingPrecision precision = TrainingPrecision::kFloat32) {
  if (precision == TrainingPrecision::kBfloat16 && skips_bfloat16(state)) return;
  constexpr std::int64_t kBatch = 8;
  at::set_num_threads(at::get_num_threads());  // a worker's choice of one may have reached all of MKL
  const std::int64_t workers = state.range(0), share = kBatch / workers;
  std::vector<DenoiserUNet> replicas;
  std::vector<std::shared_ptr<torch::nn::Module>> modules;
  for (std::int64_t worker = 0; worker < workers; ++worker) {
    replicas.push_back(daug::bench::make_unet(options));
    modules.push_back(replicas.back().ptr());
  }
  const UNetInputs in(options, kBatch);
  const at::Tensor target = at::randn({kBatch, options.out_channels, options.image_size, options.image_size});
  daug::TrainerOptions optimizer;
  optimizer.steps = 1;
  daug::Trainer trainer(modules, optimizer);
  const auto loss = [&](std::size_t worker, std::int64_t) {
    const auto part = [&](const at::Tensor& rows) {
      return rows.narrow(0, static_cast<std::int64_t>(worker) * share, share);
    };
    const auto output = [&] {
      const daug::Autocast autocast(precision, at::kCPU);
      return replicas[worker]->forward(part(in.x), part(in.timesteps), part(in.condition)).to(at::kFloat);
    };
    return (output() - part(target)).square().mean();
  };
  for (auto _ : state) benchmark::DoNotOptimize(trainer.run(loss));
  state.SetItemsProcessed(state.iterations() * kBatch);
  daug::bench::report_flops(state, 3 * static_cast<double>(kBatch) * forward_flops(options));
}
void one_worker(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("workers")->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();
}
void one_or_two_workers(benchmark::internal::Benchmark* benchmark) { one_worker(benchmark), benchmark->Arg(2); }
BENCHMARK_CAPTURE(training, unet_64, fixed_unet(64))->Apply(one_or_two_workers);
BENCHMARK_CAPTURE(training, unet_64_plain, plain(fixed_unet(64)))->Apply(one_worker);
BENCHMARK_CAPTURE(training, unet_64_bf16, fixed_unet(64), TrainingPrecision::kBfloat16)->Apply(one_or_two_workers);
BENCHMARK_CAPTURE(training, unet_128, fixed_unet(128))->Apply(one_or_two_workers);
BENCHMARK_CAPTURE(training, unet_128_plain, plain(fixed_unet(128)))->Apply(one_worker);
BENCHMARK_CAPTURE(training, unet_128_bf16, fixed_unet(128), TrainingPrecision::kBfloat16)->Apply(one_or_two_workers);

/// A short training of the quickstart's network, from its making on.
void tiny_training(benchmark::State& state) {
  const auto schedule = daug::NoiseSchedule::linear();
  const at::Tensor images = at::rand({64, 1, 32, 32}) * 2 - 1, states = at::randn({64, 5}).sign();
  daug::DenoiserTrainerOptions options;
  options.network = tiny_unet(5);
  options.workers = state.range(0);
  options.optimizer.steps = 20;
  for (auto _ : state) benchmark::DoNotOptimize(daug::train_denoiser(images, states, schedule, options));
  state.SetItemsProcessed(state.iterations() * options.optimizer.steps);
}
BENCHMARK(tiny_training)->ArgName("workers")->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

/// How translations to several targets are made.
enum class Inversion {
  kLoop,     ///< the image is encoded for each target anew
  kShared,   ///< it is encoded once, and decoded towards all targets as one batch
  kInterval  ///< the same with guidance at the lower half of the levels alone
};

/// 50 steps up to level 500 and 50 down towards 13 targets, contrast guidance. `side` 32: two images, the quickstart's
/// network; 64: one image, U-64.
void targets(benchmark::State& state, Inversion inversion) {
  constexpr std::int64_t kTargets = 13;
  c10::InferenceMode inference;
  const auto schedule = daug::NoiseSchedule::linear();
  const std::int64_t side = state.range(1);
  daug::TranslatorOptions options;
  options.evaluations = state.range(0);
  if (inversion == Inversion::kInterval) options.guidance.highest_level = options.level / 2;
  const DenoiserUNetOptions network = daug::bench::unet_with_findings(side, kTargets);
  const daug::DiffusionTranslator translator(daug::bench::make_predictor(network, schedule), schedule,
                                             daug::bench::finding_names(kTargets), options);
  const auto all = daug::bench::away_from_each(translator.findings());
  const at::Tensor x = at::rand({side == 32 ? 2 : 1, 1, side, side}) * 2 - 1;
  const auto loop = [&] {
    std::vector<at::Tensor> images;
    for (const auto& target : all) images.push_back(translator.decode(translator.encode(x), {target}));
    return at::cat(images, 1);
  };
  const auto shared = [&] { return translator.decode(translator.encode(x), all); };
  at::Tensor images;
  for (auto _ : state) images = inversion == Inversion::kLoop ? loop() : shared();
  state.SetItemsProcessed(state.iterations() * x.size(0));
  const std::int64_t calls = inversion == Inversion::kLoop ? kTargets * translator.calls_per_image(1).denoiser
                                                           : translator.calls_per_image(kTargets).denoiser;
  daug::bench::report_flops(state, static_cast<double>(x.size(0) * calls) * forward_flops(network));
  if (inversion == Inversion::kShared && side == 32)
    state.counters["error"] = once("targets/" + std::to_string(options.evaluations),
                                   [&] { return daug::bench::relative_error(images, loop()); });
}
void both_inversions(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"evaluations", "side"})->Args({1, 32})->Args({2, 32})->Unit(benchmark::kMillisecond);
  benchmark->UseRealTime();
  if (std::getenv("DAUG_BENCH_LARGE")) benchmark->Args({1, 64});
}
BENCHMARK_CAPTURE(targets, loop, Inversion::kLoop)->Apply(both_inversions);
BENCHMARK_CAPTURE(targets, shared, Inversion::kShared)->Apply(both_inversions);
BENCHMARK_CAPTURE(targets, interval, Inversion::kInterval)->Apply(both_inversions);

void translate(benchmark::State& state) {
  c10::InferenceMode inference;
  const auto schedule = daug::NoiseSchedule::linear();
  daug::TranslatorOptions options;
  options.level = 250;
  options.steps = 12;
  const daug::DiffusionTranslator translator(daug::bench::make_predictor(tiny_unet(5), schedule), schedule,
                                             daug::bench::finding_names(5), options);
  const auto targets = daug::bench::away_from_each(translator.findings());
  const at::Tensor x = at::rand({state.range(0), 1, 32, 32}) * 2 - 1;
  for (auto _ : state) benchmark::DoNotOptimize(translator.translate(x, targets));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(translate)->Arg(1)->Arg(10)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
