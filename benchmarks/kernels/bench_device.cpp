// Device kernels beside LibTorch's operators on the same tensors, a network's call and a guide's gradient replayed from
// CUDA graphs beside the plain ones (peers/bench_device_peers.py has Python's of the same names), and a search beside
// LibTorch's matmul and topk, on the first CUDA device; the rates of copying a large tensor and of multiplying large
// matrices of bfloat16 stand first, and `of_copy` and `of_products` are the parts of them that were reached.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
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

// LibTorch before this does not say what a device's tensors hold.
#define DAUG_BENCH_COUNTS_DEVICE_MEMORY \
  (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 9))
#if DAUG_BENCH_COUNTS_DEVICE_MEMORY
#include <c10/core/CachingDeviceAllocator.h>
#endif

namespace {

using daug::Execution;
using daug::bench::device;
using daug::bench::measure;
using daug::bench::once;
using daug::bench::relative_error;
using daug::bench::report_of_copy;
using daug::bench::report_of_products;

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

constexpr std::int64_t kLevel = 500;  ///< of calls of networks

daug::NetworkPrecision precision_of(at::ScalarType type) {
  return type == at::kFloat ? daug::NetworkPrecision::kFull : daug::NetworkPrecision::kBFloat16;
}

/// What `make` makes, once a process for each name: a graph that was captured serves all repetitions.
template <class Make>
auto made_once(const std::string& name, const Make& make) {
  static std::map<std::string, decltype(make())> made;
  const auto found = made.find(name);
  return found != made.end() ? found->second : made.emplace(name, make()).first->second;
}

/// A sampler's call of U-64, whose weights are rounded for bfloat16. `error`: to LibTorch's operators in float32.
void unet_64(benchmark::State& state, Execution graphs, at::ScalarType type) {
  daug::DenoiserUNetOptions options = daug::bench::unet_with_findings(64, 15);
  options.execution = Execution::kFused;
  const auto schedule = daug::NoiseSchedule::linear();
  const std::string name = fmt::format("unet_64/{}/{}", static_cast<int>(graphs), static_cast<int>(type));
  const auto predictor = made_once(name, [&] {
    daug::DenoiserUNet network = daug::bench::make_unet(options);
    network->to(device());
    return daug::make_noise_predictor(network, schedule, daug::Prediction::kEps, {}, precision_of(type), graphs);
  });
  const daug::bench::UNetInputs in(options, state.range(0));
  const at::Tensor x = in.x.to(device()), condition = in.condition.to(device());
  measure(state, [&] { benchmark::DoNotOptimize(predictor->noise(x, kLevel, condition)); }, {1, 10});
  report_of_products(state, static_cast<double>(x.size(0)) * daug::bench::forward_flops(options, device()));
  state.counters["error"] = once("error/" + name, [&] {
    daug::DenoiserUNet network = daug::bench::make_unet(daug::bench::plain(options));
    network->to(device());
    const c10::InferenceMode inference;
    const at::Tensor timesteps = at::full({x.size(0)}, schedule.timestep(kLevel), at::kLong);
    const at::Tensor expected = network->forward(x, timesteps, condition).narrow(1, 0, 1);
    return relative_error(predictor->noise(x, kLevel, condition), expected);
  });
}

/// The classifier that guides U-64, with the same weights whatever computes it.
daug::NoiseAwareClassifier classifier_64(Execution execution) {
  const auto trunk = daug::bench::fixed_unet(64);
  daug::NoiseAwareClassifierOptions options;
  options.image_size = trunk.image_size, options.model_channels = trunk.model_channels;
  options.channel_mult = trunk.channel_mult, options.attention_downsample = trunk.attention_downsample;
  options.num_head_channels = 64, options.out_channels = 15;
  options.execution = execution;
  at::manual_seed(0);
  daug::NoiseAwareClassifier network(options);
  daug::bench::fill_zeros(*network);
  network->to(device());
  return network;
}

/// The gradient of a guide on the way down of U-64, with weights and `error` as above. It takes about as many
/// operations on the way back, to the image alone, as on the way to the likelihood.
void guide_64(benchmark::State& state, Execution graphs, at::ScalarType type) {
  const auto guide_of = [](Execution execution, daug::NetworkPrecision precision, Execution replayed) {
    return daug::make_guidance_classifier(classifier_64(execution), daug::NoiseSchedule::linear(),
                                          daug::GuidanceHead::kSigmoid, {}, precision, replayed);
  };
  const std::string name = fmt::format("guide_64/{}/{}", static_cast<int>(graphs), static_cast<int>(type));
  const auto guide = made_once(name, [&] { return guide_of(Execution::kFused, precision_of(type), graphs); });
  const auto floats = at::TensorOptions(at::kFloat).device(device());
  at::manual_seed(1);
  const at::Tensor x = at::randn({state.range(0), 1, 64, 64}, floats);
  const at::Tensor condition = at::ones({state.range(0), 15}, floats);
  measure(state, [&] { benchmark::DoNotOptimize(guide->gradient(x, kLevel, condition)); }, {1, 10});
  const double forward = once("flops/guide_64", [&] {
    daug::NoiseAwareClassifier network = classifier_64(Execution::kReference);
    const c10::InferenceMode inference;
    const at::Tensor timesteps = at::full({1}, kLevel, at::kLong);
    return daug::bench::count_flops([&] { network->forward(x.narrow(0, 0, 1), timesteps); });
  });
  report_of_products(state, 2 * static_cast<double>(x.size(0)) * forward);
  state.counters["error"] = once("error/" + name, [&] {
    const auto plain = guide_of(Execution::kReference, daug::NetworkPrecision::kFull, Execution::kReference);
    return relative_error(guide->gradient(x, kLevel, condition), plain->gradient(x, kLevel, condition));
  });
}

using ClipLoss = at::Tensor (*)(const at::Tensor& image, const at::Tensor& text);

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

/// What the class term reads beside embeddings of so many items: prompts of 14 findings on the device, and labels on
/// the CPU, where batches are made. Made once a process.
const daug::HybridLossInputs& findings(std::int64_t items) {
  static std::map<std::int64_t, daug::HybridLossInputs> made;
  daug::HybridLossInputs& found = made[items];
  if (!found.labels.defined()) {
    constexpr std::int64_t kFindings = 14;
    found.labels = at::rand({items, kFindings}).lt(0.2).to(at::kFloat);
    found.class_prompts = at::randn({kFindings, 512}, at::TensorOptions(at::kBFloat16).device(device()));
  }
  return found;
}

/// Both terms, weighed alike, as they are written with LibTorch's operators.
at::Tensor eager_both_terms(const at::Tensor& image, const at::Tensor& text) {
  const daug::HybridLossInputs& of = findings(image.size(0));
  const at::Tensor v = image / image.norm(2, 1, true);
  const at::Tensor c = std::exp(4.602) * of.class_prompts / of.class_prompts.norm(2, 1, true);
  const at::Tensor labels = of.labels.to(device());
  const at::Tensor class_term = at::binary_cross_entropy_with_logits(v.matmul(c.t()).to(at::kFloat), labels);
  return (eager_clip_loss(image, text) + class_term) / 2;
}

/// The same, the contrastive term in tiles of the device kernels.
at::Tensor fused_both_terms(const at::Tensor& image, const at::Tensor& text) {
  daug::HybridLossInputs inputs = findings(image.size(0));
  inputs.image = image, inputs.text = text;
  daug::HybridLossOptions options;
  options.clip_weight = 0.5, options.execution = Execution::kFused;
  return daug::hybrid_contrastive_loss(inputs, options).total;
}

/// Largest error of the gradients by bfloat16 embeddings, each to the largest number of that by the same embeddings in
/// float32 and in tiles of ATen operations.
double gradient_error(ClipLoss loss, const at::Tensor& image, const at::Tensor& text) {
  const auto gradients = [&](ClipLoss of, at::ScalarType type) {
    const at::Tensor v = image.detach().to(type).requires_grad_(true), t = text.detach().to(type).requires_grad_(true);
    return torch::autograd::grad({of(v, t)}, {v, t});
  };
  const auto actual = gradients(loss, image.scalar_type()), expected = gradients(&aten_clip_loss, at::kFloat);
  double error = 0;
  for (std::size_t side = 0; side < actual.size(); ++side)
    error = std::max(error, relative_error(actual[side].to(at::kFloat), expected[side]));
  return error;
}

#if DAUG_BENCH_COUNTS_DEVICE_MEMORY
/// Most bytes that tensors on the device hold during `work`, beside those that are there before.
template <class Work>
double peak_bytes(const Work& work) {
  c10::DeviceAllocator& allocator = *c10::getDeviceAllocator(at::kCUDA);
  const auto held = [&] { return allocator.getDeviceStats(device().index()).requested_bytes[0]; };
  allocator.resetPeakStats(device().index());
  const std::int64_t before = held().current;
  work();
  return static_cast<double>(held().peak - before);
}
#endif

/// Forward and backward. Products: the scores, again in tiles for the gradients, and the gradients of both sides; those
/// of the eager form are one fewer, and count the same. Those of the class term are next to nothing.
void hybrid_loss(benchmark::State& state, ClipLoss loss) {
  constexpr std::int64_t kWidth = 512;
  const std::int64_t items = state.range(0);
  const auto options = at::TensorOptions(at::kBFloat16).device(device());
  const at::Tensor image = at::randn({items, kWidth}, options).requires_grad_(true);
  const at::Tensor text = (at::randn({items, kWidth}, options) + image.detach()).requires_grad_(true);
  const auto forget = [&] { image.mutable_grad() = text.mutable_grad() = at::Tensor(); };
  const auto work = [&] {
    forget();
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
  report_of_products(state, operations);
  if (loss != &fused_clip_loss) return;
  forget();
  state.counters["error"] =
      once(fmt::format("hybrid_loss/{}", items), [&] { return gradient_error(loss, image, text); });
#if DAUG_BENCH_COUNTS_DEVICE_MEMORY
  state.counters["peak_MB"] = peak_bytes(work) / 1e6;
  state.counters["bound_MB"] = 2000;
#endif
}

/// 13 maps of each image, 256 x 256 to 224 x 224, in float32 or float16.
void encoder_maps(benchmark::State& state, daug::EncoderMapOptions maps) {
  const auto options = at::TensorOptions(at::kFloat).device(device());
  const at::Tensor x = at::randn({state.range(0), 1, 256, 256}, options),
                   images = at::randn({state.range(0), 13, 1, 256, 256}, options);
  maps.height = 224, maps.width = 224;
  std::optional<daug::MapCalibration> healthy;
  if (maps.normalization == daug::MapNormalization::kCalibrated)
    healthy = daug::MapCalibration::fit(at::randn({3, 13, 256, 256}, options).abs(), std::vector<std::string>(13, "a"));
  std::size_t written = 0;
  // The operators, in float64 in parts, take long.
  const daug::bench::Calls calls =
      maps.execution == Execution::kFused ? daug::bench::Calls{} : daug::bench::Calls{1, 2};
  measure(
      state, [&] { written = daug::encoder_maps(x, images, maps, nullptr, healthy ? &*healthy : nullptr).nbytes(); },
      calls);
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
  const auto work = [&] {
    at::Tensor image = daug::resized(images, 256, 256, /*antialias=*/true, execution), maps;
    written = image.nbytes();
    augmenter.augment(image, maps, ids, 0, execution);
    benchmark::DoNotOptimize(image);
  };
  measure(state, work, execution == Execution::kFused ? daug::bench::Calls{} : daug::bench::Calls{1, 5});
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

/// The same as an index, made once a process.
const daug::RetrievalIndex& index_of_items() {
  static const daug::RetrievalIndex index = [] {
    daug::RetrievalIndex made(kWidth, daug::Metric::kInnerProduct, "", {daug::Storage::kFloat32});
    std::vector<std::int64_t> ids(static_cast<std::size_t>(kItems));
    std::iota(ids.begin(), ids.end(), 0);
    made.add(ids, matrix(items()));
    return made;
  }();
  return index;
}

/// How often a search is called: products of many queries in float32 take long.
daug::bench::Calls search_calls(const benchmark::State& state) {
  return state.range(0) < 1000 ? daug::bench::Calls{1, 10} : daug::bench::Calls{1, 2};
}

/// Of all items, each read once, and their products with all queries.
void report_of_search(benchmark::State& state, at::ScalarType type) {
  const double components = static_cast<double>(kItems) * static_cast<double>(kWidth);
  report_of_copy(state, components * static_cast<double>(at::elementSize(type)));
  report_of_products(state, 2 * components * static_cast<double>(state.range(0)));
}

/// Ids and scores on the CPU, from queries that lie there. `resident`: the items stay on the device, else every search
/// sends them there.
void search(benchmark::State& state, at::ScalarType type, bool resident) {
  static std::map<std::pair<at::ScalarType, bool>, daug::DeviceSearch> searches;
  const std::pair kind{type, resident};
  if (searches.count(kind) == 0) {
    daug::DeviceSearchOptions options;
    if (!resident) options.memory_budget = std::int64_t{1} << 30;
    options.storage = type == at::kFloat      ? daug::Storage::kFloat32
                      : type == at::kBFloat16 ? daug::Storage::kBFloat16
                                              : daug::Storage::kInt8;
    options.execution = Execution::kFused;
    searches.try_emplace(kind, index_of_items(), device(), options);
  }
  const daug::DeviceSearch& searched = searches.at(kind);
  if (searched.resident() != resident) return state.SkipWithError("the items lie elsewhere than they should");
  const at::Tensor queries = at::randn({state.range(0), kWidth});
  const daug::RowMatrix rows = matrix(queries);
  measure(
      state, [&] { benchmark::DoNotOptimize(searched.search(rows, kHits)); }, search_calls(state));
  report_of_search(state, type);
}

/// Rows as they are multiplied on the device; of int8 as whole numbers.
at::Tensor coded(const at::Tensor& rows, at::ScalarType type) {
  if (type != at::kChar) return rows.to(device(), type);
  return (rows * (127.0 / rows.abs().max().item<double>())).round().to(device(), type);
}

/// LibTorch's product, and its topk where `select` is.
void matmul_topk(benchmark::State& state, at::ScalarType type, bool select) {
  static std::map<at::ScalarType, at::Tensor> on_device;
  at::Tensor& rows = on_device[type];
  if (!rows.defined()) rows = coded(items(), type);
  const at::Tensor queries = coded(at::randn({state.range(0), kWidth}), type);
  const auto work = [&] {
    const at::Tensor scores = type == at::kChar ? at::_int_mm(queries, rows.t()) : at::mm(queries, rows.t());
    if (select) benchmark::DoNotOptimize(scores.topk(kHits));
  };
  measure(state, work, search_calls(state));
  report_of_search(state, type);
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
  for (const auto& [who, loss] : {std::pair{"fused", &fused_both_terms}, {"eager", &eager_both_terms}})
    benchmark::RegisterBenchmark(fmt::format("hybrid_loss/class/{}/bfloat16", who).c_str(), hybrid_loss, loss)
        ->Arg(32768)
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
          ->Arg(2048)
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
    for (const std::string name : {"min_max", "quantile", "calibrated", "wide_blur"})
      for (const auto& [half, type] : {std::pair{false, "float32"}, {true, "float16"}}) {
        if (half && (name == "calibrated" || name == "wide_blur")) continue;
        daug::EncoderMapOptions maps;
        maps.normalization =
            name == "calibrated" ? daug::MapNormalization::kCalibrated : daug::MapNormalization::kMinMax;
        maps.sigma = name == "wide_blur" ? 8 : 1;  // that of a run of such images, or little
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
  for (const auto& [type, name] :
       {std::pair{at::kFloat, "float32"}, {at::kBFloat16, "bfloat16"}, {at::kChar, "int8"}}) {
    const auto sized = [](auto* each) { each->Arg(64)->Arg(1000)->UseManualTime()->Unit(benchmark::kMicrosecond); };
    sized(benchmark::RegisterBenchmark(fmt::format("search/fused/{}", name).c_str(), search, type, true));
    if (type != at::kChar)
      sized(benchmark::RegisterBenchmark(fmt::format("search/aten/{}", name).c_str(), matmul_topk, type, true));
    sized(benchmark::RegisterBenchmark(fmt::format("search/product/{}", name).c_str(), matmul_topk, type, false));
    if (type == at::kFloat) sized(benchmark::RegisterBenchmark("search/streamed/float32", search, type, false));
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  daug::bench::run_benchmarks();
}
