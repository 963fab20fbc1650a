#include "replayed_training.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <utility>

#include "backend/backward_here.h"

namespace daug::detail {

MakeGraphs cuda_graphs_of_trainings(Execution graphs, const char* function) {
  return [graphs, function](std::vector<at::Tensor> read) {
    return backend::make_graph_cache(graphs, std::move(read), function, "training_graph");
  };
}

ReplayedShares::ReplayedShares(const torch::nn::Module& replica, const MakeGraphs& make_graphs) {
  std::vector<at::Tensor> read;
  for (const at::Tensor& parameter : replica.parameters()) {
    read.push_back(parameter);
    if (parameter.grad().defined()) gradients_.push_back(parameter.grad());
  }
  read.insert(read.end(), gradients_.begin(), gradients_.end());  // graphs add to them where they lie
  graphs_ = make_graphs(std::move(read));
}

void ReplayedShares::begin(std::int64_t step) {
  if (std::exchange(latest_, step) == step) graphs_.reset();
}

at::Tensor ReplayedShares::told(const std::vector<at::Tensor>& inputs, const Pass& pass) {
  const at::NoGradGuard no_grad;
  // Nothing of the way back may outlive a call: LibTorch runs a parameter's node on the stream that was current when it
  // made it, and makes it anew only when the last one is gone.
  return graphs_->call(inputs, [this, pass](const std::vector<at::Tensor>& given) {
    const backend::BackwardHere here;
    at::_foreach_zero_(gradients_);
    const at::AutoGradMode gradients_on(true);
    const Passed passed = pass(given);
    passed.loss.backward();
    return passed.told.detach();
  });
}

}  // namespace daug::detail
