// Which kernels of devices are chosen by themselves, as LibTorch's profiler sees it: those with a row in
// src/kernels/cuda/device_runs.csv. And that they run on the stream that is current.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backend/adamw.h"
#include "backend/device_kernels.h"
#include "backend/fused_ops.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/image/tensor_resize.h"
#include "daug/index/device_search.h"
#include "index/brute_force.h"
#include "loss/tile_math.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/device_calls.h"
#include "support/other_stream.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// What a device does with kernels of ours, on request or where all of these have rows.
struct GatedWork {
  std::vector<const char*> kernels;
  std::function<at::Tensor(const at::Tensor& x, Execution)> work;  ///< of x [2, 16, 8, 8]
};

at::Tensor silu_of_norm(const at::Tensor& x, Execution execution) {
  return backend::group_norm_silu(x, 8, {}, {}, 1e-5, {}, execution);
}

/// What a norm in half the size makes, added up.
at::Tensor halved_by_norm(const at::Tensor& x, Execution execution) {
  const auto [normed, input] =
      backend::group_norm_silu_resized(x, 8, {}, {}, 1e-5, backend::SizeChange::kHalved, execution);
  return normed + input;
}

/// Images and maps, both x, moved together.
at::Tensor moved_with_maps(const at::Tensor& x, Execution execution) {
  ChannelAugmenterOptions options;
  options.max_rotation = 20;
  at::Tensor image = x, maps = x;
  HeatmapChannelAugmenter(options).augment(image, maps, {3, 4}, 5, execution);
  return at::cat({image, maps}, 1);
}

/// Weights of 1 after one step of AdamW with this gradient.
at::Tensor weights_after_step(const at::Tensor& gradient, Execution execution) {
  const at::NoGradGuard no_grad;
  backend::AdamwGroup group;
  group.gradient = gradient.clone();
  for (at::Tensor* tensor : {&group.weights, &group.first_moment, &group.second_moment})
    *tensor = at::ones_like(gradient);
  group.steps = at::zeros({}, gradient.options());
  group.rate = 0.1;
  backend::adamw({group}, {}, execution);
  return group.weights;
}

std::vector<GatedWork> gated_works(const at::Device& device) {
  RandomStream random(5, 0, "chosen kernels");
  RetrievalIndex index(16, Metric::kL2);
  index.add(shuffled_ids(random, 40), random_rows(random, Kind::kGaussian, 40, 16));
  const RowMatrix queries = random_rows(random, Kind::kGaussian, 2, 16);
  std::map<Execution, DeviceSearch> searches;
  for (const Execution execution : {Execution::kAuto, Execution::kFused, Execution::kReference}) {
    DeviceSearchOptions options;
    options.execution = execution;
    searches.emplace(execution, DeviceSearch(index, device, options));
  }
  return {
      {{"adamw"}, weights_after_step},
      {{"augment_images"}, moved_with_maps},
      {{"group_norm_silu"}, silu_of_norm},
      {{"group_norm_silu"}, halved_by_norm},
      {{"group_norm_silu", "group_norm_silu_gradient"},
       [](const at::Tensor& x, Execution execution) {
         const at::Tensor leaf = x.clone().requires_grad_(true);
         return torch::autograd::grad({silu_of_norm(leaf, execution)}, {leaf}, {x})[0];
       }},
      {{"map_postprocess"},
       [](const at::Tensor& x, Execution execution) {
         EncoderMapOptions options;
         options.sigma = 1, options.execution = execution;
         return encoder_maps(x, options);
       }},
      {{"residual_add"},
       [](const at::Tensor& x, Execution execution) { return backend::residual_add(x, x, {}, false, execution); }},
      {{"residual_add"},
       [](const at::Tensor& x, Execution execution) {
         return backend::residual_add_doubled(x, x, {}, false, execution);
       }},
      {{"resize_images"}, [](const at::Tensor& x, Execution execution) { return resized(x, 5, 6, true, execution); }},
      {{"search_select"},
       [searches, queries](const at::Tensor&, Execution execution) {
         std::vector<std::int64_t> ids;
         for (const Hits& hits : searches.at(execution).search(queries, 3))
           for (const Hit& hit : hits) ids.push_back(hit.id);
         return at::tensor(ids);
       }},
      {{"solver_update"}, [](const at::Tensor& x, Execution execution) {
         return backend::solver_update(x, {x}, {0.9, 0.3}, execution);
       }}};
}

}  // namespace

TEST_CASE("kernels of a device are chosen by themselves if they have a row, and not without", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const at::Tensor x = float_tensor({2, 16, 8, 8}, 1).to(device);
  for (const GatedWork& gated : gated_works(device)) {
    INFO(gated.kernels.back());
    const auto launched = [&](Execution execution) {
      const DeviceCalls calls = profiled([&] {
        (void)gated.work(x, execution);
        (void)x.sum().item<float>();  // all is done before the profiler stops
      });
      return calls.of_ours > 0;
    };
    CHECK(launched(Execution::kFused));
    CHECK_FALSE(launched(Execution::kReference));
    CHECK(launched(Execution::kAuto) ==
          std::all_of(gated.kernels.begin(), gated.kernels.end(), backend::ran_on_a_device));
  }

  // Tiles of the loss are of one kind or the other.
  const at::Tensor rows = float_tensor({600, 8}, 2).to(device);
  const auto tiles = [&](Execution execution) { return &daug::detail::tile_math(rows, execution); };
  CHECK(tiles(Execution::kFused) != tiles(Execution::kReference));
  CHECK(tiles(Execution::kAuto) ==
        tiles(backend::ran_on_a_device("contrastive_tile") ? Execution::kFused : Execution::kReference));
}

TEST_CASE("device kernels run on the stream that is current", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const at::Tensor x = float_tensor({2, 16, 8, 8}, 1).to(device);
  CHECK(on_another_stream([&] { return backend::stream_of(x).stream; }) != backend::stream_of(x).stream);
  for (const GatedWork& gated : gated_works(device)) {
    INFO(gated.kernels.back());
    const at::Tensor expected = gated.work(x, Execution::kFused);
    CHECK_FALSE(at::equal(expected, at::zeros_like(expected)));
    CHECK(at::equal(on_another_stream([&] { return gated.work(made_late(x), Execution::kFused); }), expected));
  }
}
