// Which kernels of devices are chosen by themselves, as LibTorch's profiler sees it: those with a row in
// src/kernels/cuda/device_runs.csv.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "backend/adamw.h"
#include "backend/device_kernels.h"
#include "backend/fused_ops.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/image/tensor_resize.h"
#include "daug/index/device_search.h"
#include "index/brute_force.h"
#include "loss/tile_math.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/device_calls.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// What a device does with kernels of ours where all of these have rows, or on request.
struct GatedWork {
  std::vector<const char*> kernels;
  std::function<void(Execution)> work;
};

/// One step of AdamW for nine weights.
void step_of_adamw(const at::TensorOptions& there, Execution execution) {
  const at::NoGradGuard no_grad;
  backend::AdamwGroup group;
  for (at::Tensor* tensor : {&group.weights, &group.gradient, &group.first_moment, &group.second_moment})
    *tensor = at::ones({9}, there);
  group.steps = at::zeros({}, there);
  group.rate = 0.1;
  backend::adamw({group}, {}, execution);
}

}  // namespace

TEST_CASE("kernels of a device are chosen by themselves if they have a row, and not without", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const at::Tensor x = float_tensor({2, 16, 8, 8}, 1).to(device);
  const auto normed = [](const at::Tensor& images, Execution execution) {
    return backend::group_norm_silu(images, 8, {}, {}, 1e-5, {}, execution);
  };
  RandomStream random(5, 0, "chosen kernels");
  RetrievalIndex index(16, Metric::kL2);
  index.add(shuffled_ids(random, 40), random_rows(random, Kind::kGaussian, 40, 16));
  const RowMatrix queries = random_rows(random, Kind::kGaussian, 2, 16);
  const std::vector<GatedWork> works = {
      {{"adamw"}, [&](Execution execution) { step_of_adamw(x.options(), execution); }},
      {{"group_norm_silu"}, [&](Execution execution) { normed(x, execution); }},
      {{"group_norm_silu", "group_norm_silu_gradient"},
       [&](Execution execution) {
         const at::Tensor leaf = x.clone().requires_grad_(true);
         torch::autograd::grad({normed(leaf, execution)}, {leaf}, {x});
       }},
      {{"map_postprocess"},
       [&](Execution execution) {
         EncoderMapOptions options;
         options.sigma = 1, options.execution = execution;
         encoder_maps(x, options);
       }},
      {{"residual_add"}, [&](Execution execution) { backend::residual_add(x, x, {}, false, execution); }},
      {{"resize_images"}, [&](Execution execution) { resized(x, 5, 6, true, execution); }},
      {{"search_select"},
       [&](Execution execution) {
         DeviceSearchOptions options;
         options.execution = execution;
         DeviceSearch(index, device, options).search(queries, 3);
       }},
      {{"solver_update"}, [&](Execution execution) {
         backend::solver_update(x, {x}, {0.9, 0.3}, execution);
       }}};
  for (const auto& [names, work] : works) {
    INFO(names.back());
    const auto launched = [&, &asked = work](Execution execution) {
      const DeviceCalls calls = profiled([&] {
        asked(execution);
        (void)x.sum().item<float>();  // all is done before the profiler stops
      });
      return calls.of_ours > 0;
    };
    CHECK(launched(Execution::kFused));
    CHECK_FALSE(launched(Execution::kReference));
    CHECK(launched(Execution::kAuto) == std::all_of(names.begin(), names.end(), backend::ran_on_a_device));
  }

  // Tiles of the loss are of one kind or the other.
  const at::Tensor rows = float_tensor({600, 8}, 2).to(device);
  const auto tiles = [&](Execution execution) { return &daug::detail::tile_math(rows, execution); };
  CHECK(tiles(Execution::kFused) != tiles(Execution::kReference));
  CHECK(tiles(Execution::kAuto) ==
        tiles(backend::ran_on_a_device("contrastive_tile") ? Execution::kFused : Execution::kReference));
}
