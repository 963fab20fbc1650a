// Fused CPU kernels against LibTorch's operators on the same data, with one thread and with two, beside what the memory
// can do: "of_copy" is the fraction of the rate at which large arrays are copied that was reached, counting every input
// and output once; what lies in a cache may exceed 1.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "backend/conv3x3.h"
#include "backend/fused_ops.h"
#include "backend/threads.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/heatmap/maps.h"
#include "support/rates.h"
#include "support/torch_context.h"

namespace {

using daug::Execution;

/// Sets the threads and, in the end, the rates; `bytes` are those of every input and output once.
class Run {
 public:
  Run(benchmark::State& state, int threads, std::int64_t bytes) : state_(state), bytes_(bytes) {
    at::set_num_threads(threads);
  }
  ~Run() { daug::bench::report_bytes(state_, bytes_); }

 private:
  benchmark::State& state_;
  std::int64_t bytes_;
};

void copy(benchmark::State& state) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(daug::bench::copy_rate());
  state.counters["bytes_per_second"] = daug::bench::copy_rate();
}
BENCHMARK(copy)->Arg(1)->Arg(2)->Iterations(1);

/// a = b + 3 c over 3 x 128 MB.
void triad(benchmark::State& state) {
  constexpr std::int64_t kFloats = 32 << 20;
  const at::Tensor b = at::ones({kFloats}), c = at::ones({kFloats}), a = at::zeros({kFloats});
  Run run(state, static_cast<int>(state.range(0)), 3 * static_cast<std::int64_t>(sizeof(float)) * kFloats);
  for (auto _ : state) {
    daug::backend::torch_threads()(kFloats, 1, [&](std::int64_t begin, std::int64_t end) {
      float* out = a.data_ptr<float>();
      const float *left = b.data_ptr<float>(), *right = c.data_ptr<float>();
      for (std::int64_t i = begin; i < end; ++i) out[i] = left[i] + 3 * right[i];
    });
    benchmark::ClobberMemory();
  }
}
BENCHMARK(triad)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

/// A 3 x 3 convolution, channels last, of as many channels as it has outputs: of U-64, U-128 and U-256.
void conv3x3(benchmark::State& state, bool fused) {
  const std::int64_t batch = state.range(1), channels = state.range(2), side = state.range(3);
  const auto last = at::MemoryFormat::ChannelsLast;
  const at::Tensor x = at::randn({batch, channels, side, side}).contiguous(last), bias = at::randn({channels});
  const at::Tensor filters = at::randn({channels, channels, 3, 3}).contiguous(last);
  const c10::InferenceMode inference;
  const auto prepared = std::make_shared<daug::backend::WinogradFilters>();
  Run run(state, static_cast<int>(state.range(0)), 2 * static_cast<std::int64_t>(x.nbytes()));
  for (auto _ : state)
    benchmark::DoNotOptimize(fused ? daug::backend::conv3x3(x, filters, bias, prepared)
                                   : at::conv2d(x, filters, bias, 1, 1));
}
void conv_shapes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t threads : {1, 2})
    for (const auto& [batch, channels, side] : std::vector<std::array<std::int64_t, 3>>{
             {1, 64, 64}, {8, 64, 64}, {1, 128, 32}, {8, 128, 32}, {1, 256, 8}, {8, 256, 8}, {1, 128, 256}})
      benchmark->Args({threads, batch, channels, side});
  benchmark->ArgNames({"threads", "batch", "channels", "side"})->Unit(benchmark::kMicrosecond)->UseRealTime();
}
BENCHMARK_CAPTURE(conv3x3, channels_last_operators, false)->Apply(conv_shapes);
BENCHMARK_CAPTURE(conv3x3, channels_last_fused, true)->Apply(conv_shapes);

/// The same with its gradients to input, filters and bias, of filters that an optimizer has just changed.
void conv3x3_training(benchmark::State& state, bool fused, at::MemoryFormat layout) {
  const std::int64_t batch = state.range(1), channels = state.range(2), side = state.range(3);
  const at::Tensor x = at::randn({batch, channels, side, side}).contiguous(layout).requires_grad_();
  const at::Tensor bias = at::randn({channels}).requires_grad_(), gradient = at::randn_like(x.detach());
  const at::Tensor filters = at::randn({channels, channels, 3, 3}).requires_grad_();
  const auto prepared = std::make_shared<daug::backend::WinogradFilters>();
  Run run(state, static_cast<int>(state.range(0)), 6 * static_cast<std::int64_t>(x.nbytes()));
  for (auto _ : state) {
    filters.data_ptr<float>()[0] += 1;
    const at::Tensor y =
        fused ? daug::backend::conv3x3(x, filters, bias, prepared) : at::conv2d(x, filters, bias, 1, 1);
    benchmark::DoNotOptimize(torch::autograd::grad({y}, {x, filters, bias}, {gradient}));
  }
}
BENCHMARK_CAPTURE(conv3x3_training, nchw_operators, false, at::MemoryFormat::Contiguous)->Apply(conv_shapes);
BENCHMARK_CAPTURE(conv3x3_training, channels_last_operators, false, at::MemoryFormat::ChannelsLast)->Apply(conv_shapes);
BENCHMARK_CAPTURE(conv3x3_training, channels_last_fused, true, at::MemoryFormat::ChannelsLast)->Apply(conv_shapes);

/// Group norm of 32 groups with SiLU behind it: the features of U-64 (64 x 64 pixels, 64 channels), U-128 and U-256.
void group_norm_silu(benchmark::State& state, Execution execution, bool channels_last, bool modulated) {
  c10::InferenceMode inference;
  const std::int64_t batch = state.range(1), channels = state.range(2), side = state.range(3);
  const at::Tensor x = at::randn({batch, channels, side, side})
                           .contiguous(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  const at::Tensor weight = at::randn({channels}), bias = at::randn({channels});
  daug::backend::GroupNormExtras extras;
  if (modulated) {
    const auto parts = at::randn({batch, 2 * channels, 1, 1}).chunk(2, 1);
    extras.scale = parts[0], extras.shift = parts[1];
  }
  Run run(state, static_cast<int>(state.range(0)), 2 * static_cast<std::int64_t>(x.nbytes()));
  for (auto _ : state)
    benchmark::DoNotOptimize(daug::backend::group_norm_silu(x, 32, weight, bias, 1e-5, extras, execution));
}
void group_norm_shapes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t threads : {1, 2})
    for (const auto& [batch, channels, side] :
         std::vector<std::array<std::int64_t, 3>>{{1, 64, 64}, {8, 64, 64}, {8, 256, 16}, {8, 64, 128}, {1, 128, 256}})
      benchmark->Args({threads, batch, channels, side});
  benchmark->ArgNames({"threads", "batch", "channels", "side"})->Unit(benchmark::kMicrosecond)->UseRealTime();
}
BENCHMARK_CAPTURE(group_norm_silu, nchw_fused, Execution::kFused, false, false)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu, nchw_operators, Execution::kReference, false, false)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu, channels_last_fused, Execution::kFused, true, false)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu, channels_last_operators, Execution::kReference, true, false)
    ->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu, channels_last_scale_shift_fused, Execution::kFused, true, true)
    ->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu, channels_last_scale_shift_operators, Execution::kReference, true, true)
    ->Apply(group_norm_shapes);

/// The same where the input's memory may be written over: no page is touched for the first time.
void group_norm_silu_in_place(benchmark::State& state, bool fused, bool channels_last) {
  c10::InferenceMode inference;
  const std::int64_t channels = state.range(2), side = state.range(3);
  const at::Tensor x = at::randn({state.range(1), channels, side, side})
                           .contiguous(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  const at::Tensor weight = at::ones({channels}), bias = at::zeros({channels});
  daug::backend::GroupNormExtras extras;
  extras.in_place = true;
  Run run(state, static_cast<int>(state.range(0)), 2 * static_cast<std::int64_t>(x.nbytes()));
  for (auto _ : state) {
    if (fused) {
      benchmark::DoNotOptimize(daug::backend::group_norm_silu(x, 32, weight, bias, 1e-5, extras, Execution::kFused));
    } else {
      at::Tensor y = at::group_norm(x, 32, weight, bias, 1e-5);
      benchmark::DoNotOptimize(at::silu_(y));
    }
  }
}
BENCHMARK_CAPTURE(group_norm_silu_in_place, nchw_fused, true, false)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu_in_place, nchw_operators, false, false)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu_in_place, channels_last_fused, true, true)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu_in_place, channels_last_operators, false, true)->Apply(group_norm_shapes);

/// The same with scale and shift forward and backward, as in a training step. Read or written once: x and y; then x,
/// the gradients of y and of x.
void group_norm_silu_gradient(benchmark::State& state, Execution execution, bool channels_last) {
  const std::int64_t batch = state.range(1), channels = state.range(2), side = state.range(3);
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const at::Tensor x = at::randn({batch, channels, side, side}).contiguous(format).requires_grad_(true);
  const at::Tensor weight = at::ones({channels}).requires_grad_(true),
                   bias = at::zeros({channels}).requires_grad_(true);
  const at::Tensor modulation = at::randn({batch, 2 * channels}).requires_grad_(true);
  const at::Tensor upstream = at::randn({batch, channels, side, side}).contiguous(format);
  Run run(state, static_cast<int>(state.range(0)), 5 * static_cast<std::int64_t>(x.nbytes()));
  for (auto _ : state) {
    const auto parts = modulation.chunk(2, 1);
    daug::backend::GroupNormExtras extras;
    extras.scale = parts[0], extras.shift = parts[1];
    const at::Tensor y = daug::backend::group_norm_silu(x, 32, weight, bias, 1e-5, extras, execution);
    benchmark::DoNotOptimize(torch::autograd::grad({y}, {x, weight, bias, modulation}, {upstream}));
  }
}
BENCHMARK_CAPTURE(group_norm_silu_gradient, nchw_fused, Execution::kFused, false)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu_gradient, nchw_operators, Execution::kReference, false)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu_gradient, channels_last_fused, Execution::kFused, true)->Apply(group_norm_shapes);
BENCHMARK_CAPTURE(group_norm_silu_gradient, channels_last_operators, Execution::kReference, true)
    ->Apply(group_norm_shapes);

/// The one pass that a decode step of DDIM makes after the network (`clip`: with the clean image held as well, which
/// translations do not do): contrast guidance (`gradients`: and a classifier's gradient) of strengths that differ by
/// lane.
void solver_update(benchmark::State& state, Execution execution, bool gradients, bool clip) {
  c10::InferenceMode inference;
  const auto image = [] { return at::randn({8, 1, 256, 256}); };
  const at::Tensor x = image();
  daug::GuidedNoise noise = image();
  noise.second = image(), noise.weight = 2, noise.strength = at::rand({8, 1, 1, 1});
  if (gradients) noise.gradient = image(), noise.gradient_weight = 0.5;
  daug::backend::SolverStep step{1.01, -0.05};
  step.clip = clip, step.signal = 0.8, step.deviation = 0.6;
  Run run(state, static_cast<int>(state.range(0)), (gradients ? 5 : 4) * static_cast<std::int64_t>(x.nbytes()));
  for (auto _ : state) benchmark::DoNotOptimize(daug::backend::solver_update(x, noise, step, execution));
}
void both_threads(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("threads")->Arg(1)->Arg(2)->Unit(benchmark::kMicrosecond)->UseRealTime();
}
BENCHMARK_CAPTURE(solver_update, contrast_fused, Execution::kFused, false, false)->Apply(both_threads);
BENCHMARK_CAPTURE(solver_update, contrast_operators, Execution::kReference, false, false)->Apply(both_threads);
BENCHMARK_CAPTURE(solver_update, contrast_and_classifier_fused, Execution::kFused, true, false)->Apply(both_threads);
BENCHMARK_CAPTURE(solver_update, contrast_and_classifier_operators, Execution::kReference, true, false)
    ->Apply(both_threads);
BENCHMARK_CAPTURE(solver_update, contrast_clipped_fused, Execution::kFused, false, true)->Apply(both_threads);
BENCHMARK_CAPTURE(solver_update, contrast_clipped_operators, Execution::kReference, false, true)->Apply(both_threads);

/// 13 maps of 8 images, 256 -> 224: difference, blur of sigma 1, one scale, antialiased resizing; by the kernel, or by
/// LibTorch's operators all in float32.
void encoder_maps(benchmark::State& state, bool fused, daug::MapNormalization normalization) {
  c10::InferenceMode inference;
  const at::Tensor x = at::randn({8, 1, 256, 256}), images = at::randn({8, 13, 1, 256, 256});
  daug::EncoderMapOptions options;
  options.sigma = 1, options.height = options.width = 224;
  options.normalization = normalization, options.execution = Execution::kFused;
  const std::int64_t out = 8 * 13 * 224 * 224 * static_cast<std::int64_t>(sizeof(float));
  Run run(state, static_cast<int>(state.range(0)), static_cast<std::int64_t>(x.nbytes() + images.nbytes()) + out);
  const bool scaled = normalization == daug::MapNormalization::kReference;
  for (auto _ : state) {
    if (fused) {
      benchmark::DoNotOptimize(daug::encoder_maps(x, images, options));
    } else {
      const at::Tensor change = scaled ? daug::difference_map(daug::image_scaled(x), daug::image_scaled(images))
                                       : daug::difference_map(x, images);
      const at::Tensor maps = daug::min_max_scaled(daug::smoothed(change, options.sigma));
      benchmark::DoNotOptimize(at::_upsample_bilinear2d_aa(maps, {options.height, options.width}, false));
    }
  }
}
BENCHMARK_CAPTURE(encoder_maps, min_max_fused, true, daug::MapNormalization::kMinMax)->Apply(both_threads);
BENCHMARK_CAPTURE(encoder_maps, min_max_operators, false, daug::MapNormalization::kMinMax)->Apply(both_threads);
BENCHMARK_CAPTURE(encoder_maps, reference_fused, true, daug::MapNormalization::kReference)->Apply(both_threads);
BENCHMARK_CAPTURE(encoder_maps, reference_operators, false, daug::MapNormalization::kReference)->Apply(both_threads);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
