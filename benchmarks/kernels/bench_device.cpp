// Device kernels beside LibTorch's operators on the same tensors, a network's call and a guide's gradient replayed from
// CUDA graphs beside the plain ones (peers/bench_device_peers.py has Python's of the same names), and a search beside
// LibTorch's matmul and topk, on the first CUDA device; the rates of copying a large tensor and of multiplying large
// matrices of bfloat16 stand first, and `of_copy` and `of_products` are the parts of them that were reached.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <exception>
#include <iostream>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "backend/adamw.h"
#include "backend/fitting_rows.h"
#include "backend/fused_ops.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/image/tensor_resize.h"
#include "daug/index/device_search.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "daug/translator/noise_aware_classifier.h"
#include "loss/tile_math.h"
#include "support/device.h"
#include "support/networks.h"
#include "support/torch_context.h"

namespace {

using daug::Execution;
using daug::bench::device;
using daug::bench::measure;
using daug::bench::report_of_copy;

void group_norm_silu(benchmark::State& state, Execution execution, at::ScalarType type, at::MemoryFormat format) {
  const std::int64_t batch = state.range(0), channels = state.range(1), side = state.range(2);
  const auto options = at::TensorOptions(type).device(device());
  const at::Tensor x = at::randn({batch, channels, side, side}, options).contiguous(format);
  const at::Tensor weight = at::randn({channels}, options), bias = at::randn({channels}, options);
  daug::backend::GroupNormExtras extras;
  extras.scale = at::randn({batch, channels}, options), extras.shift = at::randn({batch, channels}, options);
  measure(state, [&] {
    benchmark::DoNotOptimize(daug::backend::group_norm_silu(x, 32, weight, bias, 1e-5, extras, execution));
  });
  report_of_copy(state, 2.0 * static_cast<double>(x.nbytes()));
}

/// The same forward and backward, as in a training step. Read or written once: x and y; then x, the gradients of y and
/// of x.
void group_norm_silu_gradient(benchmark::State& state, Execution execution, at::ScalarType type,
                              at::MemoryFormat format) {
  const std::int64_t batch = state.range(0), channels = state.range(1), side = state.range(2);
  const auto options = at::TensorOptions(type).device(device());
  const auto leaf = [&](const std::vector<std::int64_t>& shape) {
    return at::randn(shape, options).requires_grad_(true);
  };
  const at::Tensor x = at::randn({batch, channels, side, side}, options).contiguous(format).requires_grad_(true);
  const at::Tensor weight = leaf({channels}), bias = leaf({channels});
  daug::backend::GroupNormExtras extras;
  extras.scale = leaf({batch, channels}), extras.shift = leaf({batch, channels});
  const at::Tensor upstream = at::randn_like(x.detach());
  const auto work = [&] {
    const at::Tensor y = daug::backend::group_norm_silu(x, 32, weight, bias, 1e-5, extras, execution);
    benchmark::DoNotOptimize(torch::autograd::grad({y}, {x, weight, bias, extras.scale, extras.shift}, {upstream}));
  };
  measure(state, work, {3, 20, /*with_gradients=*/true});
  report_of_copy(state, 5.0 * static_cast<double>(x.nbytes()));
}

/// The layout that networks have in this type.
at::MemoryFormat format_of(at::ScalarType type) {
  return type == at::kFloat ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
}

/// A norm and its input in another size, as a residual block makes them that changes it.
void group_norm_silu_resized(benchmark::State& state, Execution execution, at::ScalarType type,
                             daug::backend::SizeChange change) {
  const std::int64_t batch = state.range(0), channels = state.range(1), side = state.range(2);
  const auto options = at::TensorOptions(type).device(device());
  const at::Tensor x = at::randn({batch, channels, side, side}, options).contiguous(format_of(type));
  const at::Tensor weight = at::randn({channels}, options), bias = at::randn({channels}, options);
  measure(state, [&] {
    benchmark::DoNotOptimize(daug::backend::group_norm_silu_resized(x, 32, weight, bias, 1e-5, change, execution));
  });
  const double written = change == daug::backend::SizeChange::kHalved ? 0.25 : 4;
  report_of_copy(state, (1 + 2 * written) * static_cast<double>(x.nbytes()));
}

void solver_update(benchmark::State& state, Execution execution, at::ScalarType type) {
  const auto options = at::TensorOptions(type).device(device());
  const auto image = [&] { return at::randn({state.range(0), 1, 256, 256}, options); };
  const at::Tensor x = image();
  daug::GuidedNoise noise = image();
  noise.second = image(), noise.weight = 2;
  const daug::backend::SolverStep step{1.01, -0.02};
  measure(state, [&] { benchmark::DoNotOptimize(daug::backend::solver_update(x, noise, step, execution)); });
  report_of_copy(state, 4.0 * static_cast<double>(x.nbytes()));
}

/// The end of a residual block, in place or doubled as networks have it.
void residual_add(benchmark::State& state, Execution execution, at::ScalarType type, bool doubled) {
  const std::int64_t batch = state.range(0), channels = state.range(1), side = state.range(2);
  const auto options = at::TensorOptions(type).device(device());
  const at::Tensor h = at::randn({batch, channels, side, side}, options).contiguous(format_of(type));
  const at::Tensor skip = at::randn({batch, channels, side, side}, options).contiguous(format_of(type));
  const at::Tensor bias = at::randn({channels}, options);
  const auto add = doubled ? daug::backend::residual_add_doubled : daug::backend::residual_add;
  measure(state, [&] { benchmark::DoNotOptimize(add(h, skip, bias, /*in_place=*/true, execution)); });
  report_of_copy(state, (doubled ? 6.0 : 3.0) * static_cast<double>(h.nbytes()));
}

/// A step of AdamW with clipping and average, as a training on a device makes it, of so many parameters.
void adamw(benchmark::State& state, Execution execution) {
  const auto options = at::TensorOptions(at::kFloat).device(device());
  const auto numbers = [&] { return at::randn({state.range(0)}, options); };
  daug::backend::AdamwGroup group;
  group.weights = numbers(), group.gradient = numbers(), group.average = numbers();
  group.first_moment = at::zeros_like(group.weights), group.second_moment = at::zeros_like(group.weights);
  group.steps = at::zeros({}, options);
  group.rate = 1e-4, group.decay = 0.01;
  daug::backend::AdamwSettings settings;
  settings.average_decay = 0.999;
  settings.factor = at::ones({}, options.dtype(at::kDouble));
  settings.applied = at::ones({}, options.dtype(at::kBool));
  measure(state, [&] { daug::backend::adamw({group}, settings, execution); });
  report_of_copy(state, 9.0 * static_cast<double>(group.weights.nbytes()));  // five are read, four written
}

/// A sampler's call of U-64, whose weights are rounded for bfloat16.
void unet_64(benchmark::State& state, Execution graphs, at::ScalarType type) {
  const auto precision = type == at::kFloat ? daug::NetworkPrecision::kFull : daug::NetworkPrecision::kBFloat16;
  const auto options = daug::bench::unet_with_findings(64, 15);
  daug::DenoiserUNet network = daug::bench::make_unet(options);
  network->to(device());
  const auto predictor =
      daug::make_noise_predictor(network, daug::NoiseSchedule::linear(), daug::Prediction::kEps, {}, precision, graphs);
  const daug::bench::UNetInputs in(options, state.range(0));
  const at::Tensor x = in.x.to(device()), condition = in.condition.to(device());
  measure(state, [&] { benchmark::DoNotOptimize(predictor->noise(x, 500, condition)); });
}

/// The gradient of a guide on the way down of U-64, with weights as above.
void guide_64(benchmark::State& state, Execution graphs, at::ScalarType type) {
  const auto precision = type == at::kFloat ? daug::NetworkPrecision::kFull : daug::NetworkPrecision::kBFloat16;
  const auto trunk = daug::bench::fixed_unet(64);
  daug::NoiseAwareClassifierOptions options;
  options.image_size = trunk.image_size, options.model_channels = trunk.model_channels;
  options.channel_mult = trunk.channel_mult, options.attention_downsample = trunk.attention_downsample;
  options.num_head_channels = 64, options.out_channels = 15;
  at::manual_seed(0);
  daug::NoiseAwareClassifier network(options);
  daug::bench::fill_zeros(*network);
  network->to(device());
  const auto guide = daug::make_guidance_classifier(network, daug::NoiseSchedule::linear(),
                                                    daug::GuidanceHead::kSigmoid, {}, precision, graphs);
  const auto floats = at::TensorOptions(at::kFloat).device(device());
  const at::Tensor x = at::randn({state.range(0), 1, 64, 64}, floats);
  const at::Tensor condition = at::ones({state.range(0), 15}, floats);
  measure(state, [&] { benchmark::DoNotOptimize(guide->gradient(x, 500, condition)); });
}

/// CLIP's loss as it is written with LibTorch's operators: scores in the embeddings' type, cross-entropies in float32.
at::Tensor eager_clip_loss(const at::Tensor& image, const at::Tensor& text) {
  const at::Tensor v = image / image.norm(2, 1, true), t = std::exp(4.602) * text / text.norm(2, 1, true);
  const at::Tensor scores = t.matmul(v.t()).to(at::kFloat);
  const at::Tensor own = at::arange(v.size(0), at::TensorOptions(at::kLong).device(device()));
  return (at::cross_entropy_loss(scores, own) + at::cross_entropy_loss(scores.t(), own)) / 2;
}

/// The contrastive term in tiles of the device kernels.
at::Tensor fused_clip_loss(const at::Tensor& image, const at::Tensor& text) {
  daug::HybridLossInputs inputs;
  inputs.image = image, inputs.text = text;
  daug::HybridLossOptions options;
  options.clip_weight = 1, options.execution = Execution::kFused;
  return daug::hybrid_contrastive_loss(inputs, options).total;
}

/// The same in tiles of ATen operations, as large as without the kernels.
at::Tensor aten_clip_loss(const at::Tensor& image, const at::Tensor& text) {
  static const auto math = daug::detail::aten_tile_math(2048, 2048);
  const daug::detail::TileMathGuard guard(*math);
  return fused_clip_loss(image, text);
}

/// Forward and backward. Products: the scores, again in tiles for the gradients, and the gradients of both sides; those
/// of the eager form are one fewer, and count the same.
void hybrid_loss(benchmark::State& state, at::Tensor (*loss)(const at::Tensor& image, const at::Tensor& text)) {
  constexpr std::int64_t kWidth = 512;
  const std::int64_t items = state.range(0);
  const auto options = at::TensorOptions(at::kBFloat16).device(device());
  const at::Tensor image = at::randn({items, kWidth}, options).requires_grad_(true);
  const at::Tensor text = (at::randn({items, kWidth}, options) + image.detach()).requires_grad_(true);
  const auto work = [&] {
    image.mutable_grad() = text.mutable_grad() = at::Tensor();
    loss(image, text).backward();
  };
  try {
    for (int i = 0; i < 2; ++i) work();
  } catch (const std::exception& error) {
    if (!daug::backend::out_of_memory(error)) throw;
    state.SkipWithError("the matrices do not fit into the device's memory");
    return;
  }
  measure(state, work, {0, 1, /*with_gradients=*/true});
  const double operations = 8.0 * static_cast<double>(items) * static_cast<double>(items) * kWidth;
  daug::bench::report_of_products(state, operations);
}

/// 13 maps of each image, 256 x 256 to 224 x 224, in float32 or float16.
void encoder_maps(benchmark::State& state, daug::EncoderMapOptions maps) {
  const auto options = at::TensorOptions(at::kFloat).device(device());
  const at::Tensor x = at::randn({state.range(0), 1, 256, 256}, options),
                   images = at::randn({state.range(0), 13, 1, 256, 256}, options);
  maps.sigma = 1, maps.height = 224, maps.width = 224;
  std::optional<daug::MapCalibration> healthy;
  if (maps.normalization == daug::MapNormalization::kCalibrated)
    healthy = daug::MapCalibration::fit(at::randn({3, 13, 256, 256}, options).abs(), std::vector<std::string>(13, "a"));
  std::size_t written = 0;
  measure(state,
          [&] { written = daug::encoder_maps(x, images, maps, nullptr, healthy ? &*healthy : nullptr).nbytes(); });
  report_of_copy(state, static_cast<double>(x.nbytes() + images.nbytes() + written));
}

/// 1024 x 1024 to 256 x 256, then one affine change and gray levels an image, as a training draws them.
void resize_augment(benchmark::State& state, Execution execution) {
  const std::int64_t batch = state.range(0);
  const at::Tensor images = at::rand({batch, 1, 1024, 1024}, at::TensorOptions(at::kFloat).device(device())) * 2 - 1;
  daug::ChannelAugmenterOptions options;
  options.max_rotation = 10, options.max_shift = 0.05, options.max_scale = 0.1;
  options.max_brightness = 0.1, options.max_contrast = 0.1;
  const daug::HeatmapChannelAugmenter augmenter(options);
  std::vector<std::uint64_t> ids(static_cast<std::size_t>(batch));
  std::iota(ids.begin(), ids.end(), 0);
  std::size_t written = 0;
  measure(state, [&] {
    at::Tensor image = daug::resized(images, 256, 256, /*antialias=*/true, execution), maps;
    written = image.nbytes();
    augmenter.augment(image, maps, ids, 0);
    benchmark::DoNotOptimize(image);
  });
  report_of_copy(state, static_cast<double>(images.nbytes() + 3 * written));  // the small images are read once more
}

constexpr std::int64_t kItems = 1000000, kWidth = 512, kHits = 10;

/// Vectors of length 1, made once a process.
const at::Tensor& items() {
  static const at::Tensor rows = [] {
    const at::Tensor random = at::randn({kItems, kWidth});
    return random / random.norm(2, {1}, /*keepdim=*/true);
  }();
  return rows;
}

Eigen::Map<const daug::RowMatrix> matrix(const at::Tensor& rows) {
  return {rows.const_data_ptr<float>(), rows.size(0), rows.size(1)};
}

/// Ids and scores on the CPU, from queries that lie there.
void search(benchmark::State& state, at::ScalarType type) {
  static std::map<at::ScalarType, daug::DeviceSearch> searches;
  if (searches.count(type) == 0) {
    daug::RetrievalIndex index(kWidth, daug::Metric::kInnerProduct, "", {daug::Storage::kFloat32});
    std::vector<std::int64_t> ids(static_cast<std::size_t>(kItems));
    std::iota(ids.begin(), ids.end(), 0);
    index.add(ids, matrix(items()));
    daug::DeviceSearchOptions options;
    options.storage = type == at::kFloat      ? daug::Storage::kFloat32
                      : type == at::kBFloat16 ? daug::Storage::kBFloat16
                                              : daug::Storage::kInt8;
    options.execution = Execution::kFused;
    searches.try_emplace(type, index, device(), options);
  }
  const at::Tensor queries = at::randn({state.range(0), kWidth});
  const daug::RowMatrix rows = matrix(queries);
  measure(state, [&] { benchmark::DoNotOptimize(searches.at(type).search(rows, kHits)); });
}

/// LibTorch's product, and its topk where `select` is.
void matmul_topk(benchmark::State& state, at::ScalarType type, bool select) {
  static std::map<at::ScalarType, at::Tensor> on_device;
  at::Tensor& rows = on_device[type];
  if (!rows.defined()) rows = items().to(device(), type);
  const at::Tensor queries = at::randn({state.range(0), kWidth}).to(device(), type);
  measure(state, [&] {
    const at::Tensor scores = at::mm(queries, rows.t());
    if (select) benchmark::DoNotOptimize(scores.topk(kHits));
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (!device().is_cuda()) {
    std::cerr << "bench_device: only for CUDA devices, not " << device() << "\n";
    return 1;
  }
  if (!daug::bench::has_device("bench_device")) return 1;
  daug::bench::add_torch_context();
  daug::bench::register_rates();
  for (const auto& [who, loss] :
       {std::pair{"fused", &fused_clip_loss}, {"aten", &aten_clip_loss}, {"eager", &eager_clip_loss}})
    benchmark::RegisterBenchmark(fmt::format("hybrid_loss/{}/bfloat16", who).c_str(), hybrid_loss, loss)
        ->Arg(8192)
        ->Arg(32768)
        ->Arg(65536)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  for (const auto& [execution, who] : {std::pair{Execution::kFused, "fused"}, {Execution::kReference, "aten"}})
    for (const auto& [type, name] : {std::pair{at::kFloat, "float32"}, {at::kBFloat16, "bfloat16"}}) {
      for (const auto& [format, layout] :
           {std::pair{at::MemoryFormat::Contiguous, "nchw"}, {at::MemoryFormat::ChannelsLast, "channels_last"}}) {
        benchmark::RegisterBenchmark(fmt::format("group_norm_silu/{}/{}/{}", who, name, layout).c_str(),
                                     group_norm_silu, execution, type, format)
            ->Args({1, 128, 256})
            ->Args({26, 128, 256})
            ->Args({26, 512, 32})
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
        benchmark::RegisterBenchmark(fmt::format("group_norm_silu_gradient/{}/{}/{}", who, name, layout).c_str(),
                                     group_norm_silu_gradient, execution, type, format)
            ->Args({16, 128, 256})
            ->Args({16, 512, 32})
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
      }
      for (const auto& [change, size, side] : {std::tuple{daug::backend::SizeChange::kHalved, "halved", 256},
                                               {daug::backend::SizeChange::kDoubled, "doubled", 128}})
        benchmark::RegisterBenchmark(fmt::format("group_norm_silu/{}/{}/{}", who, name, size).c_str(),
                                     group_norm_silu_resized, execution, type, change)
            ->Args({26, 128, side})
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
      benchmark::RegisterBenchmark(fmt::format("residual_add/{}/{}", who, name).c_str(), residual_add, execution, type,
                                   false)
          ->Args({26, 128, 256})
          ->Args({26, 512, 32})
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
      benchmark::RegisterBenchmark(fmt::format("residual_add/{}/{}/doubled", who, name).c_str(), residual_add,
                                   execution, type, true)
          ->Args({26, 128, 128})
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
      benchmark::RegisterBenchmark(fmt::format("solver_update/{}/{}", who, name).c_str(), solver_update, execution,
                                   type)
          ->Arg(8)
          ->Arg(512)
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
    }
  for (const auto& [execution, who] : {std::pair{Execution::kFused, "fused"}, {Execution::kReference, "aten"}})
    benchmark::RegisterBenchmark(fmt::format("adamw/{}/float32", who).c_str(), adamw, execution)
        ->Arg(1 << 20)
        ->Arg(100000003)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  for (const auto& [graphs, who] : {std::pair{Execution::kFused, "graph"}, {Execution::kReference, "eager"}})
    for (const auto& [type, name] : {std::pair{at::kFloat, "float32"}, {at::kBFloat16, "bfloat16"}})
      for (const auto& [network, call] : {std::pair{"unet_64", &unet_64}, {"guide_64", &guide_64}})
        benchmark::RegisterBenchmark(fmt::format("{}/{}/{}", network, who, name).c_str(), call, graphs, type)
            ->Arg(1)
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
  for (const auto& [execution, who] : {std::pair{Execution::kFused, "fused"}, {Execution::kReference, "aten"}})
    for (const std::string name : {"min_max", "quantile", "calibrated"})
      for (const auto& [half, type] : {std::pair{false, "float32"}, {true, "float16"}}) {
        if (half && name == "calibrated") continue;
        daug::EncoderMapOptions maps;
        maps.normalization =
            name == "calibrated" ? daug::MapNormalization::kCalibrated : daug::MapNormalization::kMinMax;
        maps.upper_quantile = name == "quantile" ? 0.99 : 1, maps.half = half, maps.execution = execution;
        benchmark::RegisterBenchmark(fmt::format("encoder_maps/{}/{}/{}", who, type, name).c_str(), encoder_maps, maps)
            ->Arg(64)
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
      }
  for (const auto& [execution, who] : {std::pair{Execution::kFused, "fused"}, {Execution::kReference, "aten"}})
    benchmark::RegisterBenchmark(fmt::format("resize_augment/{}/float32", who).c_str(), resize_augment, execution)
        ->Arg(256)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  for (const auto& [type, name] : {std::pair{at::kFloat, "float32"}, {at::kBFloat16, "bfloat16"}}) {
    const auto sized = [](auto* each) { each->Arg(64)->Arg(1000)->UseManualTime()->Unit(benchmark::kMicrosecond); };
    sized(benchmark::RegisterBenchmark(fmt::format("search/fused/{}", name).c_str(), search, type));
    sized(benchmark::RegisterBenchmark(fmt::format("search/aten/{}", name).c_str(), matmul_topk, type, true));
    sized(benchmark::RegisterBenchmark(fmt::format("search/product/{}", name).c_str(), matmul_topk, type, false));
    if (type == at::kBFloat16) sized(benchmark::RegisterBenchmark("search/fused/int8", search, at::kChar));
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
