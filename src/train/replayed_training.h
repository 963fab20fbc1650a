#pragma once
// Trainings whose steps are captured and replayed by the graphs that they are given.

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "backend/graph_cache.h"
#include "daug/train/denoiser_trainer.h"

namespace daug::detail {

/// Makes the graphs of a replica, for the tensors that they read or write: its parameters and their gradients. Null:
/// none. Called once a worker, on its thread.
using MakeGraphs = std::function<std::unique_ptr<backend::GraphCache>(std::vector<at::Tensor>)>;

/// train_denoiser with these graphs, whatever options.graphs says. They are asked for where a step can be replayed: a
/// squared error, no dropout.
DenoiserUNet train_replayed_denoiser(const at::Tensor& images, const at::Tensor& states, const NoiseSchedule& schedule,
                                     const DenoiserTrainerOptions& options, const RunControl& control,
                                     TrainingHistory* history, const MakeGraphs& make_graphs);

}  // namespace daug::detail
