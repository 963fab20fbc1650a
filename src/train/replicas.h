#pragma once
// Training of a network as identical replicas, one a worker.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "autocast.h"
#include "daug/core/error.h"
#include "daug/core/execution.h"
#include "daug/train/trainer.h"

namespace daug {

/// Refuses a batch that does not divide among the workers, and several workers that would take turns on one device.
inline void require_shares(std::int64_t batch_size, std::int64_t workers, const c10::Device& device,
                           const char* options) {
  require_range(workers, 1, 256, options, "workers");
  require_range(batch_size, workers, 1 << 20, options, "batch_size");
  require(batch_size % workers == 0, options, "batch_size", detail::concat("a multiple of ", workers, " workers"),
          batch_size);
  require(workers == 1 || device.is_cpu(), options, "workers", detail::concat("1 on ", device), workers);
}

/// Refuses graphs that are insisted on for a training that has none `with` this.
inline void require_replayable(Execution graphs, bool replayable, const char* options, const char* with) {
  require(graphs != Execution::kFused || replayable, options, "graphs",
          detail::concat("kAuto or kReference with ", with), "kFused");
}

/// What a mean over `count` of the `share` items of a worker is worth in its mean over all of them.
inline double part_of(std::int64_t count, std::int64_t share) {
  return static_cast<double>(count) / static_cast<double>(share);
}

/// What forward() computes of a network in the precision of these options, as float32, in which losses are computed.
template <class Options, class Forward>
at::Tensor in_precision(const Options& options, const Forward& forward) {
  const Autocast autocast(options.precision, options.device);
  return forward().to(at::kFloat);
}

/// Adds the gradient of a loss to those of the parameters that it was computed with. Returns its value.
inline at::Tensor with_gradient(const at::Tensor& loss) {
  loss.backward();
  return loss.detach();
}

/// Builds `workers` identical replicas on a device and trains them; returns the first, with averaged weights when there
/// are any. `share_of(replica, worker, step)` draws a worker's share of a step, `share` items, and returns a function
/// `(begin, count)` that gives what these items of it, which are asked for in order, add to its loss, and adds their
/// gradient to the replica's. It is called when parameters and gradients lie where they stay.
template <class Network, class Options, class ShareOf>
Network train_replicas(const Options& network_options, std::int64_t share, std::int64_t workers,
                       const c10::Device& device, const TrainerOptions& optimizer, std::uint64_t seed,
                       const RunControl& control, TrainingHistory* history, std::shared_ptr<TrainingState> extra,
                       const ShareOf& share_of) {
  std::vector<Network> replicas;
  std::vector<std::shared_ptr<torch::nn::Module>> modules;
  for (std::int64_t i = 0; i < workers; ++i) {
    at::manual_seed(seed);
    replicas.emplace_back(network_options);
    replicas.back()->to(device);
    modules.push_back(replicas.back().ptr());
  }
  Trainer trainer(modules, optimizer, std::move(extra));
  const auto gradients = [&](std::size_t worker, std::int64_t step, std::int64_t most) {
    auto part = share_of(replicas[worker], worker, step);
    at::Tensor sum;
    for (std::int64_t begin = 0; begin < share; begin += most) {
      const at::Tensor loss = part(begin, std::min(most, share - begin));
      sum = sum.defined() ? sum + loss : loss;
    }
    return sum;
  };
  const TrainingHistory result = trainer.run_in_parts(gradients, share, control);
  replicas[0]->seed_dropout(seed);  // no longer of a share's items
  trainer.use_averaged_weights();
  if (history) *history = result;
  replicas[0]->eval();
  for (auto& parameter : replicas[0]->parameters()) parameter.set_requires_grad(false);
  return replicas[0];
}

}  // namespace daug
