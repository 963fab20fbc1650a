// Whole networks on a device: a sampler's call, walks, translations to many targets and maps, replayed from CUDA
// graphs, and training steps, without and with graphs. peers/bench_device_peers.py does the same in PyTorch. With
// DAUG_PEER_FILES the weights, inputs and output of U-256 are written for it. Not yet run on a device.
//
// Group norms, residual sums and AdamW are those of the device kernels, whether or not a run of them is recorded; with
// DAUG_BENCH_EXECUTION=auto what programs get. DAUG_BENCH_DEVICE=cpu DAUG_BENCH_SMALL=1 tries all of it out in a
// minute, without graphs, with one tiny network in place of all, few steps and small batches.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/progress.h"
#include "daug/heatmap/maps.h"
#include "daug/io/weights.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/trainer.h"
#include "daug/translator/diffusion_translator.h"
#include "support/device.h"
#include "support/networks.h"
#include "support/peer_files.h"
#include "support/torch_context.h"
#include "train/autocast.h"

namespace {

using daug::Execution;
using daug::Prediction;
using daug::bench::device;
using daug::bench::forward_flops;
using daug::bench::is_small;
using daug::bench::measure;
using daug::bench::once;
using daug::bench::report_of_products;

constexpr std::int64_t kLevel = 500;    ///< of single calls
constexpr std::int64_t kFindings = 15;  ///< of networks that the peer's of 15 classes stands beside

Execution kernels() {
  const char* choice = std::getenv("DAUG_BENCH_EXECUTION");
  const bool as_programs = choice != nullptr && std::string(choice) == "auto";
  return device().is_cuda() && !as_programs ? Execution::kFused : Execution::kAuto;
}

daug::DenoiserUNetOptions network_of(std::int64_t side, std::int64_t findings) {
  daug::DenoiserUNetOptions options = daug::bench::unet_with_findings(side, findings);
  options.execution = kernels();
  if (is_small()) {
    options.image_size = 32, options.model_channels = 32;
    options.channel_mult = {1, 2}, options.attention_downsample = {2};
  }
  return options;
}

at::TensorOptions floats() { return at::TensorOptions(at::kFloat).device(device()); }

/// Images as they go in, [B, 1, H, W].
at::Tensor images(std::int64_t batch, const daug::DenoiserUNetOptions& options) {
  at::manual_seed(1);
  return at::rand({batch, 1, options.image_size, options.image_size}, floats()) * 2 - 1;
}

/// Of each item another finding present, and all else unknown: [B, F].
at::Tensor one_present(std::int64_t batch, std::int64_t findings) {
  return at::eye(findings, floats()).index_select(0, at::arange(batch, floats().dtype(at::kLong)) % findings);
}

/// A network with random weights on the device, and what samplers ask of it.
struct Sampler {
  std::string name;
  daug::DenoiserUNetOptions options;
  daug::DenoiserUNet network;  ///< in float32
  std::shared_ptr<const daug::NoisePredictor> predictor;
};

/// Made once a process: graphs and libraries are ready at every repetition but the first.
const Sampler& sampler(std::int64_t side, std::int64_t findings, Prediction kind, at::ScalarType type,
                       Execution graphs) {
  static std::map<std::string, Sampler> made;
  const std::string name = fmt::format("{}/{}/{}/{}/{}", side, findings, static_cast<int>(kind), static_cast<int>(type),
                                       static_cast<int>(graphs));
  const auto found = made.find(name);
  if (found != made.end()) return found->second;
  const daug::DenoiserUNetOptions options = network_of(side, findings);
  daug::DenoiserUNet network = daug::bench::make_unet(options);
  network->to(device());
  const auto precision = type == at::kFloat ? daug::NetworkPrecision::kFull : daug::NetworkPrecision::kBFloat16;
  auto predictor = daug::make_noise_predictor(network, daug::NoiseSchedule::linear(), kind, {}, precision,
                                              device().is_cuda() ? graphs : Execution::kReference);
  return made.emplace(name, Sampler{name, options, network, std::move(predictor)}).first->second;
}

/// Calls `work` twice, but once a process for each name: a plain call, and one in which graphs are captured.
template <class Work>
void get_ready(const std::string& name, const Work& work) {
  once("ready/" + name, [&] {
    const c10::InferenceMode inference;
    for (int i = 0; i < 2; ++i) work();
    return 0.0;
  });
}

/// Weights under upstream's names, with a class k that stands for "finding k present"; images, classes, and the noise
/// that the network sees in them at kLevel, in float32.
void write_for_peers(const Sampler& of, const at::Tensor& x, const at::Tensor& expected) {
  const std::string weights = daug::bench::peer_file("device_unet.weights.safetensors");
  if (weights.empty()) return;
  daug::NamedTensors tensors = daug::named_tensors(*of.network);
  const at::Tensor embedding = tensors.at("condition_embed.weight");
  tensors.erase("condition_embed.weight");
  tensors["label_emb.weight"] = embedding.narrow(1, 0, of.options.num_findings).t().contiguous();
  daug::save_weights(weights, tensors);
  const at::Tensor timesteps = at::full({x.size(0)}, daug::NoiseSchedule::linear().timestep(kLevel), at::kLong);
  const at::Tensor classes = at::arange(x.size(0), at::kLong) % of.options.num_findings;
  daug::save_weights(
      daug::bench::peer_file("device_unet.io.safetensors"),
      daug::NamedTensors{{"x", x}, {"timesteps", timesteps}, {"classes", classes}, {"output", expected}});
}

/// A sampler's call of U-256. `error`: of two items, to the same network in float32.
void unet_256(benchmark::State& state, Execution graphs) {
  const Sampler& of = sampler(256, kFindings, Prediction::kEps, at::kBFloat16, graphs);
  const std::int64_t batch = state.range(0);
  const at::Tensor x = images(batch, of.options), condition = one_present(batch, kFindings);
  const auto call = [&] { benchmark::DoNotOptimize(of.predictor->noise(x, kLevel, condition)); };
  get_ready("unet/" + of.name, call);
  measure(state, call, {1, is_small() ? 1 : 5});
  state.SetItemsProcessed(state.iterations() * batch);
  report_of_products(state, static_cast<double>(batch) * forward_flops(of.options, device()));
  state.counters["error"] = once("error/" + of.name, [&] {
    const c10::InferenceMode inference;
    const at::Tensor two = x.narrow(0, 0, 2), states = condition.narrow(0, 0, 2);
    const at::Tensor timesteps = at::full({2}, daug::NoiseSchedule::linear().timestep(kLevel), at::kLong);
    daug::DenoiserUNet network = of.network;
    const at::Tensor expected = network->forward(two, timesteps, states).narrow(1, 0, 1);
    once("peer files", [&] {
      write_for_peers(of, two, expected);
      return 0.0;
    });
    return daug::bench::relative_error(of.predictor->noise(two, kLevel, states), expected);
  });
}

/// DDIM steps of U-64 from one latent, without a target: a call of the network a step.
void walk_64(benchmark::State& state, Execution graphs, at::ScalarType type) {
  const Sampler& of = sampler(64, kFindings, Prediction::kV, type, graphs);
  daug::TranslatorOptions options;
  options.steps = state.range(0);
  const daug::DiffusionTranslator translator(of.predictor, daug::NoiseSchedule::linear(),
                                             daug::bench::finding_names(kFindings), options);
  const at::Tensor latent = images(1, of.options);
  const auto walk = [&] { benchmark::DoNotOptimize(translator.reconstruct(latent)); };
  get_ready("walk/" + of.name, walk);
  measure(state, walk, {0, 1});
  const double calls = static_cast<double>(options.steps);
  report_of_products(state, calls * forward_flops(of.options, device()));
}

/// Operations of a translator's calls on so many images.
double operations(const Sampler& of, const daug::DiffusionTranslator& translator, std::int64_t count,
                  std::size_t targets) {
  return static_cast<double>(count * translator.calls_per_image(targets).denoiser) *
         forward_flops(of.options, device());
}

/// One 256 x 256 image: up in 50 steps of so many evaluations, down in 50 to 13 targets at once, contrast guidance.
void targets_256(benchmark::State& state) {
  constexpr std::int64_t kTargets = 13;
  const Sampler& of = sampler(256, kTargets, Prediction::kV, at::kBFloat16, Execution::kFused);
  daug::TranslatorOptions options;
  options.evaluations = state.range(0);
  options.steps = is_small() ? 2 : 50;
  const daug::DiffusionTranslator translator(of.predictor, daug::NoiseSchedule::linear(),
                                             daug::bench::finding_names(kTargets), options);
  const auto all = daug::bench::away_from_each(translator.findings());
  const at::Tensor x = images(1, of.options);
  const auto translate = [&] { benchmark::DoNotOptimize(translator.decode(translator.encode(x), all)); };
  get_ready(fmt::format("targets/{}", options.evaluations), translate);
  measure(state, translate, {0, 1});
  report_of_products(state, operations(of, translator, 1, all.size()));
}

/// Maps of seven targets: evidence at three levels, or differences of 20-step translations with two evaluations an
/// encode step, contrast guidance.
void maps_256(benchmark::State& state, bool evidence) {
  constexpr std::int64_t kTargets = 7;
  const Sampler& of = sampler(256, kTargets, Prediction::kV, at::kBFloat16, Execution::kFused);
  const auto schedule = daug::NoiseSchedule::linear();
  const std::int64_t batch = state.range(0);
  daug::TranslatorOptions options;
  options.steps = is_small() ? 2 : 20;
  const daug::DiffusionTranslator translator(of.predictor, schedule, daug::bench::finding_names(kTargets), options);
  const auto all = daug::bench::away_from_each(translator.findings());
  const at::Tensor x = images(batch, of.options);
  std::vector<std::uint64_t> items(static_cast<std::size_t>(batch));
  std::iota(items.begin(), items.end(), 0);
  daug::EvidenceOptions levels;
  const auto make = [&] {
    benchmark::DoNotOptimize(evidence ? daug::evidence_maps(*of.predictor, schedule, x, items, kTargets, levels)
                                      : daug::difference_map(x, translator.decode(translator.encode(x), all)));
  };
  get_ready(evidence ? "evidence" : "difference", make);
  measure(state, make, {0, 1});
  const double draws = static_cast<double>(levels.levels.size()) * static_cast<double>(levels.samples);
  report_of_products(
      state, evidence ? 2.0 * kTargets * draws * static_cast<double>(batch) * forward_flops(of.options, device())
                      : operations(of, translator, batch, all.size()));
  state.counters["images_a_second"] =
      benchmark::Counter(static_cast<double>(batch), benchmark::Counter::kIsIterationInvariantRate);
}

/// A training of U-256 under autocast to bfloat16, inputs on the device.
struct Training {
  daug::DenoiserUNet network;
  at::Tensor x, timesteps, condition, target;
  daug::Trainer trainer;

  Training(daug::DenoiserUNet of, std::int64_t batch, const daug::TrainerOptions& options)
      : network(std::move(of)), trainer({network.ptr()}, options) {
    const daug::bench::UNetInputs in(network->options(), batch);
    x = in.x.to(device()), timesteps = in.timesteps.to(device());
    condition = one_present(batch, network->options().num_findings);
    const std::int64_t side = network->options().image_size;
    target = at::randn({batch, network->options().out_channels, side, side}, floats());
  }

  /// As many steps as the options say; losses are read after the last one.
  void run() {
    trainer.run([this](std::size_t, std::int64_t) {
      at::Tensor output;
      {
        const daug::Autocast autocast(daug::TrainingPrecision::kBfloat16, device());
        output = network->forward(x, timesteps, condition);
      }
      return at::mse_loss(output.to(at::kFloat), target);
    });
  }
};

/// Forward, backward, AdamW and running average of the weights; without clipping, as is the trainer's default.
void training_256(benchmark::State& state) {
  const std::int64_t batch = state.range(0);
  daug::TrainerOptions options;
  options.steps = is_small() ? 2 : 5;
  options.learning_rate = 1e-4, options.ema_decay = 0.9999;
  options.execution = kernels();
  static std::map<std::int64_t, std::unique_ptr<Training>> made;
  std::unique_ptr<Training>& training = made[batch];
  if (!training) {
    daug::DenoiserUNet network = daug::bench::make_unet(network_of(256, kFindings));
    network->to(device());
    training = std::make_unique<Training>(network, batch, options);
    training->run();
  }
  for (auto _ : state)
    state.SetIterationTime(daug::bench::seconds_of([&] { training->run(); }) / static_cast<double>(options.steps));
  daug::bench::profile([&] { training->run(); });
  state.SetItemsProcessed(state.iterations() * batch);
  report_of_products(state, 3 * static_cast<double>(batch) * forward_flops(training->network->options(), device()));
}

/// Times of steps of train_denoiser under autocast to bfloat16, which draws their batches on the CPU. A training, its
/// network and its graphs are made anew whenever the times of the last one have been given out.
class DenoiserSteps {
 public:
  DenoiserSteps(const daug::DenoiserUNetOptions& network, std::int64_t batch, Execution graphs)
      : images_(images(batch, network).to(at::kCPU)), states_(one_present(batch, kFindings).to(at::kCPU)) {
    options_.network = network;
    options_.batch_size = batch, options_.workers = 1;
    options_.device = device();
    options_.precision = daug::TrainingPrecision::kBfloat16;
    options_.graphs = device().is_cuda() ? graphs : Execution::kReference;
    options_.optimizer.steps = kBefore + kTimes * each_;
    options_.optimizer.read_every = options_.optimizer.steps;  // all losses after the last step
    options_.optimizer.learning_rate = 1e-4, options_.optimizer.ema_decay = 0.9999;
    options_.optimizer.execution = kernels();
  }

  /// Seconds of a step, a mean of the next few; nothing where a batch does not fit into memory.
  std::optional<double> next() {
    if (fits_ && given_ == times_.size()) train();
    return fits_ ? std::optional<double>(times_[given_++]) : std::nullopt;
  }

 private:
  static constexpr std::int64_t kBefore = 5;  ///< steps that are not timed: a plain one, one that is captured, others
  static constexpr std::int64_t kTimes = 20;  ///< a training

  void train() {
    times_.clear();
    given_ = 0;
    std::chrono::steady_clock::time_point start;
    daug::StopSource halved;
    daug::RunControl control;
    control.stop = halved.token();
    control.progress = [&](const daug::Progress& progress) {  // called between two steps
      if (progress.detail.find("out of memory") != std::string::npos) {
        fits_ = false;
        halved.request_stop();
      }
      const std::int64_t timed = progress.done - kBefore;
      if (timed < 0 || timed % each_ != 0) return;
      daug::bench::wait();
      const auto now = std::chrono::steady_clock::now();
      if (timed > 0) times_.push_back(std::chrono::duration<double>(now - start).count() / static_cast<double>(each_));
      start = now;
    };
    daug::train_denoiser(images_, states_, daug::NoiseSchedule::linear(), options_, control);
  }

  at::Tensor images_, states_;
  daug::DenoiserTrainerOptions options_;
  std::int64_t each_ = is_small() ? 1 : 5;  ///< steps behind a time
  std::vector<double> times_;
  std::size_t given_ = 0;
  bool fits_ = true;
};

/// What programs get that train a denoiser, batches included.
void denoiser_training(benchmark::State& state, std::int64_t side, Execution graphs) {
  const std::int64_t batch = state.range(0);
  const daug::DenoiserUNetOptions network = network_of(side, kFindings);
  static std::map<std::string, std::unique_ptr<DenoiserSteps>> made;
  std::unique_ptr<DenoiserSteps>& steps = made[fmt::format("{}/{}/{}", side, batch, static_cast<int>(graphs))];
  if (!steps) steps = std::make_unique<DenoiserSteps>(network, batch, graphs);
  for (auto _ : state) {
    const std::optional<double> seconds = steps->next();
    if (!seconds) return state.SkipWithError("a batch does not fit into the device's memory");
    state.SetIterationTime(*seconds);
  }
  state.SetItemsProcessed(state.iterations() * batch);
  report_of_products(state, 3 * static_cast<double>(batch) * forward_flops(network, device()));
}

}  // namespace

int main(int argc, char** argv) {
  if (!daug::bench::has_device("bench_device_translator")) return 1;
  daug::bench::add_torch_context();
  if (is_small()) benchmark::AddCustomContext("sizes", "small, to try programs out");
  daug::bench::register_rates();
  const auto sized = [](auto* each, std::int64_t size, std::int64_t small_size) {
    return each->Arg(is_small() ? small_size : size)->UseManualTime()->Unit(benchmark::kMillisecond);
  };
  for (const auto& [graphs, who] : {std::pair{Execution::kFused, "graph"}, {Execution::kReference, "eager"}}) {
    sized(benchmark::RegisterBenchmark(fmt::format("unet_256/{}/bfloat16", who).c_str(), unet_256, graphs), 26, 2);
    for (const auto& [type, name] : {std::pair{at::kFloat, "float32"}, {at::kBFloat16, "bfloat16"}})
      sized(benchmark::RegisterBenchmark(fmt::format("walk_64/{}/{}", who, name).c_str(), walk_64, graphs, type), 50,
            2);
    for (const std::int64_t side : {64, 256})
      sized(benchmark::RegisterBenchmark(fmt::format("denoiser_training_{}/{}/bfloat16", side, who).c_str(),
                                         denoiser_training, side, graphs),
            16, 2);
  }
  sized(benchmark::RegisterBenchmark("targets_256/graph/bfloat16", targets_256), 1, 1)->ArgName("evaluations")->Arg(2);
  sized(benchmark::RegisterBenchmark("maps_256/evidence/graph/bfloat16", maps_256, true), 4, 2);
  sized(benchmark::RegisterBenchmark("maps_256/difference/graph/bfloat16", maps_256, false), 4, 2);
  sized(benchmark::RegisterBenchmark("training_256/trainer/bfloat16", training_256), 16, 2);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  daug::bench::run_benchmarks();
}
